"""What the README and the walks of docs/ show is run as in a fresh clone; links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from sim.pictures import intervals
from sim.sweeps.sweep import Published

ROOT = Path(__file__).resolve().parents[2]
WALKS = ("README.md", "docs/tour.md", "docs/sweeps.md", "docs/bring-your-measurements.md")
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in WALKS}
README = TEXTS["README.md"]
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    fence = re.compile(rf"^```{language}\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
    return [block for text in TEXTS.values() for block in fence.findall(text)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with the files of a fresh clone that the pages name."""
    shutil.copytree(ROOT / "scenarios/samples", tmp_path / "scenarios/samples")
    shutil.copytree(ROOT / "hardware/measured", tmp_path / "hardware/measured")
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | path,
    )


@pytest.mark.parametrize("block", blocks("sh"))
def test_shell_blocks_run(block: str, clone: Path) -> None:
    done = run(["sh", "-ec", block], clone)
    assert done.returncode == 0, done.stderr
    assert done.stdout or "wrote" in done.stderr


@pytest.mark.parametrize("block", blocks("python"))
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    done = run([sys.executable, "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+ tokens/s/GPU at TPOT \d+\.\d ms\n", done.stdout)


def test_blocks_that_only_sweep_name_things_that_exist() -> None:
    for name in re.findall(r"afdsim sweep ([\w-]+)", "\n".join(TEXTS.values())):
        assert (ROOT / f"scenarios/sweeps/{name}.yaml").is_file()


def test_the_first_run_meets_its_target(clone: Path) -> None:
    first = re.search(r"^afdsim run .*$", README, flags=re.MULTILINE)
    assert first
    done = run([*first[0].split(), "--json"], clone)
    figures = json.loads(done.stdout)
    assert figures["slo_met"] is True
    assert (
        f"{figures['tgs']:,.0f} tokens/s/GPU at a TPOT of {figures['tpot_ms_mean']:.1f} ms"
        in README
    )


def test_the_intervals_beside_the_main_picture_are_those_of_its_table() -> None:
    folder = ROOT / "results/step3-vs-dsv3"
    sweep = json.loads((folder / "run.json").read_text(encoding="utf-8"))["sweep"]
    table = pandas.read_csv(folder / "sweep.csv", low_memory=False)
    rows = [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
    for measured in map(Published.model_validate, sweep["published"]):
        found = intervals.held(measured, rows)
        assert found
        assert f"({intervals.told(found.low, found.high).removeprefix('80 %: ')})" in README


def test_the_example_of_doubt_is_what_its_command_prints(tmp_path: Path) -> None:
    page = (ROOT / "docs/doubt.md").read_text(encoding="utf-8")
    command = re.search(r"^ +(afdsim run \S+ --show doubt)$", page, flags=re.MULTILINE)
    assert command
    printed = run(command[1].split(), tmp_path).stdout
    stated, *ends = re.findall(r"^([\d,]+) tokens/s/GPU, from (.*) in 80 .*, from (.*) in 90",
                               printed, flags=re.MULTILINE)[0]  # fmt: skip
    assert f"| as stated (H800) | {stated} |" in page
    for level, interval in zip((80, 90), ends, strict=True):
        assert f"| {level} % interval | {interval} |" in page


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^make (\w+)|`make (\w+)`", README, flags=re.MULTILINE)
    assert len(targets) >= 4
    for target in targets:
        assert re.search(rf"^{''.join(target)}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize(
    "page", ["README.md", *(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target
