"""Numbers that no machine has, and places where no file can be, are refused in a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from sim.cli.verbs import app
from sim.foundation.errors import ScenarioError, StoreError
from sim.inputs import scenario
from sim.results.files import fresh_directory, replace_file

HUGE = "1" + "0" * 80


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (f"workload.arrivals={{kind: closed, concurrency: {HUGE}}}", "equal to 10000000"),
        ("workload.lengths.output.tokens=10000000000000000000000", "equal to 1000000000"),
        ("software.host_gap_us_per_step.value=1.0e+300", "Should be from 0 to 1e6 µs"),
        ("slo.tpot_ms=1.0e+300", "at most 1e+09"),
        ("memory.activation_reserve_gb=1.0e+300", "at most 1e+18"),
        (f"simulation.seed={HUGE}", "at most 9.22337e+18"),
        (
            "noise={tasks: [{server: gpu, law: {kind: lognormal, cv: {value: 1.0e+200, "
            "source: made up}}}]}",
            "at most 1e+18",
        ),
    ],
)
def test_numbers_out_of_reach(setting: str, said: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.load("qwen3-ep16", [setting])
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""


def test_a_trace_stretched_over_ages(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE)
    arrivals = f"{{kind: trace, path: {path}, rate_scale: 0.0000000000000001}}"
    with pytest.raises(ScenarioError, match="puts the last arrival at"):
        scenario.load("qwen3-ep16", [f"workload={{arrivals: {arrivals}}}"])


def test_skipping_every_row_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(TRACE.replace(",44", ",0").replace(",109", ",-1"))
    arrivals = f"{{kind: trace, path: {path}, bad_rows: skip}}"
    with pytest.raises(ScenarioError, match="no row is left without the 2 bad ones"):
        scenario.load("qwen3-ep16", [f"workload={{arrivals: {arrivals}}}"])


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    kept = tmp_path / "page.html"
    kept.write_text("old")

    def broken(path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="make room"):
        replace_file(kept, broken)
    assert kept.read_text() == "old"
    with pytest.raises(StoreError, match="is a directory"):
        replace_file(tmp_path, broken)
    with pytest.raises(StoreError, match="is a file"):
        fresh_directory(kept, broken)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_pages_and_traces_onto_a_directory_exit_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        ["explain", "qwen3-ep16", "--picture", str(tmp_path)],
        ["timeline", "qwen3-ep16", "--steps", "2:2", "--layers", "3:3", "--out", str(tmp_path)],
    ):
        done = CliRunner().invoke(app, command)
        assert isinstance(done.exception, StoreError), done.output
        assert "is a directory; name a file" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_no_rate_is_asked_for_a_share_of_0() -> None:
    done = CliRunner().invoke(app, ["capacity", "poisson-example", "--share", "0"])
    assert done.exit_code == 2
    assert "name one above 0" in done.output.replace("\n", "")
