"""Lengths: how long prompts and outputs are, drawn from a law or from recorded pairs."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.foundation.streams import stream
from sim.inputs.base import Strict
from sim.inputs.traces.recorded import BadRows, Recorded, read

Tokens = NDArray[np.int64]
Positive = Annotated[float, Field(gt=0)]
MOST_TOKENS = 10**9
Count = Annotated[int, Field(gt=0, le=MOST_TOKENS)]
Requests = Annotated[int, Field(gt=0, le=10**7)]
"""Requests of a run, each of which takes some 100 bytes."""

# Requests are drawn in blocks of this many, each block from its own stream.
BLOCK = 4096


class Law(Protocol):
    """What lengths are drawn from."""

    def draw(self, seed: int, purpose: str, block: int, count: int = ...) -> tuple[Tokens, Tokens]:
        """Return prompt and output tokens of one block of requests."""


class Fixed(Strict):
    """Every request has the same length."""

    kind: Literal["fixed"]
    tokens: Count
    """Length of every request, tokens."""

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        return np.full(count, self.tokens, dtype=np.int64)

    def mean_tokens(self) -> float:
        return float(self.tokens)

    def mean_age(self) -> float:
        return (self.tokens - 1) / 2

    def max_length(self) -> int:
        return self.tokens


class Uniform(Strict):
    """Whole lengths from `low` to `high`, both included, equally likely."""

    kind: Literal["uniform"]
    low: Count
    """Shortest length, tokens."""
    high: Count
    """Longest length, tokens."""

    @model_validator(mode="after")
    def _check(self) -> Uniform:
        if self.low > self.high:
            raise ValueError(f"low {self.low} exceeds high {self.high}")
        return self

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        return rng.integers(self.low, self.high, count, endpoint=True)

    def mean_tokens(self) -> float:
        return (self.low + self.high) / 2

    def mean_age(self) -> float:
        variance = ((self.high - self.low + 1) ** 2 - 1) / 12
        return _mean_age(self.mean_tokens(), variance)

    def max_length(self) -> int:
        return self.high


class Lognormal(Strict):
    """Lognormal lengths with the given mean and coefficient of variation, cut at `max_tokens`."""

    kind: Literal["lognormal"]
    mean: Positive
    """Mean length before the cut, tokens."""
    cv: Positive
    """Standard deviation over mean."""
    max_tokens: Count
    """Longest length the server admits; longer draws are cut to it."""

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        variance = math.log(1 + self.cv**2)
        raw = rng.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), count)
        return np.clip(np.rint(raw), 1, self.max_tokens).astype(np.int64)

    def mean_tokens(self) -> float:
        """Return the mean before the cut at `max_tokens`, which is an upper bound."""
        return self.mean

    def mean_age(self) -> float:
        return _mean_age(self.mean, (self.cv * self.mean) ** 2)

    def max_length(self) -> int:
        return self.max_tokens


class Geometric(Strict):
    """Geometric lengths of the given mean: the memoryless case, cut at `max_tokens`."""

    kind: Literal["geometric"]
    mean: Annotated[float, Field(ge=1)]
    """Mean length before the cut, tokens."""
    max_tokens: Count
    """Longest length the server admits; longer draws are cut to it."""

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        return np.minimum(rng.geometric(1 / self.mean, count), self.max_tokens).astype(np.int64)

    def mean_tokens(self) -> float:
        """Return the mean before the cut at `max_tokens`, which is an upper bound."""
        return self.mean

    def mean_age(self) -> float:
        return self.mean - 1

    def max_length(self) -> int:
        return self.max_tokens


class Bimodal(Strict):
    """Two lengths, as where chats and documents, or short answers and reasoning, are mixed."""

    kind: Literal["bimodal"]
    short: Count
    """The shorter length, tokens."""
    long: Count
    """The longer length, tokens."""
    long_share: Annotated[float, Field(ge=0, le=1)]
    """Share of requests that have the longer one."""

    @model_validator(mode="after")
    def _check(self) -> Bimodal:
        if self.short > self.long:
            raise ValueError(f"short {self.short} exceeds long {self.long}")
        return self

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        return np.where(rng.random(count) < self.long_share, self.long, self.short)

    def mean_tokens(self) -> float:
        return self.short + (self.long - self.short) * self.long_share

    def mean_age(self) -> float:
        variance = (self.long - self.short) ** 2 * self.long_share * (1 - self.long_share)
        return _mean_age(self.mean_tokens(), variance)

    def max_length(self) -> int:
        return self.long


def _mean_age(mean: float, variance: float) -> float:
    """Return E[D(D−1)]/2E[D], the tokens that a request in flight has decoded, in the mean."""
    return (variance / mean + mean - 1) / 2


Length = Annotated[Fixed | Uniform | Lognormal | Geometric | Bimodal, Field(discriminator="kind")]


class DrawnLengths(Strict):
    """Prompt and output lengths drawn independently."""

    stated_elsewhere = ("prompt",)

    kind: Literal["drawn"]
    prompt: Length
    """Tokens of KV that a request brings, required unless `workload.context` is given."""
    output: Length
    """Tokens that a request decodes."""

    def draw(
        self, seed: int, purpose: str, block: int, count: int = BLOCK
    ) -> tuple[Tokens, Tokens]:
        prompt = self.prompt.draw(stream(seed, f"{purpose}-prompt", block), count)
        return prompt, self.output.draw(stream(seed, f"{purpose}-output", block), count)

    def mean_output_tokens(self) -> float:
        return self.output.mean_tokens()

    def longest_context(self) -> int:
        return self.prompt.max_length() + self.output.max_length()


class CsvLengths(Strict):
    """Pairs of lengths drawn with replacement from a file.

    The file is a CSV with the columns prompt_tokens and output_tokens, or any trace that arrivals
    can replay; of a trace, times of arrival do not count.
    """

    kind: Literal["csv"]
    path: str
    """File of the lengths, from the working directory."""
    bad_rows: BadRows = "refuse"
    """What becomes of a file with rows that are no lengths: refuse it, or skip the rows; either way
    they are told by line."""

    def read(self) -> Recorded:
        """Return the recorded pairs. Raises ScenarioError naming bad rows by line."""
        return read(self.path, timed=False, bad_rows=self.bad_rows)

    def draw(
        self, seed: int, purpose: str, block: int, count: int = BLOCK
    ) -> tuple[Tokens, Tokens]:
        recorded = self.read()
        rows = stream(seed, f"{purpose}-csv", block).integers(0, len(recorded.prompt), count)
        return recorded.prompt[rows], recorded.output[rows]

    def mean_output_tokens(self) -> float:
        return float(self.read().output.mean())

    def longest_context(self) -> int:
        return self.read().longest_context()


def prompt_under(context: float, output: Length) -> int:
    """Return the prompt with which the mean context of a request in flight is `context`.

    To half a token; of outputs as they are before a cut at `max_tokens`. Below 1 if the outputs
    alone are longer.
    """
    return round(context - output.mean_age())


Lengths = Annotated[DrawnLengths | CsvLengths, Field(discriminator="kind")]


def stationary_sample(lengths: Law, seed: int, count: int) -> tuple[Tokens, Tokens, Tokens]:
    """Return prompt, output and age (tokens already decoded) of `count` requests in flight.

    In the steady state of a closed loop a slot holds a request with a probability proportional to
    its output length, at an age uniform over that length; the mean context of such a slot is the
    slot load θ = Σ[D·P + D(D−1)/2]/ΣD of DESIGN §5. Lengths and ages are stratified samples.
    """
    blocks = math.ceil(4 * count / BLOCK)
    drawn = [lengths.draw(seed, "stationary", block) for block in range(blocks)]
    prompt = np.concatenate([pair[0] for pair in drawn])
    output = np.concatenate([pair[1] for pair in drawn])
    rng = stream(seed, "stationary-age")
    strata = (np.arange(count) + rng.random(count)) / count
    ends = np.cumsum(output)
    chosen = np.searchsorted(ends, strata * ends[-1], side="right")
    ages = ((rng.permutation(count) + rng.random(count)) / count * output[chosen]).astype(np.int64)
    shuffle = rng.permutation(count)
    return prompt[chosen][shuffle], output[chosen][shuffle], ages[shuffle]
