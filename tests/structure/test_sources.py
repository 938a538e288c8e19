"""What a stored outcome depends on: the modules that simulate, and none that only show."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest

import sim
from sim.results import sources

PACKAGE = Path(sim.__file__).parent

SIMULATE = (
    *("decoding.run", "kernels.kernel_table", "kernels.ops", "inputs.cards", "inputs.scenario"),
    *(
        "sweeps.points",
        "metrics.steady_summary",
        "engines.event",
        "engines.recurrence",
        "deployments.afd",
    ),
    *("study.best_shapes", "study.paired_runs", "study.jobs"),
)
SHOW = ("pictures", "cli")


def names() -> set[str]:
    return {name.removeprefix("sim.") for name in sources.outcome_modules()}


def test_what_simulates_is_among_them_and_what_shows_is_not() -> None:
    assert set(SIMULATE) <= names()
    assert not [name for name in names() if name.split(".")[0] in SHOW]


def test_every_module_that_one_of_them_imports_is_one_of_them() -> None:
    found = sources.outcome_modules()
    for name, path in found.items():
        if name in sources._ALONE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                wanted = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                wanted = {alias.name for alias in node.names}
            else:
                continue
            ours = {each for each in wanted if each and each.startswith("sim.")}
            assert {each for each in ours if sources._path(each)} <= set(found), name


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the package, of which the digest is taken."""
    made = tmp_path / "sim"
    shutil.copytree(PACKAGE, made, ignore=shutil.ignore_patterns("__pycache__", "_data"))
    monkeypatch.setattr(sources, "_PACKAGE", made)
    return made


def digest() -> str:
    sources.digest.cache_clear()
    found = sources.digest()
    sources.digest.cache_clear()
    return found


@pytest.mark.parametrize(
    "name", ["pictures.page", "pictures.sweep_page", "cli.sweeps", "cli.text", ""]
)
def test_a_comment_in_what_shows_keeps_every_outcome(name: str, copy: Path) -> None:
    before = digest()
    comment(copy, name)
    assert digest() == before


@pytest.mark.parametrize(
    "name", ["kernels.ops", "engines.event", "study.paired_runs", "study.jobs", "engines"]
)
def test_any_change_of_what_simulates_asks_for_new_ones(name: str, copy: Path) -> None:
    before = digest()
    comment(copy, name)
    assert digest() != before


def comment(package: Path, name: str) -> None:
    path = package.joinpath(*filter(None, name.split(".")))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    path.write_text(path.read_text(encoding="utf-8") + "\n# a comment\n", encoding="utf-8")
