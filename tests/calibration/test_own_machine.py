"""Measure, fit and run, as the README says, with a timer that stands in for the GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim import simulate
from sim.calibration import measurement_files
from sim.calibration.families import FAMILIES
from sim.calibration.measure import SOURCE, texts, write
from sim.calibration.merge import changes
from sim.cli import measure
from sim.cli.verbs import app
from sim.experiments import kernel_cases
from sim.experiments.kernel_demand import demands
from sim.inputs import cards
from sim.inputs.scenario import load
from sim.kernels import served
from sim.kernels.table_file import dump, read
from sim.kernels.timed import Status
from sim.metrics.summary import summary
from tests.calibration.fake_gpu import FakeGpu

SCENARIO = "dsv3-ep8-h200"

# No measurement file has a form for it: it runs at the card's default efficiency.
UNMEASURED = {"attention_linear", "attention_mamba2"}
# Whole blocks of an engine, and its mixing of streams, which `afdsim measure` does not run.
BLOCKS = {
    *("attention_dsa", "attention_hca", "attention_csa", "attention_block_sparse"),
    *("attention_gdn", "attention_kda"),
    *("mhc_pre", "mhc_post"),
}

# In the form of AMD's data sheet; figures are near those of an MI325X.
NEW_CARD = """
kind: accelerator
name: mi325x
vendor: AMD
architecture: cdna3
flops_per_s:
  bf16: {value: 1.307e+15, source: "data sheet"}
  fp8: {value: 2.614e+15, source: "data sheet"}
hbm_bytes_per_s: {value: 5.3e+12, source: "data sheet"}
hbm_bytes: {value: 1.92e+11, source: "data sheet"}
query_tile_rows: {value: 16, source: "MFMA tiles of 16 rows"}
gemm_tile_rows: {value: 16, source: "MFMA tiles of 16 rows"}
default_efficiency: {value: 0.6, source: "assumed"}
node:
  gpus: 8
  scale_up_domain_gpus: 8
  scale_up_bytes_per_s: {value: 4.48e+11, source: "data sheet: 7 Infinity Fabric links"}
  in_network_collectives: false
  nics: 8
  nic_bytes_per_s: {value: 5.0e+10, source: "8 NICs of 400 Gbit/s"}
  source: "data sheet"
"""


def run(*words: str | Path) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.exception, result.stderr)
    return result.stdout, result.stderr


def usage_ns(*settings: str) -> Mapping[Status, float]:
    """Return the kernel time of a run by the status of its look-up."""
    return simulate(load(SCENARIO, settings)).usage_ns


def exchange_share(*settings: str) -> float:
    """Return the share of dispatch and combine, which one GPU cannot measure, in a layer."""
    figures = summary(simulate(load(SCENARIO, settings)))
    layer = [float(figures[f"t_{name}_layer_us"]) for name in ("a", "a2f", "f", "f2a")]
    return (layer[1] + layer[3]) / sum(layer)


@pytest.mark.parametrize(
    ("card", "gpu"), [("h200-sxm", "h200_sxm"), ("mi325x", "mi325x")], ids=["shipped", "new"]
)
def test_measure_fit_run(
    card: str, gpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hardware").mkdir()
    if card == "mi325x":
        Path("hardware/mi325x.yaml").write_text(NEW_CARD.strip())
        assert len(NEW_CARD.strip().splitlines()) <= 20
    monkeypatch.setattr(measure, "_backend", lambda device, name, seed, warm: FakeGpu(name, card))
    on_card = f"deployment.accelerator={card}"
    old_path = cards.calibration(card)
    old = () if old_path is None else read(old_path)[0]

    run("measure", "--gpu", gpu, "--scenario", SCENARIO, "--set", on_card, "--out", "measured")
    files = sorted(Path("measured").iterdir())
    table = Path("hardware/calibration") / f"{card}.csv"
    _, said = run("calibrate", "fit", *files, "--accelerator", card, "--out", table)

    curves, _ = read(table)
    own = [curve for curve in curves if curve.source.startswith(SOURCE)]
    asked = [
        (kernel.op, kernel.kernel, kernel.dtype, kernel.key)
        for demand in demands(load(SCENARIO, [on_card]))
        for kernel in demand.ranges
        if served.SERVED[kernel.op][kernel.kernel].gpus == 1
    ]
    assert {curve.identity for curve in own} == set(asked)
    # What was not measured is kept to the byte, and all of it is told.
    kept = [curve for curve in old if curve.identity not in set(asked)]
    assert dump([curve for curve in curves if curve not in own]) == dump(kept)
    told = {line.split()[0] for line in said.splitlines() if line.strip()}
    assert {one.what for one in changes(old, curves)} <= told

    out, _ = run("run", SCENARIO, "--set", on_card, "--json")
    assert json.loads(out)["calibrated_share"] >= 0.9
    merged, elsewhere = usage_ns(on_card), exchange_share(on_card)
    # With nothing but the new measurements, the same kernel time is calibrated.
    table.write_text(dump(own))
    alone = usage_ns(on_card)
    assert alone["calibrated"] >= 0.9 * (1 - elsewhere) * sum(merged.values())


@pytest.mark.parametrize("name", cards.names(cards.SCENARIOS))
def test_scenarios_ask_only_for_what_is_on_the_list(name: str) -> None:
    is_open = load(name).workload.arrivals.kind != "closed"
    few = ["workload.arrivals.requests=60"] if is_open else []
    for demand in demands(load(name, few)):
        assert demand.ranges
        for kernel in demand.ranges:
            assert served.is_served(kernel.op, kernel.kernel, kernel.dtype), kernel


def test_what_is_fitted_is_on_the_list() -> None:
    assert set(FAMILIES) - {"index_logits"} == set(served.SERVED) - UNMEASURED
    for path in cards.packaged(cards.CALIBRATION).glob("*.csv"):
        assert {curve.op for curve in read(path)[0]} <= set(FAMILIES)


def test_what_is_measured_is_asked_for(tmp_path: Path) -> None:
    """Each kernel of the list that one GPU can serve is measured in BF16 or FP8."""
    measured = {(case.op, case.kernel) for case in kernel_cases.tiny_cases()}
    assert measured == {
        (op, kernel)
        for op, kernels in served.SERVED.items()
        for kernel, known in kernels.items()
        if known.gpus == 1 and op not in UNMEASURED | BLOCKS
    }
    for case in kernel_cases.tiny_cases():
        (path,) = write(texts(FakeGpu("h200_sxm", "h200-sxm"), [(case, 5.0)]), tmp_path)
        for row in measurement_files.read(path):
            assert served.is_served(row.op, row.kernel, row.dtype), case


def test_the_commands_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "bring-your-measurements.md"
    text = page.read_text(encoding="utf-8")
    block = re.search(r"```\n(afdsim measure [^`]*?--out .*?)```", text, flags=re.DOTALL)
    assert block is not None
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        measure, "_backend", lambda device, name, seed, warm: FakeGpu(name, "h200-sxm")
    )
    for line in block[1].splitlines():
        _, *words = line.partition("#")[0].split()
        files = [str(path) for path in sorted(Path("measured").glob("*.csv"))]
        run(*(each for word in words for each in (files if word == "measured/*.csv" else [word])))
    (saved,) = Path("results/runs").glob("*/run.json")
    assert json.loads(saved.read_text())["summary"]["calibrated_share"] >= 0.9


def test_what_is_left_to_the_table_is_told(tmp_path: Path) -> None:
    where = ["measure", "--out", str(tmp_path), "--list", "--scenario", SCENARIO]
    cases, said = run(*where)
    assert "a2a_dispatch deepep_ll fp8: takes several GPUs" in said
    assert {line.split()[0] for line in cases.splitlines()} == {"gemm", "attention_mla", "moe"}
    _, said = run(*where, "--set", "precision.gemm=int8")
    assert "moe fused int8: cannot be measured" in said
    assert list(tmp_path.iterdir()) == []
