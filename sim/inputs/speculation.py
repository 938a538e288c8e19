"""Speculation: tokens drafted ahead of the model, and how many of them it accepts (schema, laws).

In each step a request brings its last token and `drafts` drafted ones, all of which go through the
model at once. It keeps the drafts up to the first that the model rejects, and one token of the
model's own. With the drafts by a multi-token prediction module of the model, see DeepSeek-V3's
technical report, arXiv 2412.19437, section 2.2.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from operator import mul
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sim.foundation.printable import excerpt
from sim.inputs import csv_columns
from sim.inputs.base import Strict
from sim.inputs.model import Layer
from sim.inputs.sourced import Parameter

Ints = NDArray[np.int64]


def _check_probabilities(values: list[Parameter]) -> None:
    for p in values:
        if p > 1:
            raise ValueError(f"a probability should be at most 1 (got {p:g})")


class ConstantAcceptance(Strict):
    """Every draft has the same probability, if all drafts before it are accepted."""

    kind: Literal["constant"]
    p: Parameter
    """Probability that a draft is accepted if all drafts before it are."""

    @model_validator(mode="after")
    def _check(self) -> ConstantAcceptance:
        _check_probabilities([self.p])
        return self

    def shares(self, drafts: int) -> list[float]:
        """Return the share of steps that accept at least 1, 2, … `drafts` drafts."""
        return [float(self.p) ** count for count in range(1, drafts + 1)]


class PositionalAcceptance(Strict):
    """Each position has its own probability."""

    kind: Literal["by_position"]
    p: Annotated[list[Parameter], Field(min_length=1)]
    """Probability that each draft in turn is accepted if all drafts before it are."""

    @model_validator(mode="after")
    def _check(self) -> PositionalAcceptance:
        _check_probabilities(self.p)
        return self

    def shares(self, drafts: int) -> list[float]:
        return list(accumulate((float(p) for p in self.p), mul))


class RecordedAcceptance(Strict):
    """Accepted drafts as recorded, step after step.

    Each request starts at a row drawn at random and reads on row by row; after the last row it
    continues at the first. The order of the recording is kept.
    """

    kind: Literal["trace"]
    path: str
    """CSV file from the working directory with a column `accepted`: drafts accepted in a step."""
    source: Annotated[str, Field(min_length=3)]
    """Where the steps were recorded."""

    def shares(self, drafts: int) -> list[float]:
        recorded = read_accepted(self.path, drafts)
        return [float((recorded >= count).mean()) for count in range(1, drafts + 1)]


Acceptance = Annotated[
    ConstantAcceptance | PositionalAcceptance | RecordedAcceptance, Field(discriminator="kind")
]


class Speculation(Strict):
    """Draft tokens that the model verifies together in one step."""

    drafts: Annotated[int, Field(ge=1, le=16)]
    """Tokens drafted for each request and step."""
    draft_layer: Layer | None
    """Layer that drafts, one token after another, by the names of its attention and FFN on the
    model card (a multi-token prediction module: {attention: mla, ffn: moe} for DeepSeek-V3). It
    runs after the LM head, takes the last hidden state and the new token through a projection of
    2·hidden to hidden, and ends with an LM head; its weights and KV are held beside the model's.
    null: drafts take no time (prompt look-up)."""
    acceptance: Acceptance
    """How many drafts are accepted."""

    @model_validator(mode="after")
    def _check(self) -> Speculation:
        law = self.acceptance
        if isinstance(law, PositionalAcceptance) and len(law.p) != self.drafts:
            raise ValueError(
                f"acceptance.p has {len(law.p)} positions for {self.drafts} drafts: give one each"
            )
        return self

    @property
    def positions(self) -> int:
        """Tokens of a request that go through the model at once."""
        return self.drafts + 1

    def tokens_per_step(self) -> float:
        """Return the tokens that a request emits in a step, in the mean."""
        return 1 + sum(self.acceptance.shares(self.drafts))


@lru_cache(maxsize=8)
def read_accepted(path: str, drafts: int) -> Ints:
    """Return the accepted drafts of a recording, in its order.

    Raises ScenarioError naming bad lines: what is no whole number from 0 to `drafts`.
    """
    found: list[int] = []
    problems: list[str] = []
    for place, row in csv_columns.rows(path, ("accepted",), problems):
        count = csv_columns.whole(row["accepted"])
        if count is not None and 0 <= count <= drafts:
            found.append(count)
            continue
        got = excerpt(row["accepted"], 20)
        problem = (
            f"{count} drafts cannot be accepted of {drafts} drafted"
            if count is not None and count > drafts
            else f"accepted should be a whole number from 0 to {drafts} (got '{got}')"
        )
        problems.append(f"{place}: {problem}")
    if not (found or problems):
        problems = [f"{path}: at least 1 step is needed"]
    csv_columns.raise_any(path, problems)
    recorded = np.array(found, dtype=np.int64)
    recorded.setflags(write=False)
    return recorded
