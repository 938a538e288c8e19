"""The script of the Python API runs, and so do the short scripts that it shows."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs/python_api.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return where the script ran, and what it printed."""
    folder = tmp_path_factory.mktemp("python-api")
    shutil.copytree(ROOT / "scenarios/samples", folder / "scenarios/samples")
    return folder, _run(SCRIPT, folder)


def _run(script: Path, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_prints_what_it_says(ran: tuple[Path, str]) -> None:
    _, printed = ran
    for said in (
        r"^\d+ tokens/s/GPU at TPOT \d+\.\d ms$",
        r"^--set .* should be greater than 0",
        r"^80 %: \d+\.\d to \d+\.\d ms$",
        r"^\S.*: [\d,]+ tokens/s$",
        r"^\d+ requests a GPU within 50 ms",
        r"^A serves more per GPU by ",
        r"^ *2A1F ",
        r"^sample-64: [+-]\d",
    ):
        assert re.search(said, printed, flags=re.MULTILINE), said


def test_the_sweep_that_it_shows_runs(ran: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = ran
    text = re.sub(r"^# ?", "", SCRIPT.read_text(encoding="utf-8"), flags=re.MULTILINE)
    sweep, study = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    script = tmp_path / "pages.py"
    script.write_text(sweep, encoding="utf-8")
    assert re.fullmatch(r"open .*report\.html\n", _run(script, folder))
    compile(study, "study", "exec")
