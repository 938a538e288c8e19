"""Workload: how requests arrive and how long their prompts and outputs are.

Requests arrive prefilled: a request brings `prompt` tokens of KV and decodes `output` tokens.
"""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from sim.errors import ScenarioError
from sim.streams import stream
from sim.strict import Strict
from sim.units import NS_PER_S

Tokens = NDArray[np.int64]
Positive = Annotated[float, Field(gt=0)]

# Tokens of a recorded length: at most nine digits, more than any context.
_LENGTH = re.compile(r"\s*0*[1-9][0-9]{0,8}\s*", re.ASCII)

# Requests are drawn in blocks of this many, each block from its own stream.
BLOCK = 4096


class Fixed(Strict):
    """Every request has the same length."""

    kind: Literal["fixed"]
    tokens: PositiveInt
    """Length of every request, tokens."""

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        """Return `count` lengths in tokens."""
        return np.full(count, self.tokens, dtype=np.int64)

    def mean_tokens(self) -> float:
        """Return the mean length."""
        return float(self.tokens)


class Uniform(Strict):
    """Whole lengths from `low` to `high`, both included, equally likely."""

    kind: Literal["uniform"]
    low: PositiveInt
    """Shortest length, tokens."""
    high: PositiveInt
    """Longest length, tokens."""

    @model_validator(mode="after")
    def _check(self) -> Uniform:
        if self.low > self.high:
            raise ValueError(f"low {self.low} exceeds high {self.high}")
        return self

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        """Return `count` lengths in tokens."""
        return rng.integers(self.low, self.high, count, endpoint=True)

    def mean_tokens(self) -> float:
        """Return the mean length."""
        return (self.low + self.high) / 2


class Lognormal(Strict):
    """Lognormal lengths with the given mean and coefficient of variation, cut at `max_tokens`."""

    kind: Literal["lognormal"]
    mean: Positive
    """Mean length before the cut, tokens."""
    cv: Positive
    """Standard deviation over mean."""
    max_tokens: PositiveInt
    """Longest length the server admits; longer draws are cut to it."""

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        """Return `count` lengths in tokens."""
        variance = math.log(1 + self.cv**2)
        raw = rng.lognormal(math.log(self.mean) - variance / 2, math.sqrt(variance), count)
        return np.clip(np.rint(raw), 1, self.max_tokens).astype(np.int64)

    def mean_tokens(self) -> float:
        """Return the mean before the cut at `max_tokens`, which is an upper bound."""
        return self.mean


class Geometric(Strict):
    """Geometric lengths of the given mean: the memoryless case, cut at `max_tokens`."""

    kind: Literal["geometric"]
    mean: Annotated[float, Field(ge=1)]
    """Mean length before the cut, tokens."""
    max_tokens: PositiveInt
    """Longest length the server admits; longer draws are cut to it."""

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        """Return `count` lengths in tokens."""
        return np.minimum(rng.geometric(1 / self.mean, count), self.max_tokens).astype(np.int64)

    def mean_tokens(self) -> float:
        """Return the mean before the cut at `max_tokens`, which is an upper bound."""
        return self.mean


class Bimodal(Strict):
    """Two lengths, as where chats and documents, or short answers and reasoning, are mixed."""

    kind: Literal["bimodal"]
    short: PositiveInt
    """The shorter length, tokens."""
    long: PositiveInt
    """The longer length, tokens."""
    long_share: Annotated[float, Field(ge=0, le=1)]
    """Share of requests that have the longer one."""

    @model_validator(mode="after")
    def _check(self) -> Bimodal:
        if self.short > self.long:
            raise ValueError(f"short {self.short} exceeds long {self.long}")
        return self

    def draw(self, rng: np.random.Generator, count: int) -> Tokens:
        """Return `count` lengths in tokens."""
        return np.where(rng.random(count) < self.long_share, self.long, self.short)

    def mean_tokens(self) -> float:
        """Return the mean length."""
        return self.short + (self.long - self.short) * self.long_share


Length = Annotated[Fixed | Uniform | Lognormal | Geometric | Bimodal, Field(discriminator="kind")]


class DrawnLengths(Strict):
    """Prompt and output lengths drawn independently."""

    kind: Literal["drawn"]
    prompt: Length
    """Tokens of KV that a request brings."""
    output: Length
    """Tokens that a request decodes."""

    def draw(
        self, seed: int, purpose: str, block: int, count: int = BLOCK
    ) -> tuple[Tokens, Tokens]:
        """Return prompt and output tokens of one block of requests."""
        prompt = self.prompt.draw(stream(seed, f"{purpose}-prompt", block), count)
        return prompt, self.output.draw(stream(seed, f"{purpose}-output", block), count)

    def mean_output_tokens(self) -> float:
        """Return the mean output tokens of a request."""
        return self.output.mean_tokens()


class CsvLengths(Strict):
    """Pairs of lengths drawn with replacement from a CSV: `prompt_tokens,output_tokens`."""

    kind: Literal["csv"]
    path: str
    """File with the columns prompt_tokens and output_tokens, from the working directory."""

    def read(self) -> tuple[Tokens, Tokens]:
        """Return the prompt and output columns. Raises ScenarioError naming every bad line."""
        try:
            lines = Path(self.path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{self.path}: cannot be read: {error}") from None
        reader = csv.DictReader(lines)
        wanted = ("prompt_tokens", "output_tokens")
        if not set(wanted) <= set(reader.fieldnames or ()):
            raise ScenarioError(f"{self.path}:1: the header should name {' and '.join(wanted)}")
        pairs, problems = [], []
        try:
            for row in reader:
                values = [row[column] or "" for column in wanted]
                if all(_LENGTH.fullmatch(value) for value in values):
                    pairs.append([int(value) for value in values])
                else:
                    got = ", ".join(value[:20] for value in values)
                    problems.append(
                        f"{self.path}:{reader.line_num}: "
                        f"lengths should be whole and positive (got {got})"
                    )
        except csv.Error as error:
            problems.append(f"{self.path}:{reader.line_num}: {error}")
        if not pairs and not problems:
            problems.append(f"{self.path}:2: the file has no rows")
        if problems:
            raise ScenarioError(problems)
        prompt, output = np.array(pairs, dtype=np.int64).T
        return prompt, output

    def draw(
        self, seed: int, purpose: str, block: int, count: int = BLOCK
    ) -> tuple[Tokens, Tokens]:
        """Return prompt and output tokens of one block of requests."""
        prompt, output = self.read()
        rows = stream(seed, f"{purpose}-csv", block).integers(0, len(prompt), count)
        return prompt[rows], output[rows]

    def mean_output_tokens(self) -> float:
        """Return the mean output tokens of a request."""
        return float(self.read()[1].mean())


Lengths = Annotated[DrawnLengths | CsvLengths, Field(discriminator="kind")]


class ClosedLoop(Strict):
    """A fixed number of requests in flight; each finished one is replaced at once."""

    kind: Literal["closed"]
    concurrency: PositiveInt | None = None
    """Requests in flight in the whole deployment."""
    requests_per_gpu: Positive | None = None
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
    requests: PositiveInt
    """Number of requests to simulate."""

    def gaps_ns(self, seed: int, block: int) -> NDArray[np.int64]:
        """Return the times between the arrivals of one block of requests, ns."""
        gaps = stream(seed, "arrival", block).exponential(NS_PER_S / self.requests_per_s, BLOCK)
        return np.rint(gaps).astype(np.int64)


Arrivals = Annotated[ClosedLoop | Poisson, Field(discriminator="kind")]


class Workload(Strict):
    """Arrivals and lengths of the requests."""

    arrivals: Arrivals
    """When requests arrive."""
    lengths: Lengths
    """How long their prompts and outputs are."""


class Requests:
    """The line of requests of a workload, drawn block by block; endless in a closed loop."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self._workload = workload
        self._seed = seed
        self._last_ns = 0

    def block(self, first: int) -> tuple[Tokens, Tokens, NDArray[np.int64] | None] | None:
        """Return prompt, output and arrival (ns) of request `first` and the rest of its block.

        The arrivals of a closed loop are its scheduler's: None. Returns None past the last request
        of an open workload, whose blocks must be asked for in order and whole.
        """
        number, offset = divmod(first, BLOCK)
        arrivals = self._workload.arrivals
        prompt, output = self._workload.lengths.draw(self._seed, "request", number)
        if isinstance(arrivals, ClosedLoop):
            return prompt[offset:], output[offset:], None
        count = min(arrivals.requests - first, BLOCK)
        if count <= 0:
            return None
        arrival_ns = self._last_ns + np.cumsum(arrivals.gaps_ns(self._seed, number))
        self._last_ns = int(arrival_ns[-1])
        return prompt[:count], output[:count], arrival_ns[:count]


def stationary_sample(lengths: Lengths, seed: int, count: int) -> tuple[Tokens, Tokens, Tokens]:
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
