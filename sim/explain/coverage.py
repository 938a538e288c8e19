"""Coverage: which kernels of a deployment were measured at a load, before anything runs.

Every operation that a step asks for is looked up as a run does. It is measured (a curve of its own,
inside its range), extrapolated (outside of that range, or on the curve of a relative), or unknown
(the card's default efficiency, or a curve of another number format).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from sim.deployments import DEPLOYMENTS
from sim.deployments.batch import Batch, GpuTokens
from sim.deployments.deployment import Deployment
from sim.explain.usual_scenario import ModelOnCard, usual_scenario
from sim.foundation.errors import ScenarioError
from sim.foundation.units import NS_PER_US
from sim.inputs.model import ModelCard
from sim.inputs.scenario import Scenario, load
from sim.kernels.curve import Curve, work_of
from sim.kernels.kernel_table import KernelTable
from sim.kernels.noting import NotingTable
from sim.kernels.ops import Op

Known = Literal["measured", "extrapolated", "unknown"]
KNOWN: tuple[Known, ...] = ("measured", "extrapolated", "unknown")
"""In the order of `sim.kernels.timed.STATUSES`, whose words these are for people."""

# A coordinate this little beyond the last node, relatively, still is the node.
_SAME = 1 + 1e-6

WORK = "work"
"""Product of the coordinates that make up the work of a launch, as an axis of its own."""


@dataclass(frozen=True)
class CoveredKernel:
    """One kernel of a layer, at the sizes and loads that it is asked for."""

    layer: str
    """Attention and FFN of the layer as the model card names them; LM head."""
    layers: int
    """How often a step goes through such a layer."""
    card: str
    op: str
    kernel: str
    """Kernel that is asked for; empty where one serves all."""
    dtype: str
    """Number format."""
    key: str
    """Part of the shape that selects a curve."""
    shape: dict[str, tuple[float, float]]
    """Smallest and largest value of each coordinate."""
    time_us: float
    """Longest time of a launch."""
    status: Known
    beyond: dict[str, float] = field(default_factory=dict)
    """How many times outside of the measured range, by axis; empty inside."""
    curve: str | None = None
    """Kernel, format and shape of the curve that times it; None without any."""
    points: int | None = None
    """Measurements of that curve."""
    error: float | None = None
    """Its mean absolute error on held-out points, a fraction."""
    source: str = ""

    def identity(self) -> tuple[str, ...]:
        """Return what two layers may have in common."""
        return self.card, self.op, self.kernel, self.dtype, self.key, str(self.shape)

    def name(self) -> str:
        return " ".join(filter(None, (self.op, self.kernel, self.dtype, self.key)))


@dataclass(frozen=True)
class Coverage:
    """What is known of the kernels of a deployment at one load."""

    scenario: str
    model: str
    cards: tuple[str, ...]
    shape: str
    """Deployment in short: EP8, 2A2F."""
    requests_per_gpu: int
    """Requests of a micro-batch on each attention GPU."""
    context_tokens: int
    """Context of each of them."""
    shares: dict[Known, float]
    """Parts of the kernel time of a step."""
    kernels: tuple[CoveredKernel, ...]
    assumed: tuple[str, ...] = ()
    """What was not asked for, and is taken."""
    cautions: tuple[str, ...] = ()
    """What to know before trusting it, a sentence each."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def alike(self) -> list[list[CoveredKernel]]:
        """Return the kernels, each with the layers that run it."""
        found: dict[tuple[str, ...], list[CoveredKernel]] = {}
        for each in self.kernels:
            found.setdefault(each.identity(), []).append(each)
        return list(found.values())

    def sources(self) -> list[tuple[str, str, str]]:
        """Return the curves that time kernels: name, measured points and where these come from."""
        found = (
            (f"{each.op} {each.curve}", str(each.points), each.source)
            for each in self.kernels
            if each.curve is not None
        )
        return list(dict.fromkeys(found))

    def count(self, status: Known) -> int:
        """Return the kernels of a status, one that several kinds of layers run counted once."""
        return sum(kernels[0].status == status for kernels in self.alike())

    def sentence(self) -> str:
        """Return the coverage in one line."""
        measured, total = self.count("measured"), len(self.alike())
        if self.count("unknown") == total:
            where = ", ".join(self.cards)
            return f"none of {total} kernels was measured on {where}: all run at its efficiency"
        parts = [f"{measured} of {total} kernels measured ({self._share('measured')})"]
        for status in KNOWN[1:]:
            if self.count(status):
                ops = {f"{k.op} {k.dtype}": None for k in self.kernels if k.status == status}
                parts.append(
                    f"{self.count(status)} {status} ({self._share(status)}): {', '.join(ops)}"
                )
        return "; ".join(parts)

    def _share(self, status: Known) -> str:
        return f"{self.shares[status]:.0%} of kernel time".replace("%", " %", 1)


def coverage(
    what: str | Scenario,
    card: str | None = None,
    *,
    batch: int | None = None,
    context: int | None = None,
    settings: Iterable[str] = (),
    **asked: Any,
) -> Coverage:
    """Return what is known of the kernels of a model on a card, or of a scenario, at a load.

    `what` is the name of a model with a `card`; without one a scenario or its name. `batch` are
    requests of a micro-batch on each attention GPU, `context` tokens of each. `asked` are further
    fields of `sim.explain.usual_scenario.ModelOnCard` (software, ep, precision, kv), `settings`
    `path=value` assignments. Raises ScenarioError for unknown names, InfeasibleError for a shape
    that cannot run.
    """
    if card is not None:
        of = ModelOnCard(str(what), card, batch=batch, context=context, **asked)
        scenario, assumed = usual_scenario(of, settings)
        return coverage_of(scenario, assumed=assumed)
    if asked:
        raise ScenarioError(f"{', '.join(asked)}: a scenario says so; give a model and a card")
    loaded = what if isinstance(what, Scenario) else load(what, settings)
    return coverage_of(loaded, batch, context)


def coverage_of(
    scenario: Scenario,
    batch: int | None = None,
    context: int | None = None,
    assumed: tuple[str, ...] = (),
) -> Coverage:
    """Return what is known of the kernels of a scenario, of its expected load or another one.

    `batch` are requests of a micro-batch on each attention GPU, `context` tokens of each. Memory is
    not asked: a load that does not fit has kernels, too. Raises InfeasibleError for a shape that
    cannot run at any load.
    """
    loaded = scenario.with_settings(_load(scenario, batch, context))
    site = DEPLOYMENTS[loaded.deployment.kind](loaded)
    held = site.expected.batch()
    usage_ns = np.asarray(site.durations(held).usage_ns, dtype=np.float64)
    total_ns = float(usage_ns.sum())
    requests = int(held.requests.flat[0])
    tokens = int(held.kv_tokens[None].flat[0]) // requests
    return Coverage(
        scenario=loaded.name,
        model=site.model.name,
        cards=tuple(loaded.deployment.accelerators()),
        shape=loaded.deployment.shape_name(),
        requests_per_gpu=requests,
        context_tokens=tokens,
        shares=dict(zip(KNOWN, (usage_ns / total_ns).tolist(), strict=True)),
        kernels=tuple(_kernels(site, held)),
        assumed=assumed,
        cautions=tuple(_too_long(site.model, tokens)),
    )


def _too_long(model: ModelCard, tokens: int) -> Iterator[str]:
    longest = model.max_context_tokens
    if longest is not None and tokens > longest:
        yield f"{tokens:,} tokens of context are more than the {longest:,} of {model.name}"


def _load(scenario: Scenario, batch: int | None, context: int | None) -> dict[str, Any]:
    """Return the settings of a scenario that holds another load."""
    settings: dict[str, Any] = {}
    if batch is not None:
        lanes = scenario.deployment.attention_gpus().ranks * scenario.deployment.micro_batches
        settings["workload.arrivals"] = {"kind": "closed", "concurrency": batch * lanes}
    if context is not None:
        prompt, output = ({"kind": "fixed", "tokens": tokens} for tokens in (context, 1))
        settings["workload.lengths"] = {"kind": "drawn", "prompt": prompt, "output": output}
    return settings


def _kernels(site: Deployment, held: Batch) -> Iterator[CoveredKernel]:
    """Yield the kernels of each kind of layer, and of the LM head."""
    requests = GpuTokens(held.requests, held.alike, held.taking)
    for kind in site.kinds:
        names = (kind.layer.attention, kind.layer.ffn, "draft" if kind.drafts_after else None)
        seen = _Seen(" + ".join(filter(None, names)), site.uses(kind))
        one = site.of_kind(kind).with_tables(seen.noting)
        one.own_durations(requests)
        for of in one.attention_uses:
            window, line = one.core_line(of)
            table = one.beside(one.core_timer, of.crowded).table
            table.timed(line.op(held.requests, held.kv_tokens[window]))
        one.joint_durations(requests)
        yield from seen.kernels()
    seen = _Seen("LM head", 1)
    site.with_tables(seen.noting).head(requests)
    yield from seen.kernels()


@dataclass
class _LookUps:
    """The look-ups of one kernel."""

    op: Op
    curve: Curve | None
    is_own: bool
    is_foreign: bool
    shape: dict[str, tuple[float, float]] = field(default_factory=dict)
    beyond: dict[str, float] = field(default_factory=dict)
    time_us: float = 0.0

    @property
    def status(self) -> Known:
        if self.curve is None or self.is_foreign:
            return "unknown"
        return "measured" if self.is_own and not self.beyond else "extrapolated"


class _Seen:
    """What layers of one kind ask tables for."""

    def __init__(self, layer: str, layers: int) -> None:
        self._layer, self._layers = layer, layers
        self._asked: dict[tuple[str, ...], _LookUps] = {}

    def noting(self, _side: str, table: KernelTable) -> KernelTable:
        """Return a table that tells of look-ups here."""
        return NotingTable(table, partial(self._note, table.accelerator.name))

    def _note(self, card: str, table: KernelTable, op: Op) -> None:
        """Note a look-up; launches without work do not count."""
        works = np.broadcast_to(op.bytes > 0, np.broadcast_shapes(op.bytes.shape))
        if not works.any():
            return
        curve, own = table.serving(op)
        # Products of unlike columns are kernels of their own; elsewhere sizes are of the load.
        sizes = str([float(op.axes[name].flat[0]) for name in ("n", "k") if name in op.axes])
        key = (card, op.name, op.kernel, op.dtype, op.key, sizes)
        foreign = curve is not None and table.is_foreign(op, curve)
        asked = self._asked.setdefault(key, _LookUps(op, curve, own, foreign))
        at = {name: np.broadcast_to(axis, works.shape)[works] for name, axis in op.axes.items()}
        for name, values in at.items():
            low, high = asked.shape.get(name, (np.inf, -np.inf))
            asked.shape[name] = min(low, float(values.min())), max(high, float(values.max()))
        if curve is not None:
            for name, times in _beyond(curve, at).items():
                asked.beyond[name] = max(times, asked.beyond.get(name, 1.0))
        longest_ns = float(KernelTable.timed(table, op).ns.max())
        asked.time_us = max(asked.time_us, longest_ns / NS_PER_US)

    def kernels(self) -> Iterator[CoveredKernel]:
        for (card, *_), asked in self._asked.items():
            op, curve = asked.op, asked.curve
            yield CoveredKernel(
                layer=self._layer,
                layers=self._layers,
                card=card,
                op=op.name,
                kernel=op.kernel,
                dtype=op.dtype,
                key=op.key,
                shape=asked.shape,
                time_us=asked.time_us,
                status=asked.status,
                beyond=asked.beyond,
                **({} if curve is None else _described(curve)),
            )


def _beyond(curve: Curve, at: Mapping[str, Any]) -> dict[str, float]:
    """Return how many times outside of the range of a curve coordinates lie, by axis."""
    found = {}
    spans = {name: (float(nodes[0]), float(nodes[-1])) for name, nodes in curve.axes}
    for name, (first, last) in spans.items():
        if name not in at:
            continue  # lent for its roofline alone
        times = max(float(at[name].max()) / last, first / float(at[name].min()))
        if times > _SAME:
            found[name] = times
    if spans and not set(spans) - set(at):
        times = float(work_of({name: at[name] for name in spans}).max()) / curve.most_work
        if times > _SAME:
            found[WORK] = times
    return found


def _described(curve: Curve) -> dict[str, Any]:
    return {
        "curve": " ".join(filter(None, (curve.kernel, curve.dtype, curve.key))),
        "points": curve.points,
        "error": None if np.isnan(curve.mape) else curve.mape,
        "source": curve.source,
    }
