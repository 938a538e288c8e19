"""Times beyond 64 bits: refused with what takes them, never wrapped to negative ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.decoding.run import simulate
from sim.foundation.errors import EXIT_BAD_INPUT, ScenarioError
from sim.foundation.nanoseconds import MOST_TASK_NS, from_us, whole_ns
from sim.inputs import cards, scenario
from sim.kernels import cores, ops
from sim.kernels.core_line import CoreLine
from sim.kernels.curve import Curve
from sim.kernels.kernel_table import KernelTable
from sim.kernels.timed import Ints


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 3))
def test_a_time_is_rounded_or_told(time_ns: float, place: int) -> None:
    times = np.zeros(4)
    times[place] = time_ns
    if -0.5 <= time_ns <= MOST_TASK_NS:
        assert whole_ns(times, "x").tolist()[place] == round(time_ns)
        return
    with pytest.raises(ScenarioError, match=r"all-reduce takes .* s, which should be") as caught:
        whole_ns(times, "all-reduce")
    assert caught.value.exit_code == EXIT_BAD_INPUT


def test_no_times_are_none() -> None:
    assert whole_ns([], "x").tolist() == []
    assert from_us(1.5, "x") == 1500


@pytest.mark.parametrize("overhead_us", [1e13, float("inf")])
def test_a_core_on_an_absurd_curve_is_told_with_curve_and_card(overhead_us: float) -> None:
    def core(requests: Ints, tokens: Ints) -> ops.Op:
        return cores.gqa("bf16", 8, 1, 128, requests, tokens, 64)

    ones, nodes = np.ones(2, dtype=np.int64), np.array([1.0, 100.0])
    op = core(ones, ones)
    curve = Curve(
        op.name, op.kernel, op.dtype, op.key, overhead_us, 0.5, 0.5, 1.0, "test", "test", 4,
        mape=0.1, p90=0.1, axes=(("batch", nodes), ("kv_len", nodes)), residual=np.zeros((2, 2)),
    )  # fmt: skip
    table = KernelTable(cards.accelerator("h800"), [curve])
    line = CoreLine(table, core)
    with pytest.raises(ScenarioError, match=r"attention_gqa/.* on h800 takes"):
        line.timed(ones, 100 * ones)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("admission.kv_transfer={nic_share: {value: 1, source: test}, latency_us: {value: 1.0e+6, "
         "source: test}}", None),
        ("noise={tasks: [{server: gpu, law: {kind: empirical, factors: [1.0e+12, 2.0e+12], "
         "source: test}}]}", "a disturbed task takes"),
        ("workload.arrivals={kind: poisson, requests_per_s: 1.0e-9, requests: 20}", "a gap"),
        ("workload.arrivals={kind: gamma, cv: 1, requests_per_s: 1.0e-300, requests: 20}", "a gap"),
    ],
)  # fmt: skip
def test_scenarios_whose_times_overflow(setting: str, said: str | None) -> None:
    loaded = scenario.load("step3-2a2f", ["simulation.max_steps=20", setting])
    if said is None:
        assert (simulate(loaded).steps["end_ns"] > 0).all()
        return
    with pytest.raises(ScenarioError, match=said):
        simulate(loaded)


@pytest.mark.parametrize(
    ("key", "value"),
    [("flops_per_s", 989.0), ("hbm_bytes_per_s", 3350.0), ("scale_up_bytes_per_s", 1.0)],
)
def test_a_card_in_another_unit_is_refused_before_a_run(
    key: str, value: float, tmp_path: Path
) -> None:
    text = cards.find(cards.ACCELERATORS, "h800", "card").read_text()
    pattern = (
        rf"({key}:\n  bf16: {{value: )[^,]+"
        if key == "flops_per_s"
        else rf"( {key}: {{value: |^{key}: {{value: )[^,]+"
    )
    text, count = re.subn(pattern, rf"\g<1>{value}", text, flags=re.M)
    assert count == 1
    path = tmp_path / "H.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=rf"H\.yaml:\d+:\d+: .*{value:g} "):
        scenario.load("step3-2a2f", [f"deployment.ffn.accelerator={path}"])
