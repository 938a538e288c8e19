"""What an explanation says of real scenarios holds when it is tried."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.explain.balance import AfdBalance, EpBalance, Shape, balance, bounded, present
from sim.explain.explanation import Explanation, explain_scenario, sentences
from sim.explain.sensitivity import CardPart, card_sensitivities, faster
from sim.foundation.errors import InfeasibleError
from sim.foundation.units import NS_PER_MS
from sim.inputs import scenario
from sim.inputs.scenario import Scenario
from sim.metrics.steady_summary import steady_figures
from sim.metrics.summary import summary
from sim.pictures.explain_page import marked_tasks
from sim.steady.state import SteadyState
from tests import tiny

SCENARIOS = ("step3-2a2f", "step3-h20-h800", "dsv3-ep128", "poisson-example")
HALF_DUPLEX = ("deployment.duplex=half", "deployment.attention.o_proj_tp=4")


@pytest.fixture(scope="module", params=SCENARIOS)
def state(request: pytest.FixtureRequest) -> SteadyState:
    name: str = request.param
    return SteadyState.of(scenario.load(name))


@pytest.fixture(scope="module")
def found() -> dict[str, Explanation]:
    return {name: explain_scenario(scenario.load(name)) for name in SCENARIOS}


def by_key(shapes: tuple[Shape, ...]) -> dict[tuple[str, int], Shape]:
    return {(shape.shape, shape.micro_batches): shape for shape in shapes}


@pytest.mark.parametrize("name", SCENARIOS)
def test_everything_said_is_finite_and_repeatable(found: dict[str, Explanation], name: str) -> None:
    again = explain_scenario(scenario.load(name)).as_dict()
    assert found[name].as_dict() == again
    json.dumps(again, allow_nan=False)
    assert all(sentence.endswith(".") for sentence in sentences(found[name]))


@pytest.mark.parametrize("name", SCENARIOS)
def test_time_on_the_circuit_is_where_longer_tasks_count(
    found: dict[str, Explanation], name: str
) -> None:
    assert sum(leg.share for leg in found[name].circuit.legs) == pytest.approx(1)
    for stage in found[name].stages:
        # A longer task on the circuit makes the step longer by as much at least.
        tenth = 0.1 * stage.circuit_share
        assert stage.sensitivity.larger.tpot >= tenth - 1e-5
        assert stage.sensitivity.smaller.tpot >= -tenth - 1e-5
        if stage.circuit_share:
            assert stage.slack_us == 0
        assert stage.sensitivity.smaller.tpot <= 0


@pytest.mark.parametrize("name", ["step3-2a2f", "step3-h20-h800", "dsv3-ep128"])
def test_the_steady_state_is_near_what_a_run_finds(name: str) -> None:
    state = SteadyState.of(scenario.load(name))
    run = summary(simulate(state.deployment.scenario))
    figures = steady_figures(state)
    assert figures.tpot_ms == pytest.approx(run["tpot_ms_mean"], rel=0.015)
    assert figures.tgs == pytest.approx(run["tgs"], rel=0.015)
    assert figures.usd_per_1m_tokens == pytest.approx(run["usd_per_1m_tokens"], rel=0.015)
    assert state.requests == pytest.approx(run["requests_in_flight"])


def test_the_same_cards_give_the_same_times(state: SteadyState) -> None:
    site = state.deployment
    same = site.on_cards(lambda card: card, tuple(site.sides)).times(state.batch)
    assert (same.values == state.times[0].values).all()
    assert (site.times(state.batch).values == state.times[0].values).all()


def test_faster_cards_never_slow_a_kernel_down(state: SteadyState) -> None:
    site = state.deployment
    for part in ("compute", "hbm", "scale_up", "nic"):
        other = site.on_cards(lambda card: faster(card, part, 1.1), tuple(site.sides))  # noqa: B023
        assert (other.times(state.batch).values <= state.times[0].values).all(), part
    assert all(card.larger.tpot <= 0 <= card.smaller.tpot for card in card_sensitivities(state))


@pytest.mark.parametrize(
    ("base", "part", "link"),
    [("step3-2a2f", "nic", "nic"), ("dsv3-afd-gb200", "scale_up", "nvlink")],
)
def test_transfers_of_afd_take_their_bytes_over_the_links_bandwidth(
    base: str, part: CardPart, link: str
) -> None:
    state = SteadyState.of(scenario.load(base))
    program = state.program
    other = state.deployment.on_cards(lambda card: faster(card, part, 1.25), ("attention", "FFN"))
    times = other.times(state.batch)
    for stage in program.stages:
        for kind in range(2):
            before = program.row(state.times[0], stage.name, kind)
            after = program.row(times, stage.name, kind)
            transfer = program.pools[stage.pool].kind == link
            assert np.abs(after - before / (1.25 if transfer else 1)).max() <= 1


def test_a_link_that_carries_transfers_changes_at_both_ends() -> None:
    titles = {
        base: [card.of for card in card_sensitivities(SteadyState.of(scenario.load(base)))]
        for base in ("step3-2a2f", "dsv3-afd-gb200")
    }
    assert titles["step3-2a2f"][-3:] == [
        *("scale-up bandwidth of attention GPUs", "scale-up bandwidth of FFN GPUs"),
        "NIC bandwidth",
    ]
    assert titles["dsv3-afd-gb200"][-2:] == ["scale-up bandwidth", "NIC bandwidth"]


def test_a_gather_on_the_link_of_the_transfers_stands_on_its_server() -> None:
    trays = ["deployment.ffn.gpus_per_instance=4", "deployment.ffn.instances=8"]
    batch = "workload.arrivals.requests_per_gpu=64"
    state = SteadyState.of(scenario.load("dsv3-afd-gb200", [*trays, batch]))
    program = state.program
    work = {pool.name: state.work_of(i).max() for i, pool in enumerate(program.pools)}
    ns = {stage.name: 0 for stage in program.stages}
    for node in program.nodes:
        if node.micro_batch == 0:
            values = state.times[0].values[slice(*program.slot_bounds[node.slot])]
            ns[program.stages[node.stage].name] += int(values.max())
    assert work["ffn.nvlink_in"] == ns["a2f_in"] + ns["all_gather"]
    assert work["ffn.nvlink_out"] == ns["reduce_scatter"] + ns["f2a"]
    titles = [card.of for card in card_sensitivities(state)]
    assert titles[-2:] == ["scale-up bandwidth", "NIC bandwidth"]


@pytest.mark.parametrize("side", ["attention", "FFN"])
def test_a_card_changes_on_its_own_side_only(side: str) -> None:
    state = SteadyState.of(scenario.load("step3-2a2f", HALF_DUPLEX))
    program = state.program
    other = state.deployment.on_cards(lambda card: faster(card, "hbm", 1.25), (side,))
    times = other.times(state.batch)
    moved = {
        stage.name
        for stage in program.stages
        for kind in range(max(program.layer_kinds) + 1)
        if (
            program.row(times, stage.name, kind) != program.row(state.times[0], stage.name, kind)
        ).any()
    }
    own = {"attention": {"attention", "o_proj", "lm_head"}, "FFN": {"experts"}}
    assert moved == own[side]


def test_a_variant_is_what_its_own_explanation_says(found: dict[str, Explanation]) -> None:
    for count, shape in zip((2, 4), found["step3-2a2f"].micro_batches, strict=True):
        settings = (f"deployment.micro_batches={count}",)
        assert shape == present(SteadyState.of(scenario.load("step3-2a2f", settings)))
    (alone,) = found["dsv3-ep128"].micro_batches
    in_sequence = scenario.load("dsv3-ep128", ("deployment.overlap=none",))
    assert alone == present(SteadyState.of(in_sequence))


def test_around_the_ratio_attention_and_ffn_change_places() -> None:
    for name in ("step3-2a2f", "step3-h20-h800"):
        # Glue wants so many attention GPUs that each holds a few requests, which come whole.
        explained = explain_scenario(scenario.load(name, ["software=ideal"]))
        needs = explained.balance
        assert isinstance(needs, AfdBalance)
        assert needs.ratio is not None
        afd = scenario.load(name).deployment
        assert afd.kind == "afd"
        y, m = afd.ffn.instances, afd.micro_batches
        shapes = by_key(needs.shapes)
        fewer, more = (
            shapes[f"{whole(needs.ratio * y)}A{y}F", m] for whole in (math.floor, math.ceil)
        )
        assert fewer.busy["attention"] >= fewer.busy["ffn"]
        assert more.busy["attention"] <= more.busy["ffn"]
        assert {shape.requests_in_flight for shape in needs.shapes if shape.figures} == {
            explained.frozen.requests_in_flight
        }


def test_with_the_ideal_number_of_micro_batches_the_longest_worker_rests_least() -> None:
    # Between two steps of a micro-batch the host works, and GPUs rest that it would keep.
    without_host = scenario.load("step3-2a2f", ["software.host_gap_us_per_step.value=0"])
    needs = explain_scenario(without_host).balance
    assert isinstance(needs, AfdBalance)
    for shape in needs.shapes:
        if shape.ideal_micro_batches is None:
            continue
        fullest = max(shape.busy.values())
        # As many micro-batches as fill the loop keep the fullest server working.
        filled = shape.micro_batches / shape.ideal_micro_batches
        assert fullest == pytest.approx(min(1, filled), abs=0.05)


def at_load(base: Scenario, per_gpu: int) -> SteadyState:
    arrivals = f"workload.arrivals={{kind: closed, concurrency: {per_gpu * base.gpu_count()}}}"
    return SteadyState.of(scenario.load(base.name, (arrivals,)))


def test_two_batches_hide_the_all_to_all_up_to_the_load_that_is_said(
    found: dict[str, Explanation],
) -> None:
    needs = found["dsv3-ep128"].balance
    assert isinstance(needs, EpBalance)
    assert needs.hides_up_to is not None
    assert needs.hides_up_to < needs.most_requests - 1
    base = scenario.load("dsv3-ep128")
    at, beyond = (balance(at_load(base, needs.hides_up_to + more)) for more in (0, 2))
    assert isinstance(at, EpBalance)
    assert isinstance(beyond, EpBalance)
    step_ms = float(at_load(base, needs.hides_up_to).step_ns) / NS_PER_MS
    assert at.exposed_ms < 1e-3 * step_ms < beyond.exposed_ms
    assert at.hides_up_to == beyond.hides_up_to == needs.hides_up_to
    with pytest.raises(InfeasibleError, match="KV cache"):
        at_load(base, needs.most_requests + 1)
    assert at_load(base, needs.most_requests).step_ns > 0


def test_with_other_ffn_instances_attention_and_ffn_change_places(
    found: dict[str, Explanation],
) -> None:
    needs = found["step3-2a2f"].balance
    assert isinstance(needs, AfdBalance)
    shapes = by_key(needs.shapes)
    now, fewer = shapes["2A2F", 3].busy, shapes["2A1F", 3].busy
    assert now["attention"] > now["ffn"]
    assert fewer["attention"] < fewer["ffn"]


def test_a_shape_that_cannot_run_says_why() -> None:
    refused = bounded(scenario.load("step3-2a2f", ["workload.arrivals.concurrency=99999"]))
    assert (refused.shape, refused.gpus) == ("2A2F", 32)
    assert refused.figures is None
    assert refused.kind is None
    assert "lower the batch" in str(refused.refused)


def test_marked_tasks_are_those_of_the_circuit(state: SteadyState) -> None:
    program = state.program
    marked = marked_tasks(state)
    stages = {stage.name for stage in program.stages}
    assert len(marked) == sum(part.stage in stages for part in state.bound.circuit)
    layers = {program.nodes[node].layer for node, _server in marked}
    assert layers == set(range(len(program.layer_kinds)))


def test_a_card_without_a_price_has_no_costs(tiny_model: Path) -> None:
    cards = ("deployment.ffn.accelerator=h200-sxm", "deployment.attention.accelerator=h800")
    figures = steady_figures(SteadyState.of(tiny.load(tiny_model, "step3-2a2f", *cards)))
    assert figures.usd_per_1m_tokens is None
    assert figures.tgs > 0
