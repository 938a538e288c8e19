"""Between loads: a whole request more or less decides nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.steady.between_loads import between_loads
from sim.steady.largest_load import fitting, fullest, most_fitting
from sim.steady.state import under_load
from tests import tiny

# Requests so long that a GPU holds a few of them.
LONG = (
    "workload.lengths={kind: drawn, prompt: {kind: fixed, tokens: 120000}, "
    "output: {kind: fixed, tokens: 200}}"
)
BASES = ("dsv3-ep128", "step3-2a2f")


def site(model: Path, base: str, holding: float, *more: str) -> Deployment:
    """Return a deployment with memory for `holding` requests on each attention GPU."""
    settings = (LONG, "slo.tpot_ms=1000", "admission.split=rows", *more)
    roomy = tiny.load(model, base, *settings).with_batch(1)
    found = compile_deployment(roomy)
    spare = found.kv_memory().kv_capacity_bytes() - holding * found.expected.claimed_bytes()
    reserve = roomy.memory.activation_reserve_gb + spare / 1e9
    small = roomy.with_settings({"memory.activation_reserve_gb": reserve})
    made = compile_deployment(small)
    assert fitting(made) == pytest.approx(holding)
    return made


def output(of: Deployment, each: int) -> float:
    return each / under_load(of, each * of.attention_gpus).tpot_ns if each else 0.0


def mean_output(of: Deployment) -> float:
    each = most_fitting(of)
    assert fullest(of, 1000).requests == each * of.attention_gpus
    return output(of, each) * between_loads(of, each).gain


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("holding", [1.2, 2.5, 2.9, 3.1, 6.75])
def test_output_is_the_mean_over_one_request(loaded_model: Path, base: str, holding: float) -> None:
    of = site(loaded_model, base, holding)
    spread = holding + (np.arange(1000) + 1 / 2) / 1000 - 1 / 2
    whole = [int(each) for each in spread]
    # An engine takes in no request that slows all by more than it adds.
    best = {each: max(output(of, k) for k in range(each + 1)) for each in set(whole)}
    mean = np.mean([best[each] for each in whole])
    assert mean_output(of) == pytest.approx(float(mean), rel=2e-3)
    assert between_loads(of, most_fitting(of)).load == pytest.approx(holding - 1 / 2)


@pytest.mark.parametrize("base", BASES)
def test_memory_for_one_request_more_is_no_step(loaded_model: Path, base: str) -> None:
    below, above = (site(loaded_model, base, holding) for holding in (2.9999, 3.0001))
    assert most_fitting(above) == most_fitting(below) + 1
    assert mean_output(above) == pytest.approx(mean_output(below), rel=1e-3)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("holding", [1.9, 2.4, 2.95, 3.2, 5.4])
def test_more_memory_helps_by_no_more_than_its_share(
    loaded_model: Path, base: str, holding: float
) -> None:
    now, more = (site(loaded_model, base, holding * by) for by in (1.0, 1.06))
    grown = mean_output(more) / mean_output(now)
    assert 1 <= grown <= (1.06 * holding - 1 / 2) / (holding - 1 / 2) + 1e-9


def test_a_mean_tpot_at_its_limit(loaded_model: Path) -> None:
    roomy = site(loaded_model, "dsv3-ep128", 9.0)
    slow = {each: under_load(roomy, each * roomy.attention_gpus).tpot_ns / 1e6 for each in (3, 4)}
    limit = slow[3] + 0.25 * (slow[4] - slow[3])
    of = compile_deployment(roomy.scenario.with_settings({"slo.tpot_ms": limit}).with_batch(1))
    found = between_loads(of, 3)
    assert found.load == pytest.approx(3.25)
    assert found.gain * output(of, 3) == pytest.approx(0.75 * output(of, 3) + 0.25 * output(of, 4))
    # A run that is slower than the steady state leaves less to spare.
    assert between_loads(of, 3, limit).load == pytest.approx(3.0)
    # Runs with one request less are compared with what they had.
    assert between_loads(of, 3, of=2).gain * output(of, 2) == pytest.approx(
        found.gain * output(of, 3)
    )
