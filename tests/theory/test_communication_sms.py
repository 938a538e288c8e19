"""SMs that communication takes: compute-bound kernels slow by their share, others do not."""

from __future__ import annotations

import numpy as np
import pytest

from sim.deployments import compile_deployment
from sim.deployments.deployment import Deployment
from sim.foundation.errors import ScenarioError
from sim.foundation.nanoseconds import Ns
from sim.inputs import cards, scenario
from sim.kernels import ops
from sim.kernels.kernel_table import KernelTable

PLAIN = ("software=ideal",)
TAKEN = ("software.communication_sms={value: 38, source: test}",)  # a quarter of GB200's 152
GB200 = "deployment.accelerator=gb200"


def bare(name: str) -> KernelTable:
    """Return the table of a card without curves: kernels reach a share of the roofline."""
    return KernelTable(cards.accelerator(name))


def test_a_compute_bound_kernel_slows_by_the_share_of_the_sms() -> None:
    op = ops.gemm("fp8", 8192.0, 8192, 8192, 1.0)
    whole, left = bare("gb200").timed(op), bare("gb200").without_sms(38).timed(op)
    assert left.ns == pytest.approx(whole.ns * 4 / 3, abs=1)


def test_a_memory_bound_kernel_keeps_its_time() -> None:
    op = ops.gemm("fp8", 1.0, 8192, 8192, 1.0)
    assert bare("gb200").without_sms(38).timed(op).ns == bare("gb200").timed(op).ns


def site(base: str, *settings: str) -> Deployment:
    return compile_deployment(scenario.load(base, (*PLAIN, *settings)))


def rows(base: str, *settings: str) -> dict[str, Ns]:
    """Return the durations of the most frequent layer by stage."""
    made = site(base, *settings)
    found = made.durations(made.expected.batch()).rows
    busiest = made.kinds.index(max(made.kinds, key=made.uses))
    return {stage: ns for (stage, of), ns in found.items() if of == busiest}


def slowed(base: str, *settings: str) -> set[str]:
    """Return the stages that last longer, none by more than the share of the SMs."""
    before, after = rows(base, *settings), rows(base, *settings, *TAKEN)
    for stage, ns in before.items():
        assert (after[stage] >= ns).all()
        assert (after[stage] <= np.ceil(ns * 4 / 3) + 16).all(), stage
    return {stage for stage, ns in before.items() if (after[stage] > ns).any()}


def test_only_what_runs_beside_communication_slows() -> None:
    crowd = ("workload.arrivals.requests_per_gpu=512", "workload.lengths.prompt.tokens=100")
    wide = ("deployment.redundant_experts=0", "deployment.gpus=64", GB200, *crowd)
    assert slowed("dsv3-ep128", *wide) == {"attn0", "attn1", "shared"}
    assert slowed("dsv3-afd-gb200", *crowd) == {"attention", "experts"}


def test_nothing_slows_without_another_micro_batch() -> None:
    assert slowed("dsv3-ep128", GB200, "deployment.gpus=64", "deployment.overlap=none") == set()
    assert slowed("dsv3-afd-gb200", "deployment.micro_batches=1") == set()


def test_nics_take_no_sms() -> None:
    assert slowed("step3-2a2f", "deployment.ffn.accelerator=gb200") == set()


def test_dense_layers_have_no_exchange_beside_them() -> None:
    made, plain = site("dsv3-ep128", *TAKEN), site("dsv3-ep128")
    dense = [n for n, kind in enumerate(made.kinds) if "dense" in str(kind.layer.ffn)]
    batch = made.expected.batch()
    found, expected = made.durations(batch).rows, plain.durations(batch).rows
    assert dense
    for (stage, of), ns in expected.items():
        if of in dense:
            assert found[stage, of].tolist() == ns.tolist()


def test_steps_are_those_durations() -> None:
    """What is kept from step to step is timed beside communication as well."""
    made = site("dsv3-afd-gb200", *TAKEN)
    batch, program = made.expected.batch(), made.program
    durations = program.times(made.durations(batch).rows, made.delays_ns)
    assert made.step(batch).times.values.tolist() == durations.values.tolist()


def test_no_sms_taken_changes_nothing() -> None:
    none = "software.communication_sms={value: 0, source: test}"
    before, after = rows("dsv3-afd-gb200"), rows("dsv3-afd-gb200", none)
    assert {s: ns.tolist() for s, ns in before.items()} == {
        s: ns.tolist() for s, ns in after.items()
    }


def test_a_card_that_tells_no_sms_or_has_too_few() -> None:
    many = "software.communication_sms={value: 77, source: test}"
    with pytest.raises(ScenarioError, match="takes 77 of the 152 SMs of gb200"):
        rows("dsv3-afd-gb200", many)
    with pytest.raises(ScenarioError, match="add `sms` to its card"):
        cards.accelerator("ascend-910b").without_sms(1)
