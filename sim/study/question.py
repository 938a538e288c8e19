"""Questions: what a planner has and wants."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, get_args

from sim.foundation.errors import ScenarioError, did_you_mean
from sim.foundation.printable import excerpt
from sim.foundation.units import WeightFormat
from sim.inputs import cards
from sim.inputs.arrivals import Trace
from sim.inputs.deployment import MOST_GPUS
from sim.inputs.scenario import Precision, Scenario, TpotOf
from sim.study.schema import Settings

_T = TypeVar("_T")

OUTPUT_TOKENS = 1024

MOST_WITH_RATE = 512
"""GPUs among which the fewest are sought, where no one says how many there are."""

# Rows of a trace that are read.
ROWS = 1500

# Requests that are simulated to see whether a rate is served: at least so many, and so many for
# each one in flight, so that the batch fills and stays full.
_LEAST_REQUESTS, _EACH_IN_FLIGHT = 100, 3

# What the yield counts for beside the number of GPUs.
_SECOND = 1e-6


@dataclass(frozen=True)
class Gpus:
    """So many GPUs of one card."""

    count: int
    card: str

    def __str__(self) -> str:
        return f"{self.count} × {self.card}"


@dataclass(frozen=True)
class Question:
    """A model to decode on GPUs within a latency target."""

    model: str
    gpus: tuple[Gpus, ...]
    context: int
    """Mean context of a request in flight, tokens."""
    tpot_ms: float
    output: int = OUTPUT_TOKENS
    """Tokens of an output."""
    tpot_of: TpotOf = "mean"
    """Which TPOT of the requests has to meet the target."""
    software: str | None = None
    """Profile of both sides; None: those that people run on the cards."""
    precision: str | None = None
    """Format of the experts; None: that of the checkpoint."""
    kv: str | None = None
    """Format of KV; None: as the model card says."""
    acceptance: float | None = None
    """Probability that a draft is accepted if those before it are; None: nothing is drafted."""
    prices: Mapping[str, float] = field(default_factory=dict)
    """Rent by card, USD per hour."""
    rate: float | None = None
    """Requests per second to serve; then the fewest GPUs are sought, at most `gpus`."""
    trace: Trace | None = None
    """A recording to serve, at `rate` or as fast as recorded; its means are context and output."""
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the question as plain data."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        trace = None if self.trace is None else self.trace.path
        gpus = [asdict(each) for each in self.gpus]
        return plain | {"gpus": gpus, "trace": trace, "prices": dict(self.prices)}

    @property
    def title(self) -> str:
        """The name of the model's card, where `model` may be a path."""
        return cards.model(self.model).name

    @property
    def total(self) -> int:
        return sum(each.count for each in self.gpus)

    def doubled(self, used: Iterable[tuple[str, int]]) -> Question:
        """Return the question with twice the GPUs `used`, by card, and twice the rate, if any."""
        gpus = tuple(Gpus(2 * count, card) for card, count in used)
        return replace(self, gpus=gpus, rate=None if self.rate is None else 2 * self.rate)

    def most(self, scenario: Scenario) -> int:
        """Return how often a deployment fits on the GPUs, card by card."""
        have = {each.card: each.count for each in self.gpus}
        return min(have.get(card, 0) // gpus for card, gpus in needed(scenario).items())

    def fill(self, scenario: Scenario, tgs: float) -> Fill | None:
        """Return how often a deployment stands on the GPUs; None if not often enough.

        Without a rate as often as they hold it; else as often as the rate takes, at `tgs` output
        tokens/s/GPU.
        """
        most, gpus = self.most(scenario), scenario.gpu_count()
        if self.rate is None:
            return Fill(most, most * gpus, self.total) if most else None
        times = max(1, math.ceil(self.rate * self.output / (tgs * gpus)))
        return Fill(times, times * gpus, times * gpus) if times <= most else None

    def worth(self, scenario: Scenario, tgs: float) -> float:
        """Return output tokens/s/GPU over all GPUs: with a rate, those emitted at that rate.

        0 where the deployment does not stand on the GPUs often enough. Of deployments that need as
        many GPUs, the one that could emit more is worth a little more.
        """
        fill = self.fill(scenario, tgs)
        if fill is None:
            return 0.0
        return tgs * fill.share if self.rate is None else self.served_worth(fill, tgs)

    def served_worth(self, fill: Fill, tgs: float) -> float:
        """Return what a deployment is worth that serves the rate."""
        assert self.rate is not None
        return self.rate * self.output / fill.used + tgs * _SECOND

    def arrivals(self, times: int) -> Settings:
        """Return the arrivals at one of `times` deployments, as YAML holds them."""
        assert self.rate is not None
        if self.trace is None:
            rate = self.rate / times
            in_flight = rate * self.output * self.tpot_ms / 1e3
            requests = max(_LEAST_REQUESTS, math.ceil(_EACH_IN_FLIGHT * in_flight))
            return {"kind": "poisson", "requests_per_s": rate, "requests": requests}
        faster = self.rate / (times * self.trace.requests_per_s)
        recorded = self.trace.model_dump(exclude_none=True)
        return recorded | {"rate_scale": faster}


@dataclass(frozen=True)
class Fill:
    """How often a deployment stands on the GPUs of a question."""

    times: int
    used: int
    """GPUs that are not idle."""
    total: int

    @property
    def share(self) -> float:
        return self.used / self.total


def needed(scenario: Scenario) -> Counter[str]:
    """Return the GPUs of a deployment by card."""
    found: Counter[str] = Counter()
    for card, gpus in scenario.deployment.gpus_by_card():
        found[card] += gpus
    return found


def asked(
    model: str,
    gpus: str,
    tpot_ms: float,
    context: int | None = None,
    output: int | None = None,
    rate: float | None = None,
    trace: str | None = None,
    max_gpus: int | None = None,
    acceptance: float | None = None,
    **others: Any,
) -> Question:
    """Return a question; a trace brings context, output and rate that are not given.

    `others` are further fields of `Question`. Raises ScenarioError with every figure that cannot
    be, for a trace that cannot be read, and where there is neither a context nor a trace.
    """
    sizing = rate is not None or trace is not None
    problems = [*_wrong(tpot_ms, context, output, rate)]
    most = (max_gpus or MOST_WITH_RATE) if sizing else None
    found = _kept(lambda: parse_gpus(gpus, most), problems)
    if _kept(lambda: cards.model(model), problems) and acceptance is not None:
        problems += wrong_acceptance(model, acceptance)
    software = others.get("software")
    if software is not None:
        _kept(lambda: cards.software(software), problems)
    problems += _unknown_formats(others)
    if max_gpus is not None and not sizing:
        problems.append("max_gpus goes with a rate or a trace: of given GPUs all are used")
    if context is None and trace is None:
        problems.append("no context: give --context TOKENS, or a --trace that brings it")
    if problems or found is None:
        raise ScenarioError(problems)
    recording = None
    if trace is not None:
        recording = Trace(kind="trace", path=trace, requests=ROWS)
        recorded = recording.read()
        if recorded.output.max() < 2:
            raise ScenarioError(f"{trace}: outputs of one token have no TPOT")
        lengths, outputs = recorded.prompt + recorded.output / 2, recorded.output
        # Of requests in flight, those with long outputs are seen the longer.
        context = context or round(float((outputs * lengths).sum() / outputs.sum()))
        output = output or max(2, round(float(outputs.mean())))
        rate = rate or recording.requests_per_s
    assert context is not None
    return Question(
        model=model,
        gpus=found,
        context=context,
        tpot_ms=tpot_ms,
        output=output or OUTPUT_TOKENS,
        rate=rate,
        trace=recording,
        acceptance=acceptance,
        **others,
    )


def _kept(read: Callable[[], _T], problems: list[str]) -> _T | None:
    """Return what is read; None where it is wrong, with its mistakes among `problems`."""
    try:
        return read()
    except ScenarioError as error:
        problems += error.problems
        return None


def _unknown_formats(others: Mapping[str, Any]) -> Iterator[str]:
    known = {
        "precision": get_args(WeightFormat),
        "kv": get_args(Precision.model_fields["kv"].annotation),
    }
    for name, names in known.items():
        value = others.get(name)
        if value is not None and value not in names:
            yield f"{name}: unknown format; {did_you_mean(value, names)} (got '{excerpt(value)}')"


def _wrong(
    tpot_ms: float, context: int | None, output: int | None, rate: float | None
) -> Iterator[str]:
    """Yield what is wrong with the figures of a question."""
    for name, value in (("TPOT", tpot_ms), ("rate", rate)):
        if value is not None and not 0 < value < math.inf:
            yield f"{name} {value:g}: write a number above 0"
    for name, tokens in (("context", context), ("output", output)):
        if tokens is not None and tokens < 2:
            yield f"{name} {tokens}: write at least 2 tokens"


def wrong_acceptance(model: str, acceptance: float) -> Iterator[str]:
    """Yield what is wrong with an acceptance: the figure, or a model that cannot draft.

    Raises ScenarioError for an unknown model.
    """
    if not 0 < acceptance < 1:
        yield f"acceptance {acceptance:g}: write a probability between 0 and 1, as 0.8"
    card = cards.model(model)
    if card.draft_layer is None:
        yield (
            f"the card of {card.name} has no draft_layer, the layer of a multi-token prediction "
            "module: leave --acceptance out, or state the layer in a card of your own"
        )


def parse_gpus(text: str, most: int | None = None) -> tuple[Gpus, ...]:
    """Return the GPUs in `64xh200-sxm` or `32xh20+32xh800`; `most` of a card alone if given.

    Raises ScenarioError.
    """
    found = []
    for part in text.lower().replace("×", "x").split("+"):
        alone = most is not None and re.match(r"\s*\d+\s*x", part) is None
        told = f"{most}x{part.strip()}" if alone else part
        match = re.fullmatch(r"\s*(\d{1,9})\s*x\s*(\S+)\s*", told)
        if match is None or not 0 < int(match[1]) <= MOST_GPUS:
            raise ScenarioError(
                f"GPUs '{excerpt(text)}': write how many of which card, as 64xh200-sxm or "
                f"32xh20+32xh800, at most {MOST_GPUS:,}; a card alone goes with a rate or a trace"
            )
        name = cards.accelerator(match[2]).name
        found.append(Gpus(int(match[1]), name))
    if len({each.card for each in found}) < len(found) or len(found) > 2:
        raise ScenarioError(f"GPUs '{excerpt(text)}': name one card, or two different ones")
    return tuple(found)
