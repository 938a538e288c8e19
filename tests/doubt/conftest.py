"""A working directory in which kernels and predictions err by nothing, and networks are known."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import pytest

from sim.inputs import cards

_OF_TABLES = {
    "kernel-errors.csv": {"value"},
    "residuals.csv": {"log_sd", "shared", "factor_80", "factor_90"},
}


@pytest.fixture(scope="module")
def certain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let the tests of a module work where own tables of errors are zero."""
    folder = tmp_path_factory.mktemp("certain")
    own = folder / cards.DOUBT
    own.mkdir(parents=True)
    for file, figures in _OF_TABLES.items():
        lines = (cards.packaged(cards.DOUBT) / file).read_text(encoding="utf-8").splitlines()
        header, *rows = csv.reader(line for line in lines if not line.startswith("#"))
        assert figures <= set(header)
        with (own / file).open("w", encoding="utf-8", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(header)
            for row in rows:
                cells = zip(header, row, strict=True)
                writer.writerow(["0" if name in figures else cell for name, cell in cells])
    fabrics = folder / cards.FABRICS
    fabrics.mkdir(parents=True)
    for name in cards.names(cards.FABRICS):
        text = (cards.packaged(cards.FABRICS) / f"{name}.yaml").read_text(encoding="utf-8")
        (fabrics / f"{name}.yaml").write_text(re.sub(r"(low|high): [\d.]+, ", "", text))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield
