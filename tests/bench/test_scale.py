"""How far it goes: shapes screened per second, cost by size, and the memory of the largest runs.

Run with `pytest -m bench -s tests/bench/test_scale.py`. Times are CPU times of one process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from time import process_time

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.inputs import scenario
from sim.sweeps import sweep

pytestmark = pytest.mark.bench

SHAPES = """
kind: sweep
name: shapes
set: {simulation.engine: bound, routing: {kind: uniform}}
families:
  - family: AFD
    base: step3-2a2f
    max_batch_under_slo: mean
    set: {deployment.ffn.parallelism: tp}
    axes:
      - deployment.attention.instances: {from: 1, to: 50, step: 1}
      - deployment.ffn.instances: {from: 1, to: 50, step: 1}
"""


def test_shapes_screened_on_one_core(tmp_path: Path) -> None:
    path = tmp_path / "shapes.yaml"
    path.write_text(SHAPES)
    sweep.load(path).points[0].outcome()
    begun = process_time()
    points = sweep.load(path).points
    loaded_s = process_time() - begun
    found = [point.outcome() for point in points]
    spent_s = process_time() - begun
    met = sum(one["status"] == "ok" and one["slo_met"] for one in found)
    print(
        f"\n{len(points)} AFD shapes with their batch search: {spent_s:.1f} s of CPU, of which "
        f"{loaded_s:.1f} s to read and check them; {met} meet the SLO"
    )
    assert spent_s < 60


@pytest.mark.parametrize(
    ("what", "settings", "sizes"),
    [
        ("GPUs", ("deployment.attention.instances={}", "workload.arrivals.concurrency=6144"),
         (8, 32, 128)),
        ("steps", ("simulation.min_steps={}", "simulation.max_steps={}"), (100, 400, 1600)),
    ],
)  # fmt: skip
def test_cost_grows_no_faster_than_the_size(
    what: str, settings: tuple[str, ...], sizes: tuple[int, ...]
) -> None:
    spent = []
    for size in sizes:
        loaded = scenario.load(
            "dsv3-afd", ["simulation.min_steps=100", "simulation.max_steps=100",
                         *(setting.format(size) for setting in settings)]
        )  # fmt: skip
        simulate(loaded)
        begun = process_time()
        simulate(loaded)
        spent.append(process_time() - begun)
    exponent = np.polyfit(np.log(sizes), np.log(spent), 1)[0]
    times = ", ".join(f"{size}: {s:.2f} s" for size, s in zip(sizes, spent, strict=True))
    print(f"\ncost by {what} ({times}): exponent {exponent:.2f}")
    assert exponent < 1.3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "dsv3-afd",
            ("deployment.attention.instances=312", "deployment.ffn.instances=8",
             "workload.arrivals.concurrency=98304"),
        ),
        (
            "dsv3-ep128",
            ("workload.arrivals={kind: poisson, requests_per_s: 250, requests: 1000000}",),
        ),
    ],
    ids=["2,560 GPUs", "1,000,000 requests"],
)  # fmt: skip
def test_memory_of_the_largest_runs(tmp_path: Path, name: str, settings: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "sim.cli", "run", name, "--json", "--out", str(tmp_path / "r")]
    command += [word for setting in settings for word in ("--set", setting)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak_mib = after.ru_maxrss / 1024
    print(f"\n{name} {settings}: {spent_s:.0f} s of CPU, peak {peak_mib:.0f} MiB")
    assert peak_mib < 2048
