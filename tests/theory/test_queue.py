"""A decoder that serves one request at a time in constant time is the queue M/D/1.

One attention GPU, one micro-batch, KV for one request, like requests: each is alone for `output`
steps that all take the same time, since the window of the model's attention is shorter than any
prompt. The next one enters at the boundary at which it leaves, and a request that comes to an empty
GPU begins at once. So the waits obey Lindley's recursion to the nanosecond, and with Poisson
arrivals their mean is Pollaczek and Khinchin's ρ·D / (2·(1 − ρ)).
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.decoding.run import Run, simulate
from sim.deployments import compile_deployment
from sim.foundation.units import NS_PER_S
from sim.inputs.arrivals import Poisson, TimesNs
from tests import tiny

OUTPUT = 3
ALONE = (
    "deployment.attention.instances=1",
    "deployment.attention.gpus_per_instance=1",
    "deployment.ffn.instances=1",
    "deployment.ffn.gpus_per_instance=1",
    "deployment.micro_batches=1",
    f"workload.lengths.output={{kind: fixed, tokens: {OUTPUT}}}",
    "simulation.engine=recurrence",
)


def served(model: Path, arrivals: str) -> Run:
    """Return a run on a GPU with KV for one request."""
    scenario = tiny.load(model, "step3-2a2f", *ALONE, f"workload.arrivals={arrivals}")
    one = float(compile_deployment(scenario).layout.request_bytes(100 + OUTPUT))
    with patch("sim.deployments.kvcache.GpuMemory.kv_capacity_bytes", lambda _self: 1.9 * one):
        return simulate(scenario)


def poisson(rate_per_s: float, requests: int) -> str:
    return f"{{kind: poisson, requests_per_s: {rate_per_s}, requests: {requests}}}"


@pytest.fixture(scope="module")
def service_ns(tiny_model: Path) -> int:
    """Return the time of service, which no request can change."""
    requests = served(tiny_model, poisson(0.1, 3)).requests
    service = requests["last_token_ns"] - requests["admitted_ns"]
    assert len(set(service.tolist())) == 1
    return int(service[0])


def lindley_ns(arrival_ns: TimesNs, service_ns: int) -> TimesNs:
    """Return the waits of a queue with one server: W' = max(0, W + D − gap)."""
    # With S the sum of (D − gap), W is S less the least S so far.
    walk = np.concatenate([[0], np.cumsum(service_ns - np.diff(arrival_ns))])
    return np.asarray(walk - np.minimum.accumulate(walk))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9, 1.2])
def test_waits_obey_lindleys_recursion(load: float, tiny_model: Path, service_ns: int) -> None:
    run = served(tiny_model, poisson(load / service_ns * NS_PER_S, 1500))
    requests = run.requests
    assert requests["finished"].all()
    waits: NDArray[np.int64] = requests["admitted_ns"] - requests["arrival_ns"]
    assert np.array_equal(waits, lindley_ns(requests["arrival_ns"], service_ns))
    assert (run.steps["tokens"] <= 1).all()


@pytest.mark.parametrize("load", [0.3, 0.5, 0.7])
def test_the_mean_wait_of_poisson_arrivals_is_that_of_m_d_1(load: float, service_ns: int) -> None:
    rate_per_s = load / service_ns * NS_PER_S
    arrivals = Poisson(kind="poisson", requests_per_s=rate_per_s, requests=1)
    arrival_ns = np.concatenate(list(islice(arrivals.blocks_ns(0), 500)))
    expected_ns = load * service_ns / (2 * (1 - load))
    assert lindley_ns(arrival_ns, service_ns).mean() == pytest.approx(expected_ns, rel=0.01)


def test_the_mean_wait_of_a_run_is_that_of_m_d_1(tiny_model: Path, service_ns: int) -> None:
    # The mean of so many waits, each like the one before, scatters by 4 % itself.
    load = 0.5
    run = served(tiny_model, poisson(load / service_ns * NS_PER_S, 12_000))
    waits = run.requests["admitted_ns"] - run.requests["arrival_ns"]
    assert np.array_equal(waits, lindley_ns(run.requests["arrival_ns"], service_ns))
    assert waits.mean() == pytest.approx(load * service_ns / (2 * (1 - load)), rel=0.08)
