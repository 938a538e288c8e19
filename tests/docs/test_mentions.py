"""The files, modules and methods that pages and docstrings name are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "Makefile",
    ROOT / "pyproject.toml",
    *sorted(ROOT.glob("docs/*.md")),
]
SOURCES = sorted(ROOT.glob("sim/**/*.py"))
FILE = re.compile(
    r"(?<![\w./])(?:sim|tests|docs|scenarios|hardware)/[\w/.-]*\w\.(?:py|md|html|js)\b"
)
MODULE = re.compile(r"(?<![\w./\"])sim\.\w+(?:\.\w+)*")
METHOD = re.compile(r"`([A-Z][a-z]\w+)\.([a-z]\w+)`")


def prose(path: Path) -> str:
    """Return the text of a page, or the docstrings and comments of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return text
    strings = [
        node.value.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    return "\n".join([*strings, *re.findall(r"# (.*)$", text, flags=re.MULTILINE)])


def is_known(dotted: str) -> bool:
    """Return whether `sim.x.y` is a module, or a name that stands in one."""
    place = ROOT
    for part in dotted.split("."):
        if (place / part).is_dir():
            place /= part
        elif (place / f"{part}.py").is_file():
            place /= f"{part}.py"
        else:
            source = place / "__init__.py" if place.is_dir() else place
            return re.search(rf"\b{part}\b", source.read_text(encoding="utf-8")) is not None
    return True


def methods() -> set[tuple[str, str]]:
    """Return class and name of all that classes of sim define."""
    found = set()
    for source in SOURCES:
        for each in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(each, ast.ClassDef):
                for node in each.body:
                    if isinstance(node, ast.FunctionDef):
                        found.add((each.name, node.name))
                    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                        found.add((each.name, node.target.id))
    return found


@pytest.mark.parametrize("path", [*PAGES, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_modules_that_are_named_exist(path: Path) -> None:
    text = prose(path)
    missing = [name for name in FILE.findall(text) if not (ROOT / name).exists()]
    missing += [name for name in MODULE.findall(text) if not is_known(name)]
    assert not missing


def test_methods_that_are_named_exist() -> None:
    named = {found for page in PAGES for found in METHOD.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert named <= methods()
