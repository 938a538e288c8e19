"""Whole deployments against their published throughput. No constant was tuned to either."""

from __future__ import annotations

import pytest

from sim import metrics, scenario
from sim.run import simulate


def tgs(name: str, *overrides: str) -> float:
    run = simulate(scenario.load(name, ["simulation.engine=event", *overrides]))
    return float(metrics.summary(run)["tgs"])


# Tokens per second and GPU over all GPUs: Step-3 report, table 8; deepseek-ai/profile-data.
STEP3_TGS = 4039
DSV3_TGS = 2324


@pytest.mark.xfail(
    strict=True,
    reason="22 % too slow by the fitted NVLink and MFA kernels of H800; see docs/validation.md",
)
def test_step3_2a2f() -> None:
    assert tgs("step3-2a2f") == pytest.approx(STEP3_TGS, rel=0.20)


def test_step3_2a2f_on_the_nvlink_that_the_report_leaves_open() -> None:
    # The report says "Hopper" of its GPUs; H100's NVLink is twice as fast as H800's.
    sides = [f"deployment.{side}.accelerator=h100-sxm" for side in ("attention", "ffn")]
    assert tgs("step3-2a2f", *sides) == pytest.approx(STEP3_TGS, rel=0.20)


def test_dsv3_ep128() -> None:
    assert tgs("dsv3-ep128") == pytest.approx(DSV3_TGS, rel=0.25)
