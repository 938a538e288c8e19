"""A long trace and a very long run: CPU time and memory of one process.

Run with `pytest -m bench -s tests/bench/test_replay.py`.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from time import process_time

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.inputs import scenario
from sim.inputs.traces import recorded

pytestmark = pytest.mark.bench

ROWS = 100_000
ROOT = Path(__file__).resolve().parents[2]


def azure_like(path: Path, requests_per_s: float) -> None:
    """Write a made-up trace in Azure's format, its lengths about those of the conversations.

    Means of 1,155 prompt and 211 output tokens are those that Splitwise (ISCA 2024) gives.
    """
    rng = np.random.default_rng(0)
    times_s = np.cumsum(rng.exponential(1 / requests_per_s, ROWS))
    prompts = np.clip(rng.lognormal(np.log(1155) - 0.32, 0.8, ROWS), 1, 14_000).astype(int)
    outputs = np.clip(rng.lognormal(np.log(211) - 0.32, 0.8, ROWS), 1, 1_500).astype(int)
    begun = datetime(2023, 11, 16, 18, 15, 46)
    with path.open("w") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for time_s, prompt, output in zip(times_s, prompts, outputs, strict=True):
            at = begun + timedelta(seconds=float(time_s))
            file.write(f"{at:%Y-%m-%d %H:%M:%S.%f}0,{prompt},{output}\n")


@pytest.mark.parametrize("requests_per_s", [100, 1000])
def test_a_trace_of_100_000_requests_on_128_gpus(requests_per_s: float, tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    azure_like(path, requests_per_s)
    begun = process_time()
    assert len(recorded.read(str(path), timed=True).prompt) == ROWS
    read_s = process_time() - begun
    loaded = scenario.load("dsv3-ep128", [f"workload={{arrivals: {{kind: trace, path: {path}}}}}"])
    begun = process_time()
    run = simulate(loaded)
    spent_s = process_time() - begun
    assert run.engine == "recurrence"
    assert run.requests["finished"].sum() == ROWS
    rows = len(run.steps["step"])
    print(
        f"\n{ROWS:,} requests at {requests_per_s:g} a second on dsv3-ep128: read in {read_s:.2f} s,"
        f" replayed in {spent_s:.1f} s of CPU, {rows:,} steps, {spent_s / rows * 1e6:.0f} µs each"
    )
    assert read_s < 2
    assert spent_s < 60


MILLION = """
import resource
from sim.inputs import scenario
from sim.decoding.run import simulate
run = simulate(scenario.load("{name}", [
    "workload.arrivals={{kind: poisson, requests_per_s: {rate}, requests: 1000000}}",
    "workload.lengths={{kind: drawn, "
    "prompt: {{kind: lognormal, mean: 600, cv: 1, max_tokens: 8000}}, "
    "output: {{kind: geometric, mean: 40, max_tokens: 400}}}}",
]))
assert run.requests["finished"].sum() == 1000000
print(len(run.steps["step"]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.parametrize(("name", "rate"), [("dsv3-ep128", 10_000), ("dsv3-ep8-h200", 400)])
def test_a_million_requests_in_bounded_memory(name: str, rate: int) -> None:
    command = [sys.executable, "-c", MILLION.format(name=name, rate=rate)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows, peak_mb = done.stdout.split()
    print(f"\n{name}: a million requests in {int(rows):,} steps, peak {float(peak_mb):,.0f} MB")
    assert float(peak_mb) < 2000
