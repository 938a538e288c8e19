"""Workload: the requests that arrive, and how long their prompts and outputs are.

Requests arrive prefilled: a request brings `prompt` tokens of KV and decodes `output` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from sim.inputs.arrivals import Arrivals, ClosedLoop, TimesNs, Trace
from sim.inputs.base import Strict
from sim.inputs.lengths import (
    BLOCK,
    MOST_TOKENS,
    Count,
    CsvLengths,
    DrawnLengths,
    Length,
    Lengths,
    Tokens,
    prompt_under,
)

# Answers of InferenceX's loads (1K/1K and 8K/1K).
_OUTPUT = {"kind": "fixed", "tokens": 1024}
_LENGTH: TypeAdapter[Length] = TypeAdapter(Length)


class Workload(Strict):
    """Arrivals and lengths of the requests."""

    arrivals: Arrivals
    """When requests arrive."""
    context: Annotated[Count | None, Field(exclude=True)] = None
    """Short form of `lengths`: mean context of a request in flight, tokens, such as 8192. All
    prompts have the length that makes it so: a request in flight holds its prompt and half of its
    output in the mean (of outputs that differ, more: long ones are in flight longer). `lengths`
    may state the output, and no prompt; without it outputs have 1,024 tokens, as in InferenceX's
    loads 1K/1K and 8K/1K. `--set workload.context` takes the place of a prompt. Results state the
    lengths."""
    lengths: Lengths | None = None
    """Lengths of prompts and outputs; a trace brings its own."""

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, data: Any) -> Any:
        """Put the lengths in the place of a context; a wrong context is told, no missing prompt."""
        if not isinstance(data, dict) or data.get("context") is None:
            return data
        context, lengths = data["context"], data.get("lengths") or {}
        arrivals = data.get("arrivals")
        if isinstance(arrivals, dict) and arrivals.get("kind") == "trace":
            raise ValueError("a trace brings its own lengths: leave context out")
        if not isinstance(lengths, dict):
            return data
        if not (type(context) is int and 0 < context <= MOST_TOKENS):
            told = {"prompt": {"kind": "fixed", "tokens": 1}, **lengths}
            return data | {"lengths": told} if lengths else data
        if lengths.get("kind") == "csv":
            raise ValueError("a file of lengths brings the prompts: leave context out")
        if "prompt" in lengths:
            raise ValueError("context and lengths.prompt state the same: leave one of them out")
        lengths = {"kind": "drawn", "output": _OUTPUT, **lengths}
        prompt = {"kind": "fixed", "tokens": _prompt(context, lengths["output"])}
        rest = {name: part for name, part in data.items() if name != "context"}
        return rest | {"lengths": {"prompt": prompt, **lengths}}

    @model_validator(mode="after")
    def _check(self) -> Workload:
        if isinstance(self.arrivals, Trace) and self.lengths is not None:
            raise ValueError("a trace brings its own lengths: leave lengths out")
        if not isinstance(self.arrivals, Trace) and self.lengths is None:
            raise ValueError(f"arrivals of kind {self.arrivals.kind} need lengths: add this key")
        return self

    @property
    def law(self) -> DrawnLengths | CsvLengths | Trace:
        """What draws lengths that requests of this workload may have."""
        if isinstance(self.arrivals, Trace):
            return self.arrivals
        assert self.lengths is not None
        return self.lengths

    def recording(self) -> CsvLengths | Trace | None:
        """Return what is read from a file, None if nothing is."""
        return None if isinstance(self.law, DrawnLengths) else self.law

    def notes(self) -> list[str]:
        """Return how its file is read where that is not plain. Raises ScenarioError."""
        recording = self.recording()
        if recording is None:
            return []
        recorded, path = recording.read(), recording.path
        notes = [recorded.unit_note] if recorded.unit_note else []
        if recorded.bad_rows:
            notes += [*recorded.bad, f"{path}: bad rows left out: {recorded.bad_rows:,}"]
        if recorded.clipped_rows:
            notes.append(f"{path}: requests cut to the longest context: {recorded.clipped_rows:,}")
        return notes


def _prompt(context: int, output: Any) -> int:
    """Return the prompts under a context, any if the output is wrong, which is told elsewhere."""
    try:
        law = _LENGTH.validate_python(output)
    except ValidationError:
        return context
    prompt = prompt_under(context, law)
    if prompt < 1:
        raise ValueError(
            f"context {context:,} leaves no prompt: a request in flight has decoded "
            f"{law.mean_age():,.0f} tokens in the mean; write a longer context or shorter outputs"
        )
    return prompt


class Requests:
    """The line of requests of a workload, drawn block by block; endless in a closed loop."""

    def __init__(self, workload: Workload, seed: int) -> None:
        self._law = workload.law
        self._seed = seed
        arrivals = workload.arrivals
        self._times: Iterator[TimesNs] | None = None
        self.count = 0
        """Requests of an open loop; 0 in a closed one."""
        if isinstance(arrivals, Trace):
            recorded = arrivals.read()
            self._recorded, self.count = recorded, len(recorded.prompt)
        elif not isinstance(arrivals, ClosedLoop):
            self._times, self.count = arrivals.blocks_ns(seed), arrivals.requests

    def block(self, first: int) -> tuple[Tokens, Tokens, TimesNs | None] | None:
        """Return prompt, output and arrival (ns) of request `first` and the rest of its block.

        The arrivals of a closed loop are its scheduler's: None. Returns None past the last request
        of an open workload, whose blocks must be asked for in order and whole.
        """
        if isinstance(self._law, Trace):
            return self._replayed(first)
        if self._times is not None and first >= self.count:
            return None
        number, offset = divmod(first, BLOCK)
        prompt, output = self._law.draw(self._seed, "request", number)
        if self._times is None:
            return prompt[offset:], output[offset:], None
        count = min(self.count - first, BLOCK)
        return prompt[:count], output[:count], next(self._times)[:count]

    def _replayed(self, first: int) -> tuple[Tokens, Tokens, TimesNs] | None:
        recorded, rows = self._recorded, slice(first, first + BLOCK)
        if first >= len(recorded.prompt):
            return None
        return recorded.prompt[rows], recorded.output[rows], recorded.arrival_ns[rows]
