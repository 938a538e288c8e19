"""The table that `make bench` prints when all chosen rows have run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.jobs import Bench

_KEPT = pytest.StashKey[Bench]()


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    kept = request.config.stash.setdefault(_KEPT, Bench())
    kept.folder = tmp_path
    return kept


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if kept := config.stash.get(_KEPT, None):
        terminalreporter.write_line("")
        for line in kept.lines():
            terminalreporter.write_line(line)
