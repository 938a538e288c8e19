"""Loads looked up together take what each takes alone, and so do searches side by side."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.deployments.steps import slowest
from sim.experiments.largest_batch import max_batch_under_slo, max_batches_by_bound
from sim.foundation.errors import InfeasibleError
from sim.inputs import scenario
from sim.steady.largest_load import fullest, fullest_of_each
from sim.steady.load_times import LoadTimes, shares
from sim.steady.state import SteadyState, likeness

AFD_SHARING_PROJECTIONS = (
    "step3-2a2f",
    ("deployment.attention.o_proj_tp=4", "deployment.attention.lm_head_tp=8"),
)
AFD_BY_ROUTING = ("dsv3-afd", ("deployment.ffn.gpus_per_instance=4",))
AFD_OF_WIDE_INSTANCES = (
    "step3-2a2f",
    ("deployment.attention.instances=1", "deployment.ffn.gpus_per_instance=32",
     "deployment.ffn.accelerator=gb200"),
)  # fmt: skip
AFD_OF_UNEVEN_RAILS = (
    "dsv3-afd",
    ("deployment.attention.instances=3", "deployment.attention.gpus_per_instance=4",
     "deployment.attention.lm_head_tp=2"),
)  # fmt: skip
AFD_IN_TRAYS = (
    "dsv3-afd-gb200",
    ("deployment.ffn.gpus_per_instance=4", "deployment.ffn.instances=8",
     "deployment.micro_batches=3"),
)  # fmt: skip
EP = ("dsv3-ep72-h100-mtp", ())
SITES = (
    *(AFD_SHARING_PROJECTIONS, AFD_BY_ROUTING, AFD_OF_WIDE_INSTANCES, AFD_OF_UNEVEN_RAILS),
    *(AFD_IN_TRAYS, EP),
)


@lru_cache
def site(name: str, changes: tuple[str, ...]) -> Deployment:
    return compile_deployment(scenario.load(name, changes).with_batch(1))


@pytest.mark.parametrize(("name", "changes"), SITES)
@given(loads=st.lists(st.integers(0, 20_000), min_size=1, max_size=6, unique=True))
@settings(max_examples=25, deadline=None)
def test_gpus_that_stand_for_others_take_their_times(
    name: str, changes: tuple[str, ...], loads: list[int]
) -> None:
    made = site(name, changes)
    gpus, neighbours = made.attention_gpus, made.neighbours
    block = neighbours if gpus % neighbours == 0 else gpus
    counts = np.full(len(loads), gpus)
    rows, usage_ns = made.durations(made.expected.representative(counts, np.array(loads), block))
    for place, requests in enumerate(loads):
        alone = made.durations(made.expected.batch_of(requests))
        of_load = {
            key: np.broadcast_to(ns, (len(loads), ns.shape[-1]))[place] for key, ns in rows.items()
        }
        assert slowest(of_load) == slowest(alone.rows)
        assert usage_ns[place].tolist() == alone.usage_ns.tolist()


@given(
    sides=st.lists(st.tuples(st.integers(1, 9), st.sampled_from([2, 4])), min_size=2, max_size=5),
    micro_batches=st.integers(1, 4),
    tpot_ms=st.floats(5, 90),
)
@settings(max_examples=10, deadline=None)
def test_searches_side_by_side_find_what_each_finds_alone(
    sides: list[tuple[int, int]], micro_batches: int, tpot_ms: float
) -> None:
    base = scenario.load("dsv3-afd", [f"deployment.micro_batches={micro_batches}"])
    sites = [
        compile_deployment(base.with_settings({
            "deployment.attention.instances": attention, "deployment.ffn.instances": ffn,
        }).with_batch(1))
        for attention, ffn in sides
    ]  # fmt: skip
    together = fullest_of_each(sites, [tpot_ms] * len(sites))
    for made, found in zip(sites, together, strict=True):
        alone = fullest(made, tpot_ms)
        assert (found.requests, found.step_ns) == (alone.requests, alone.step_ns)
        assert found.usage_ns.tolist() == alone.usage_ns.tolist()


def test_the_step_does_not_depend_on_the_loads_before() -> None:
    """The search for the critical circuit begins with that of the load before."""
    made, gpus = site(*AFD_BY_ROUTING), site(*AFD_BY_ROUTING).attention_gpus
    loads = LoadTimes()
    for requests in (40 * gpus, 3 * gpus, 500 * gpus, gpus, 77 * gpus + 5):
        loads.look_up(made, shares(made, requests))
        state = SteadyState.under(loads, made, requests)
        assert state.engine.step_ns(state.times) == state.engine.bound(state.times).step_ns


def test_a_shape_that_does_not_fit_hinders_no_other() -> None:
    base = scenario.load("dsv3-afd", ["simulation.engine=bound"])
    shapes = [base.with_settings({"deployment.ffn.instances": count}) for count in (1, 4)]
    refused, figures = max_batches_by_bound(shapes)
    assert isinstance(refused, InfeasibleError)
    assert figures == max_batch_under_slo(shapes[1])
    with pytest.raises(InfeasibleError):
        max_batch_under_slo(shapes[0])


def test_only_the_number_of_attention_gpus_may_differ_among_the_like() -> None:
    base = scenario.load("dsv3-afd")
    wider, more = (
        base.with_settings({f"deployment.{side}.instances": 2}) for side in ("attention", "ffn")
    )
    assert likeness(wider) == likeness(base) == likeness(base.with_batch(7))
    assert likeness(more) != likeness(base)
