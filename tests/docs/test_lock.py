from __future__ import annotations

import re
import tomllib
from pathlib import Path

import plotly
import plotly.offline
import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
# One release and the hashes of its files.
PINNED = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<release>[\w.]+)(?: ; [^\\\n]+)?"
    r"(?: \\\n +--hash=sha256:[0-9a-f]{64})+"
)


def normal(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def locked(name: str) -> dict[str, str]:
    """Return the releases of a lock by package, and check that it holds nothing else."""
    text = (ROOT / ".lock" / f"{name}.txt").read_text(encoding="utf-8")
    pins = list(PINNED.finditer(text))
    rest = PINNED.sub("", text)
    assert all(not line.strip() or line.startswith("#") for line in rest.splitlines()), rest
    found = {pin["name"]: pin["release"] for pin in pins}
    assert len(found) == len(pins)
    return found


@pytest.mark.parametrize("name", ["run", "dev", "cluster", "docs"])
def test_a_lock_names_one_release_of_all_that_is_required(name: str) -> None:
    required = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    required += EXTRAS.get(name, [])
    assert {normal(each) for each in required} <= locked(name).keys()


def test_the_locks_agree() -> None:
    every = locked("dev")
    for more in ("cluster", "docs"):
        assert locked("run").items() <= locked(more).items() <= every.items()


def test_the_basic_bundle_is_of_the_plotly_js_that_the_locked_plotly_brings() -> None:
    if plotly.__version__ != locked("run")["plotly"]:
        pytest.skip("another plotly than the lock's is installed")
    basic = (ROOT / "sim/pictures/vendor/plotly-basic.min.js").read_text(encoding="utf-8")
    version = re.compile(r"plotly\.js .*?v([\d.]+)")
    texts = (basic, plotly.offline.get_plotlyjs())
    assert len({version.findall(text[:200])[0] for text in texts}) == 1
