"""Requests of scripted workloads."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from hypothesis import strategies as st


class Arrival(NamedTuple):
    """A request of a scripted workload."""

    at_ns: int
    prompt: int
    output: int


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    """Draw up to 25 requests in the order of their arrivals, several of them at one instant."""
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 7, 10, 35]), min_size=1, max_size=25))
    lengths = [(draw(st.integers(1, 25)), draw(st.integers(1, 8))) for _ in gaps]
    return [
        Arrival(at, prompt, output)
        for at, (prompt, output) in zip(accumulate(gaps), lengths, strict=True)
    ]
