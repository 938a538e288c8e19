"""Explain: what limits a deployment, how much each part matters, and what would balance it.

Everything is computed from the steady state (`sim/steady`): no request is simulated, so it takes
about a second. docs/explain.md says how to read the figures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sim.explain.balance import AfdBalance, EpBalance, Shape, balance, present, with_micro_batches
from sim.explain.bottleneck import LOOP, TAIL, Circuit, critical_circuit
from sim.explain.how_sure import HowSure, how_sure
from sim.explain.sensitivity import (
    KvFormat,
    Sensitivity,
    card_sensitivities,
    kv_sensitivities,
    stage_sensitivities,
)
from sim.foundation.units import NS_PER_US
from sim.inputs.scenario import Scenario
from sim.steady.state import SteadyState


@dataclass(frozen=True)
class ExplainedStage:
    """A stage or a delay in the steady state."""

    stage: str
    server: str | None
    """Its slowest server; None for a delay."""
    time_us: float
    """Time on that server, mean over the layers (the tail's once a step)."""
    busy: float | None
    """Share of the step that the busiest server of its pool works, on whatever stage."""
    slack_us: float | None
    """How much longer each of its tasks may get before the step does; None: nothing depends on
    it."""
    slack: float | None
    """The same over `time_us`; None where either is missing."""
    circuit_share: float
    """Share of the critical circuit's time."""
    sensitivity: Sensitivity


@dataclass(frozen=True)
class Explanation:
    """Why a deployment is as fast as it is."""

    scenario: str
    deployment: str
    model: str
    frozen: Shape
    """The present shape, in its steady state."""
    requests_per_gpu: int
    """Requests of a micro-batch on each attention GPU."""
    context_tokens: int
    """Context of each of them."""
    circuit: Circuit
    kv_formats: tuple[KvFormat, ...]
    """Effects of other formats of the KV cache."""
    stages: tuple[ExplainedStage, ...]
    cards: tuple[Sensitivity, ...]
    """Sensitivities to the speed of parts of the cards."""
    micro_batches: tuple[Shape, ...]
    """The same with one micro-batch less and one more, where the deployment can have it."""
    balance: AfdBalance | EpBalance
    how_sure: HowSure

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def explain_scenario(scenario: Scenario) -> Explanation:
    """Return what limits `scenario`. Raises InfeasibleError if the shape cannot run."""
    return explain_state(SteadyState.of(scenario))


def explain_state(state: SteadyState) -> Explanation:
    scenario = state.deployment.scenario
    m, requests = state.micro_batches, int(state.batch.requests[0])
    circuit = critical_circuit(state)
    others = (with_micro_batches(state, count) for count in (m - 1, m + 1))
    return Explanation(
        scenario=scenario.name,
        deployment=scenario.deployment.kind,
        model=scenario.model,
        frozen=present(state),
        requests_per_gpu=requests,
        context_tokens=int(state.batch.kv_tokens[None][0]) // requests,
        circuit=circuit,
        kv_formats=kv_sensitivities(state),
        stages=tuple(_stages(state, circuit)),
        cards=card_sensitivities(state),
        micro_batches=tuple(other for other in others if other is not None),
        balance=balance(state),
        how_sure=how_sure(scenario, state.requests),
    )


def _stages(state: SteadyState, circuit: Circuit) -> Iterator[ExplainedStage]:
    program, bound = state.program, state.bound
    pools = {stage.name: stage.pool for stage in program.stages}
    delays = dict(zip(program.delays, state.times[0].delays_ns, strict=True))
    rows = state.times[0].rows
    for of in stage_sensitivities(state):
        if of.of in pools:
            pool = pools[of.of]
            nodes = [n for n in program.nodes if program.stages[n.stage].name == of.of]
            by_server = np.mean([rows[node.slot] for node in nodes], axis=0)
            time_ns = float(np.mean([rows[node.slot].max() for node in nodes]))
            server = state.deployment.server_name(pool, int(np.argmax(by_server)))
            busy = state.busy(pool)
        else:
            time_ns, server, busy = float(delays[of.of]), None, None
        slack_ns = bound.slack_ns[of.of]
        yield ExplainedStage(
            stage=of.of,
            server=server,
            time_us=time_ns / NS_PER_US,
            busy=busy,
            slack_us=None if slack_ns is None else float(slack_ns) / NS_PER_US,
            slack=None if slack_ns is None or not time_ns else float(slack_ns) / time_ns,
            circuit_share=sum(leg.share for leg in circuit.legs if leg.stage == of.of),
            sensitivity=of,
        )


def sentences(found: Explanation) -> list[str]:
    state, figures = found.frozen, found.frozen.figures
    assert figures is not None
    word = found.circuit.kind.removesuffix("-bound")
    pool, busy = max(state.busy.items(), key=lambda item: item[1])
    passes = {
        LOOP: "it follows a micro-batch from server to server",
        TAIL: "it is in the LM head and the host gap",
    }.get(word, "it stays on one server, which serves the micro-batches in turn")
    return [
        f"{found.scenario} ({state.shape}, micro-batches: {state.micro_batches}) is "
        f"{found.circuit.kind}: TPOT {figures.tpot_ms:.1f} ms, {figures.tgs:,.0f} tokens/s/GPU "
        f"with {found.requests_per_gpu} requests of {found.context_tokens:,} tokens of context in "
        "a micro-batch on each GPU.",
        f"The critical circuit: {'; then '.join(_legs(found.circuit))}. For "
        f"{_percent(found.circuit.spent.get(word, 0.0))} of its time {passes}. The busiest pool, "
        f"{pool}, works {_percent(busy)} of the step.",
        f"{_lever(found)}.",
        f"{_balanced(found)}.",
        f"{found.how_sure.sentence()}.",
    ]


def _legs(circuit: Circuit) -> Iterator[str]:
    """Yield the legs of a circuit that take at least a hundredth of the step."""
    for leg in circuit.legs:
        if leg.share >= 0.01:
            where = "" if leg.busy is None else f" on {leg.server}, busy {_percent(leg.busy)}"
            yield f"{_percent(leg.share)} {leg.stage}{where}"


def _lever(found: Explanation) -> str:
    stage = min(found.stages, key=lambda stage: stage.sensitivity.smaller.tpot)
    card = min(found.cards, key=lambda card: card.larger.tpot)
    formats = "".join(f"KV in {of.kv} {_change(of.effect.tpot)}, " for of in found.kv_formats)
    return (
        f"What changes TPOT most: {formats}with 10 % less {stage.stage} time "
        f"{_change(stage.sensitivity.smaller.tpot)}, with 10 % more {card.of} "
        f"{_change(card.larger.tpot)}"
    )


def _balanced(found: Explanation) -> str:
    needs, m = found.balance, found.frozen.micro_batches
    if isinstance(needs, EpBalance):
        holds = f"now {found.requests_per_gpu * m}, at most {needs.most_requests}"
        if not needs.all_to_all_ms:
            return "One GPU holds all experts: there is no all-to-all to hide"
        up_to = f"up to {needs.hides_up_to} requests a GPU ({holds})"
        overlap = "at no load" if needs.hides_up_to is None else up_to
        return (
            f"Of {needs.all_to_all_ms:.1f} ms of all-to-all a step "
            f"{_percent(needs.hidden_share)} is hidden; two overlapping micro-batches hide all of "
            f"it {overlap}"
        )
    loop = f"{needs.ideal_micro_batches:.1f} micro-batches would fill the loop (now {m})"
    if needs.ratio is None:
        return f"No ratio makes attention and FFN GPUs work equally long on this batch; {loop}"
    return (
        "Attention and FFN GPUs would work equally long on this batch at "
        f"{needs.ratio:.2f} attention instances to an FFN instance (now {needs.present_ratio:.2f});"
        f" {loop}"
    )


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def _change(relative: float) -> str:
    return f"{relative:+.1%}".replace("%", " %").replace("-", "−")
