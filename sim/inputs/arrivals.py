"""Arrivals: when requests come.

An open loop tells its arrivals as blocks of times. Each block has streams of its own, so that what
comes does not depend on how far another part has drawn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, model_validator

from sim.foundation.nanoseconds import MOST_RUN_NS, whole_ns
from sim.foundation.streams import stream
from sim.foundation.units import NS_PER_S
from sim.inputs.base import Strict
from sim.inputs.lengths import BLOCK, Requests, Tokens
from sim.inputs.traces.formats import TimeUnit
from sim.inputs.traces.recorded import BadRows, Recorded, read

Positive = Annotated[float, Field(gt=0)]
TimesNs = NDArray[np.int64]

# A block of the longest gaps still ends within 64 bits.
_MOST_GAP_NS = MOST_RUN_NS // BLOCK


class ClosedLoop(Strict):
    """A fixed number of requests in flight; a new request replaces each finished one at once."""

    kind: Literal["closed"]
    concurrency: Requests | None = None
    """Requests in flight in the whole deployment."""
    requests_per_gpu: Annotated[float, Field(gt=0, le=10**5)] | None = None
    """Requests in flight divided by all GPUs of the deployment, instead of `concurrency`."""

    @model_validator(mode="after")
    def _check(self) -> ClosedLoop:
        if (self.concurrency is None) == (self.requests_per_gpu is None):
            raise ValueError("give exactly one of concurrency and requests_per_gpu")
        return self

    def requests_in_flight(self, gpus: int) -> int:
        """Return the number of requests in flight on a deployment of `gpus` GPUs."""
        if self.concurrency is not None:
            return self.concurrency
        assert self.requests_per_gpu is not None
        return max(1, round(self.requests_per_gpu * gpus))


class Poisson(Strict):
    """Requests arrive independently at a constant rate, from an empty system."""

    kind: Literal["poisson"]
    requests_per_s: Positive
    """Mean arrivals per second in the whole deployment."""
    requests: Requests
    """Number of requests to simulate."""

    def blocks_ns(self, seed: int) -> Iterator[TimesNs]:
        last_ns, block = 0, 0
        while True:
            gaps = stream(seed, "arrival", block).exponential(NS_PER_S / self.requests_per_s, BLOCK)
            times_ns = last_ns + np.cumsum(whole_ns(gaps, "a gap between arrivals", _MOST_GAP_NS))
            yield times_ns
            last_ns, block = int(times_ns[-1]), block + 1


class Gamma(Strict):
    """Independent gaps of a gamma law: more even (cv below 1) or burstier (above) than Poisson."""

    kind: Literal["gamma"]
    requests_per_s: Positive
    """Mean arrivals per second in the whole deployment."""
    cv: Positive
    """Standard deviation of the gaps over their mean; 1 is Poisson."""
    requests: Requests
    """Number of requests to simulate."""

    def blocks_ns(self, seed: int) -> Iterator[TimesNs]:
        shape = self.cv**-2
        last_ns, block = 0, 0
        while True:
            rng = stream(seed, "gamma-arrival", block)
            gaps = rng.gamma(shape, NS_PER_S / self.requests_per_s / shape, BLOCK)
            times_ns = last_ns + np.cumsum(whole_ns(gaps, "a gap between arrivals", _MOST_GAP_NS))
            yield times_ns
            last_ns, block = int(times_ns[-1]), block + 1


class Bursts(Strict):
    """Poisson arrivals whose rate changes between calm and burst (Markov-modulated, two states).

    Both states last for exponentially distributed times.
    """

    kind: Literal["bursts"]
    requests_per_s: Positive
    """Mean arrivals per second over all times, in the whole deployment."""
    burst_ratio: Annotated[float, Field(ge=1)]
    """Rate in a burst over the rate in calm times."""
    calm_s: Positive
    """Mean duration of a calm time, s."""
    burst_s: Positive
    """Mean duration of a burst, s."""
    requests: Requests
    """Number of requests to simulate."""

    def rates_per_s(self) -> tuple[float, float]:
        """Return the rates in calm times and in bursts, requests per second."""
        weight = self.calm_s + self.burst_ratio * self.burst_s
        calm = self.requests_per_s * (self.calm_s + self.burst_s) / weight
        return calm, self.burst_ratio * calm

    def blocks_ns(self, seed: int) -> Iterator[TimesNs]:
        share = self.burst_s / (self.calm_s + self.burst_s)
        bursting = int(stream(seed, "burst-first").random() < share)
        sojourn_s = np.resize(np.roll([self.calm_s, self.burst_s], -bursting), BLOCK)
        rate_per_s = np.resize(np.roll(self.rates_per_s(), -bursting), BLOCK)
        # Arrivals of rate 1 in a time that runs as fast as requests come: `passed` against `s`.
        s, passed, sojourns = np.zeros(1), np.zeros(1), 0
        for due in _unit_rate(seed):
            while passed[-1] < due[-1]:
                stay_s = stream(seed, "burst-sojourn", sojourns).exponential(sojourn_s)
                sojourns += 1
                s = np.concatenate([s, s[-1] + np.cumsum(stay_s)])
                passed = np.concatenate([passed, passed[-1] + np.cumsum(stay_s * rate_per_s)])
            yield _ns(np.interp(due, passed, s))
            behind = max(int(np.searchsorted(passed, due[-1])) - 1, 0)
            s, passed = s[behind:], passed[behind:]


class Diurnal(Strict):
    """Poisson arrivals whose rate follows a profile that repeats, such as the hours of a day."""

    kind: Literal["diurnal"]
    requests_per_s: Positive
    """Mean arrivals per second over a period, in the whole deployment."""
    profile: Annotated[list[NonNegativeFloat], Field(min_length=1)]
    """Relative rates in equal parts of the period, e.g. 24 of them for the hours of a day."""
    period_s: Positive = 86400.0
    """Duration of the profile, s."""
    begin_s: NonNegativeFloat = 0.0
    """Where in the period the run begins, s."""
    requests: Requests
    """Number of requests to simulate."""

    @model_validator(mode="after")
    def _check(self) -> Diurnal:
        if not any(self.profile):
            raise ValueError("profile should have a rate above 0")
        if self.begin_s >= self.period_s:
            raise ValueError(f"begin_s {self.begin_s:g} is not within period_s {self.period_s:g}")
        return self

    def blocks_ns(self, seed: int) -> Iterator[TimesNs]:
        share = np.concatenate([[0.0], np.cumsum(self.profile) / math.fsum(self.profile)])
        share[-1] = 1.0
        s = np.linspace(0, self.period_s, len(share))
        a_period = self.requests_per_s * self.period_s
        begun = float(np.interp(self.begin_s, s, share))
        for due in _unit_rate(seed):
            periods, rest = np.divmod(due / a_period + begun, 1)
            yield _ns(periods * self.period_s + np.interp(rest, share, s) - self.begin_s)


class Trace(Strict):
    """Requests replayed from a recorded trace, with its arrival times and lengths.

    The header tells the format: Azure LLM inference, BurstGPT, Mooncake, Qwen-Bailian,
    Splitwise, Vidur, or requests.csv of a run. The first request arrives at 0. At most 2 GB and
    20 million rows are read.
    """

    kind: Literal["trace"]
    path: str
    """File of the trace, from the working directory."""
    time_unit: TimeUnit | None = None
    """Unit of the times of arrival. By default the format tells it: s in BurstGPT, Qwen-Bailian
    (JSON lines with chat_id), Splitwise and Vidur, ms in Mooncake (hash_ids without chat_id). Of
    JSON lines, Splitwise and Vidur, which others write in other units, that has to be a likely
    load as well, or the trace is refused until its unit is stated: at most 1,000 requests/s, and
    half of the gaps at most 100 s."""
    rate_scale: Positive = 1.0
    """How many times faster the requests arrive than recorded."""
    clip_context: Annotated[int, Field(ge=2)] | None = None
    """Longest context, tokens: longer prompts are cut so that prompt and output together fit."""
    bad_rows: BadRows = "refuse"
    """How to treat rows that hold no request (a failed request has no output): refuse the trace, or
    skip the rows. Either way a message names their lines."""
    requests: Requests | None = None
    """Rows to read, from the top; all rows by default."""

    def read(self) -> Recorded:
        """Return the requests in the order of their arrival. Raises ScenarioError."""
        recorded = read(
            self.path,
            timed=True,
            bad_rows=self.bad_rows,
            rows=self.requests,
            time_unit=self.time_unit,
        )
        return recorded.scaled(self.rate_scale).clipped(self.clip_context)

    @property
    def requests_per_s(self) -> float:
        """Mean arrivals per second, over a second at least."""
        times_ns = self.read().arrival_ns
        return len(times_ns) / max(int(times_ns[-1]), NS_PER_S) * NS_PER_S

    def draw(
        self, seed: int, purpose: str, block: int, count: int = BLOCK
    ) -> tuple[Tokens, Tokens]:
        """Return prompt and output tokens of rows drawn with replacement."""
        recorded = self.read()
        rows = stream(seed, f"{purpose}-trace", block).integers(0, len(recorded.prompt), count)
        return recorded.prompt[rows], recorded.output[rows]

    def mean_output_tokens(self) -> float:
        return float(self.read().output.mean())

    def longest_context(self) -> int:
        return self.read().longest_context()


Arrivals = Annotated[
    ClosedLoop | Poisson | Gamma | Bursts | Diurnal | Trace, Field(discriminator="kind")
]


def _unit_rate(seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield arrivals of a Poisson process of rate 1, `BLOCK` at a time, without end."""
    last, block = 0.0, 0
    while True:
        due = last + np.cumsum(stream(seed, "arrival", block).exponential(1.0, BLOCK))
        yield due
        last, block = float(due[-1]), block + 1


def _ns(times_s: NDArray[np.float64]) -> TimesNs:
    return whole_ns(times_s * NS_PER_S, "the way to an arrival", MOST_RUN_NS)


def rate_field(arrivals: Arrivals) -> str | None:
    """Return the name of the field that is the rate of arrivals, or multiplies it; None if none."""
    if isinstance(arrivals, ClosedLoop):
        return None
    return "rate_scale" if isinstance(arrivals, Trace) else "requests_per_s"


def at_rate(arrivals: Arrivals, rate: float) -> Arrivals:
    """Return the same arrivals of an open loop with another value of their `rate_field`."""
    field = rate_field(arrivals)
    assert field is not None
    return arrivals.replaced(**{field: rate})
