"""Names: few to a folder, and each with one meaning."""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from importlib.metadata import requires
from pathlib import Path

import pytest

import sim

PACKAGE = Path(sim.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
FOLDERS = sorted({path.parent for path in MODULES})
MOST = 20


def test_the_house_has_few_rooms() -> None:
    shown = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__", "_data"}
    assert len(shown) <= MOST, sorted(shown)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_room_is_crowded(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST


def test_a_class_name_has_one_meaning() -> None:
    """Names that differ by a leading underscore alone are one name."""
    places = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name.lstrip("_")].append(str(path.relative_to(PACKAGE)))
    several = {name: where for name, where in places.items() if len(where) > 1}
    assert not several


def test_no_module_takes_the_name_of_a_library() -> None:
    needed = {line.split(">")[0].split("<")[0].strip() for line in requires("afdsim") or ()}
    taken = {path.stem for path in MODULES} & (set(sys.stdlib_module_names) | needed)
    assert taken == set()


def test_a_test_module_has_a_name_of_its_own() -> None:
    """Pytest imports test modules by their name alone."""
    names = [path.name for path in Path(__file__).parents[1].rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
