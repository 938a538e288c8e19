"""All Hypothesis strategies of the tests."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import strategies as st

from tests.oracles import EpTimes, Floats, RingTimes

# Durations come small, where ties and near-ties are frequent, or scaled up to real nanoseconds.
scales = st.sampled_from([1, 1, 997, 1_000])


@st.composite
def durations(draw: st.DrawFn, count: int, most: int = 40) -> list[int]:
    """Draw `count` durations of one scale, some of them zero."""
    scale = draw(scales)
    return [scale * draw(st.integers(0, most)) for _ in range(count)]


layer_counts = st.integers(1, 5)
micro_batch_counts = st.integers(1, 5)
server_counts = st.integers(1, 3)


@st.composite
def ring_cases(draw: st.DrawFn) -> RingTimes:
    """Draw the durations of a ring whose layers, GPUs and instances all differ."""
    layers, gpus, instances = draw(st.integers(1, 4)), draw(server_counts), draw(server_counts)
    scale = draw(scales)

    def drawn(*shape: int) -> Floats:
        return draw(_grids(shape)) * scale

    return RingTimes(
        attention=drawn(layers, gpus),
        a2f=drawn(layers, gpus),
        a2f_in=drawn(layers, instances),
        all_gather=drawn(layers, instances),
        experts=drawn(layers, instances),
        reduce_scatter=drawn(layers, instances),
        f2a=drawn(layers, instances),
        f2a_in=drawn(layers, gpus),
        lm_head=drawn(gpus),
        link=scale * draw(st.integers(0, 20)),
        host=scale * draw(st.integers(0, 60)),
    )


@st.composite
def ep_cases(draw: st.DrawFn) -> EpTimes:
    """Draw the durations of an EP schedule whose layers and GPUs all differ."""
    layers, gpus = draw(st.integers(1, 4)), draw(server_counts)
    scale = draw(scales)

    def drawn(*shape: int) -> Floats:
        return draw(_grids(shape)) * scale

    return EpTimes(
        attn0=drawn(layers, gpus),
        attn1=drawn(layers, gpus),
        shared=drawn(layers, gpus),
        experts=drawn(layers, gpus),
        dispatch=drawn(layers),
        combine=drawn(layers),
        lm_head=drawn(gpus),
        host=scale * draw(st.integers(0, 60)),
    )


def _grids(shape: tuple[int, ...]) -> st.SearchStrategy[Floats]:
    size = math.prod(shape)
    values = st.lists(st.integers(0, 40), min_size=size, max_size=size)
    return values.map(lambda numbers: np.array(numbers, dtype=np.float64).reshape(shape))
