"""The jobs that people wait for, one row each.

`make bench` runs all of them, `make bench ROWS='run or validate'` some. Two rows take a peer along
where LIGHT_LLM_SIMULATOR names a checkout of github.com/JiusiServe/light-llm-simulator.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from tests.bench import bare
from tests.bench.jobs import LOOPS, PAGE, PARSER, Bench, Spent

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
PEER_GRID = """
kind: sweep
name: peer-grid
set: {simulation.engine: bound, routing: {kind: uniform}}
families:
  - family: AFD
    base: dsv3-afd
    max_batch_under_slo: mean
    set:
      deployment.attention.accelerator: h100-sxm
      deployment.ffn.accelerator: h100-sxm
      deployment.ffn.parallelism: tp
    axes:
      - deployment.attention.instances: {from: 1, to: 63, step: 1}
      - deployment.ffn.instances: {from: 1, to: 40, step: 1}
"""
# The same shapes, in GPUs of 8 an instance; no drafted tokens.
PEER = (
    *("--serving_mode", "AFD", "--model_type", "deepseek-ai/DeepSeek-V3", "--tpot", "50"),
    *("--kv_len", "4096", "--micro_batch_num", "3", "--next_n", "0", "--multi_token_ratio", "0"),
    *("--deployment_mode", "Heterogeneous"),
    *("--device_type", "Nvidia_H100_SXM", "--min_die", "8", "--max_die", "504", "--die_step", "8"),
    *("--device_type2", "Nvidia_H100_SXM", "--min_die2", "8", "--max_die2", "320"),
    *("--die_step2", "8"),
)
# A search tries about 8 loads a shape, and a load needs 2 steps to show its time per step.
STEPS_A_SHAPE = 16
# 9 rates, 5 seeds, 300 requests in 90 s, 20 ms a step.
CAPACITY_STEPS = 200_000
# Ten paired runs a side in 6 pairs, with 3 micro-batches and at least 20 steps measured.
CELL_DRAWS = 10 * 2 * 6 * 3 * 20


def screened(bench: Bench, text: str) -> Spent:
    path = bench.file("shapes.yaml", text)
    out = str(bench.folder / "out")
    return bench.afdsim("sweep", path, "--workers", "1", "--out", out)


def test_screening(bench: Bench) -> None:
    spent = screened(bench, SHAPES)
    limit = bench.imports(PAGE) + bare.loop("step3-2a2f", 2_500 * STEPS_A_SHAPE)
    bench.row("screen 2,500 AFD shapes with batch search", spent, limit)


def test_screening_of_the_peer_s_grid(bench: Bench) -> None:
    spent = screened(bench, PEER_GRID)
    limit = bench.imports(PAGE) + bare.loop("dsv3-afd", 2_520 * STEPS_A_SHAPE)
    job = "screen 2,520 shapes of DeepSeek-V3 on H100"
    bench.row(job, spent, limit, "light-llm-simulator", peer(bench))


def peer(bench: Bench) -> float | None:
    if not (checkout := os.environ.get("LIGHT_LLM_SIMULATOR")):
        return None
    copy = bench.folder / "peer"  # it writes beside its sources
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
    words = (sys.executable, "src/cli/main.py", *PEER)
    return bench.run(*words, env={"LIGHT_LLM_SKIP_POST_PLOTS": "1"}, folder=copy).cpu_s


def test_study_cell(bench: Bench) -> None:
    only = ("--only", "model=DeepSeek-V3", "--only", "hardware=H800", "--only", "context=4K")
    out = str(bench.folder / "out")
    spent = bench.afdsim("study", "afd-vs-ep", *only, "--workers", "1", "--out", out)
    draws = bare.expert_draws(CELL_DRAWS, layers=58, experts=256, tokens=16_000)
    bench.row("one study cell: DeepSeek-V3, H800, 4K", spent, bench.imports(PAGE) + draws)


def test_capacity(bench: Bench) -> None:
    words = ("capacity", "poisson-example", "--set", "slo.tpot_ms=40", "--workers", "2")
    limit = bench.imports(LOOPS) + bare.loop("poisson-example", CAPACITY_STEPS)
    bench.row("capacity, the line of the README", bench.afdsim(*words), limit)


@pytest.fixture(scope="module")
def pareto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Spent, Path]]:
    made = Bench(folder=tmp_path_factory.mktemp("pareto"))
    out = made.folder / "out"
    yield made.afdsim("sweep", "step3-vs-dsv3", "--out", str(out)), out
    shutil.rmtree(made.folder)


def test_pareto(bench: Bench, pareto: tuple[Spent, Path]) -> None:
    spent, out = pareto
    columns = ["measured_steps", "replications"]
    ran = pyarrow.parquet.read_table(out / "sweep.parquet", columns=columns).to_pydict()
    steps = sum(int(s) * int(r) for s, r in zip(*ran.values(), strict=True) if s and r)
    limit = bench.imports(PAGE) + bare.loop("step3-2a2f", steps)
    bench.row(f"make pareto, {len(ran['replications']):,} points", spent, limit)


def test_plot(bench: Bench, pareto: tuple[Spent, Path]) -> None:
    spent = bench.afdsim("plot", str(pareto[1]), "--out", str(bench.folder / "page.html"))
    bench.row("plot of the same points", spent, bench.imports(PAGE))


def test_sweep_with_nothing_to_run(bench: Bench, pareto: tuple[Spent, Path]) -> None:
    spent = bench.afdsim("sweep", "step3-vs-dsv3", "--out", str(pareto[1]))
    bench.row("sweep of the same points with nothing to run", spent, bench.imports(PAGE))


def test_run_warm(bench: Bench) -> None:
    bench.afdsim("run", "step3-2a2f", "--out", str(bench.folder / "first"))
    spent = bench.afdsim("run", "step3-2a2f", "--out", str(bench.folder / "out"))
    bench.row("run, loops compiled before", spent, bench.imports(LOOPS))


def test_run_cold(bench: Bench) -> None:
    out = str(bench.folder / "out")
    spent = bench.afdsim("run", "step3-2a2f", "--out", out, cache=bench.folder / "cache")
    bench.row("run, loops not compiled", spent, bench.imports(LOOPS) + bare.compilation(bench))


def test_validate(bench: Bench) -> None:
    bench.afdsim("validate", "step3-2a2f")
    spent = bench.afdsim("validate", "step3-2a2f")
    bench.row("validate, modules compiled before", spent, bench.imports(PARSER))


def test_schema(bench: Bench) -> None:
    bench.afdsim("schema")
    spent = bench.afdsim("schema")
    bench.row("schema, modules compiled before", spent, bench.imports(PARSER))


def replayed(bench: Bench, job: str, name: str, requests: int, *settings: str) -> None:
    """Run an open loop to its end, beside the draws of its requests and a loop of its steps."""
    out = bench.folder / "out"
    words = [word for setting in settings for word in ("--set", setting)]
    spent = bench.afdsim("run", name, "--json", "--out", str(out), *words)
    assert spent.peak_mb < 2048
    served = pyarrow.parquet.read_metadata(out / "requests.parquet").num_rows
    assert served == requests
    steps = walked(out)
    limit = bench.imports(LOOPS) + bare.request_draws(requests) + bare.loop(name, steps)
    bench.row(f"{job}, {spent.cpu_s / steps * 1e6:.0f} µs a step", spent, limit)


def walked(folder: Path) -> int:
    """Return how many steps of all micro-batches a run made."""
    table = pyarrow.parquet.read_table(folder / "steps.parquet", columns=["micro_batch"])
    rows: int = table.num_rows
    return rows // len(table["micro_batch"].unique())


def test_open_loop(bench: Bench) -> None:
    arrivals = "workload.arrivals={kind: poisson, requests_per_s: 12, requests: 20000}"
    replayed(bench, "open loop on 8 GPUs, 20,000 requests", "poisson-example", 20_000, arrivals)


def test_million(bench: Bench) -> None:
    arrivals = "workload.arrivals={kind: poisson, requests_per_s: 250, requests: 1000000}"
    replayed(bench, "1,000,000 requests at 250/s on 128 GPUs", "dsv3-ep128", 1_000_000, arrivals)


@pytest.mark.parametrize("requests_per_s", [100, 1000])
def test_trace(bench: Bench, requests_per_s: int) -> None:
    path = bench.folder / "azure.csv"
    azure_like(path, requests_per_s, 100_000)
    workload = f"workload={{arrivals: {{kind: trace, path: {json.dumps(str(path))}}}}}"
    job = f"a trace of 100,000 requests at {requests_per_s}/s on 128 GPUs"
    replayed(bench, job, "dsv3-ep128", 100_000, workload)


def azure_like(path: Path, requests_per_s: float, rows: int) -> None:
    """Write a made-up trace in Azure's format, its lengths about those of the conversations.

    Means of 1,155 prompt and 211 output tokens are those that Splitwise (ISCA 2024) gives.
    """
    rng = np.random.default_rng(0)
    times_s = np.cumsum(rng.exponential(1 / requests_per_s, rows))
    prompts = np.clip(rng.lognormal(np.log(1155) - 0.32, 0.8, rows), 1, 14_000).astype(int)
    outputs = np.clip(rng.lognormal(np.log(211) - 0.32, 0.8, rows), 1, 1_500).astype(int)
    begun = datetime(2023, 11, 16, 18, 15, 46)
    with path.open("w", encoding="utf-8") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for time_s, prompt, output in zip(times_s, prompts, outputs, strict=True):
            at = begun + timedelta(seconds=float(time_s))
            file.write(f"{at:%Y-%m-%d %H:%M:%S.%f}0,{prompt},{output}\n")


def test_memory_of_2_560_gpus(bench: Bench) -> None:
    settings = [f"deployment.{side}.instances={n}" for side, n in (("attention", 312), ("ffn", 8))]
    settings.append("workload.arrivals.concurrency=98304")
    words = [word for setting in settings for word in ("--set", setting)]
    out = bench.folder / "out"
    spent = bench.afdsim("run", "dsv3-afd", "--json", "--out", str(out), *words)
    assert spent.peak_mb < 2048
    limit = bench.imports(LOOPS) + bare.loop("dsv3-afd", walked(out), *settings)
    bench.row("run of 2,560 GPUs with 98,304 requests", spent, limit)
