"""A working directory in which kernels and predictions err by nothing."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim.inputs import cards


def write_certain(folder: Path) -> None:
    """Write own tables of errors, all of them zero."""
    own = folder / cards.DOUBT
    own.mkdir(parents=True)
    for file, ends in (("kernel-errors.csv", {"value"}), ("residuals.csv", _OF_RESIDUALS)):
        lines = (cards.packaged(cards.DOUBT) / file).read_text(encoding="utf-8").splitlines()
        header, *rows = csv.reader(line for line in lines if not line.startswith("#"))
        with (own / file).open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(header)
            for row in rows:
                cells = zip(header, row, strict=True)
                writer.writerow(["0" if name in ends else cell for name, cell in cells])


_OF_RESIDUALS = {"log_sd", "shared", "factor_80", "factor_90"}


@pytest.fixture
def certain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, whose own tables of errors are zero."""
    write_certain(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def certain_kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the tests of a module work where kernels and predictions err by nothing."""
    folder = tmp_path_factory.mktemp("certain")
    write_certain(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield
