"""The command line in an empty directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import Call, call


@pytest.fixture
def afdsim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that runs the command line in an empty directory.

    It runs in this process, which has imported all of it; tests/docs and tests/faults start it
    anew.
    """
    monkeypatch.chdir(tmp_path)
    return call
