"""Times put together from what GPUs decided before are those of the load asked at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.deployments.batch import Batch
from sim.deployments.deployment import Deployment
from sim.inputs import scenario

EP_SHARING_THE_HEAD = ("poisson-example", ())
EP_OF_MANY = ("dsv3-ep128", ())
EP_THAT_DRAFTS = ("dsv3-ep16-h200-mtp", ())
AFD_THAT_BROADCASTS = ("dsv3-afd", ())
AFD_BY_ROUTING = (
    "dsv3-afd",
    ("deployment.a2f=routed", "deployment.ffn.parallelism=ep", "deployment.ffn.instances=4"),
)
AFD_SHARING_PROJECTIONS = (
    "step3-2a2f",
    ("deployment.attention.o_proj_tp=4", "deployment.attention.lm_head_tp=8"),
)
SITES = (
    *(EP_SHARING_THE_HEAD, EP_OF_MANY, EP_THAT_DRAFTS),
    *(AFD_THAT_BROADCASTS, AFD_BY_ROUTING, AFD_SHARING_PROJECTIONS),
)


@lru_cache
def site(name: str, changes: tuple[str, ...]) -> Deployment:
    """Return a deployment that has seen loads of many kinds."""
    made = compile_deployment(scenario.load(name, list(changes)))
    for number in range(20):
        made.step(batch(made, np.arange(made.attention_gpus) % (number + 2)))
    return made


def batch(of: Deployment, requests: np.ndarray) -> Batch:
    windows = {None, *of.layout.bytes_per_token}
    return Batch(requests, dict.fromkeys(windows, requests * 1000))


@pytest.mark.parametrize(("name", "changes"), SITES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_known_and_new_loads_take_the_same_times(
    name: str, changes: tuple[str, ...], data: st.DataObject
) -> None:
    seen = site(name, changes)
    most = data.draw(st.sampled_from([1, 3, 40, 600]))
    some = st.lists(
        st.integers(0, most), min_size=seen.attention_gpus, max_size=seen.attention_gpus
    )
    load = batch(seen, np.array(data.draw(some), dtype=np.int64))
    fresh = seen.with_tables(lambda _side, table: table)
    found, expected = seen.step(load), fresh.step(load)
    assert found.times.values.tolist() == expected.times.values.tolist()
    assert found.times.delays_ns == expected.times.delays_ns
    assert found.usage_ns.tolist() == expected.usage_ns.tolist()
