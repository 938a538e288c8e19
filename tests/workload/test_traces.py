"""Traces: as they are published, exact to the nanosecond, and every bad row told by its line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from sim.cli import main
from sim.cli.verbs import app
from sim.foundation.errors import EXIT_BAD_INPUT, ScenarioError
from sim.inputs import scenario
from sim.inputs.arrivals import Trace
from sim.inputs.lengths import BLOCK, CsvLengths
from sim.inputs.traces import recorded as traces
from sim.inputs.traces.recorded import read
from sim.inputs.workload import Requests, Workload
from sim.sweeps.points import Point
from tests.strategies.texts import csv_texts

# Headers as they stand in the published files; all rows are made up.
AZURE_2023 = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 23:59:59.9999999,374,44
2023-11-17 00:00:00.0000002,396,109
2023-11-17 00:00:01.0319600,879,55
"""
AZURE_2024 = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00+00:00,2399,6
2024-05-10 02:00:00.017335+02:00,76,15
"""
BURST_GPT = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log
45,GPT-4,1087,230,1317,API log
10493250,ChatGPT,417,276,693,Conversation log
"""
BURST_GPT_2 = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Log Type
0.123,a,1.5,GPT-4,100.0,10,Conversation log
"""
MOONCAKE = """{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 3, "input_length": 7322.0, "output_length": 490, "hash_ids": []}
{"output_length": 7, "input_length": 8, "timestamp": 27482}
"""
VIDUR = """arrived_at,num_prefill_tokens,num_decode_tokens
9.5e-05,374,44
0.028486639895327726,396,109
4.3144,879,55
"""
SPLITWISE = """request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,\
token_size
0,2,0,1,1,4096,32
1,2,0,3.25,1,2048,8
2,2,0,4,1,2048,16
"""
BAILIAN = """{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.114, "input_length": 521, \
"output_length": 132, "type": "text", "turn": 1, "hash_ids": [1089, 1090]}
{"chat_id": 160, "parent_chat_id": 159, "timestamp": 62.5, "input_length": 400, \
"output_length": 80, "type": "text", "turn": 2, "hash_ids": [1089, 1090]}
"""
OWN = """request,micro_batch,gpu,arrival_ns,admitted_ns,prompt_tokens,output_tokens
0,0,0,123456789012345678,5,10,2
1,0,0,123456789012345679,5,20,3
"""
PUBLISHED = {
    "azure 2023": (AZURE_2023, [0, 300, 1_031_960_100], [374, 396, 879], [44, 109, 55]),
    "azure 2024": (AZURE_2024, [0, 9_930_000, 17_335_000], [2399, 2162, 76], [6, 5, 15]),
    "burstgpt": (BURST_GPT, [0, 40 * 10**9, 10493245 * 10**9], [472, 1087, 417], [18, 230, 276]),
    "burstgpt 2": (BURST_GPT_2, [0], [100], [10]),
    "mooncake": (MOONCAKE, [0, 3_000_000, 27_482_000_000], [6758, 7322, 8], [500, 490, 7]),
    "vidur": (VIDUR, [0, 28_391_640, 4_314_305_000], [374, 396, 879], [44, 109, 55]),
    "splitwise": (SPLITWISE, [0, 2_250_000_000, 3 * 10**9], [4096, 2048, 2048], [32, 8, 16]),
    "bailian": (BAILIAN, [0, 1_386_000_000], [521, 400], [132, 80]),
    "requests.csv": (OWN, [0, 1], [10, 20], [2, 3]),
}


def written(folder: Path, text: str) -> str:
    path = folder / "trace"
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def mooncake(rows: Iterable[tuple[object, int, int]], **more: object) -> str:
    keys = ("timestamp", "input_length", "output_length")
    lines = [json.dumps(dict(zip(keys, row, strict=True)) | more) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def refused(path: str, **options: object) -> tuple[str, ...]:
    with pytest.raises(ScenarioError) as caught:
        read(path, timed=True, **options)  # type: ignore[arg-type]
    assert caught.value.exit_code == EXIT_BAD_INPUT
    return caught.value.problems


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_published_formats_are_told_by_their_header(
    name: str, end: str, mark: str, tmp_path: Path
) -> None:
    text, arrival_ns, prompt, output = PUBLISHED[name]
    recorded = read(written(tmp_path, mark + text.replace("\n", end)), timed=True)
    assert recorded.arrival_ns.tolist() == arrival_ns
    assert recorded.prompt.tolist() == prompt
    assert recorded.output.tolist() == output
    assert (recorded.bad, recorded.bad_rows) == ((), 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_headers_and_numbers_as_other_programs_write_them(name: str, tmp_path: Path) -> None:
    text, arrival_ns, prompt, output = PUBLISHED[name]
    if not text.startswith("{"):
        rows = [line.split(",")[::-1] for line in text.splitlines()]
        head, *rows = [
            [*row, "note", "share, %"] if not n else [*row, "a, b", " 0"]
            for n, row in enumerate(rows)
        ]
        lines = [
            ",".join(f'"{value}"' for value in row) for row in ([n.upper() for n in head], *rows)
        ]
        text = "\n".join([*lines, "", "  "])
    recorded = read(written(tmp_path, text + "\n\n"), timed=True)
    assert recorded.arrival_ns.tolist() == arrival_ns
    assert recorded.prompt.tolist() == prompt
    assert recorded.output.tolist() == output


@settings(deadline=None, max_examples=60)
@given(st.lists(st.decimals(0, 10**7, places=11), min_size=1, max_size=20))
def test_seconds_are_exact_to_the_nanosecond(
    tmp_path_factory: pytest.TempPathFactory, times: list[Decimal]
) -> None:
    rows = "".join(f"{time:f},1,1\n" for time in [Decimal(0), *times])
    path = written(
        tmp_path_factory.mktemp("t", numbered=True),
        f"Timestamp,Request tokens,Response tokens\n{rows}",
    )
    found = read(path, timed=True).arrival_ns.tolist()
    for time_ns, time in zip(found, sorted([Decimal(0), *times]), strict=True):
        assert abs(time_ns - Fraction(time) * 10**9) <= Fraction(1, 2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.datetimes(datetime(1999, 1, 1), datetime(2100, 1, 1)), min_size=1, max_size=20))
def test_dates_are_exact_to_the_microsecond_that_python_knows(
    tmp_path_factory: pytest.TempPathFactory, times: list[datetime]
) -> None:
    rows = "".join(f"{time:%Y-%m-%d %H:%M:%S.%f},1,1\n" for time in times)
    path = written(
        tmp_path_factory.mktemp("t", numbered=True),
        f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}",
    )
    expected = [(time - min(times)) // timedelta(microseconds=1) * 1000 for time in sorted(times)]
    assert read(path, timed=True).arrival_ns.tolist() == expected


@pytest.mark.parametrize(
    "time",
    ["2023-02-29 00:00:00", "2023-13-01 00:00:00", "2023-00-01 00:00:00", "2023-01-00 00:00:00",
     "2023-04-31 00:00:00", "2023-01-01 24:00:00", "2023-01-01 00:60:00", "2023-01-01 00:00:60",
     "2023-01-01", "5", "", "0000-01-01 00:00:00", "２０２３-01-01 00:00:00"],
)  # fmt: skip
def test_what_is_no_date(time: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{time},1,1\n")
    assert refused(path)[0] == f"{path}:2: there is no time of arrival (got {time},1,1)"


@pytest.mark.parametrize("zone", ["Z", "+00:00", "+0000", " UTC", "+00", "-00:00"])
def test_dates_with_and_without_fractions_and_zones(zone: str, tmp_path: Path) -> None:
    rows = f"2024-05-10 00:00:00{zone},1,1\n2024-05-10T00:00:00.5{zone},1,1\n"
    path = written(tmp_path, f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")
    assert read(path, timed=True).arrival_ns.tolist() == [0, 500_000_000]


RATES = {"slow": 0.2, "usual": 3.0, "busy": 40.0}


def times_of(rate_per_s: float, unit: str, count: int = 300) -> list[float]:
    """Return times of Poisson arrivals to the ms, as they are recorded."""
    gaps_s = np.random.default_rng(0).exponential(1 / rate_per_s, count)
    ms = np.rint(np.cumsum(gaps_s) * 1000).astype(int).tolist()
    return [at / 1000 for at in ms] if unit == "s" else ms


def load_of(path: str, **options: object) -> float:
    """Return the requests per second of a trace as it is read."""
    recorded = read(path, timed=True, **options)  # type: ignore[arg-type]
    return (len(recorded.prompt) - 1) / (int(recorded.arrival_ns[-1]) / 1e9)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("unit", ["s", "ms"])
@pytest.mark.parametrize("keys", ["hash_ids", "chat_id", "neither", "arrived_at", "prompt_size"])
def test_no_trace_is_read_in_another_unit_unasked(
    keys: str, unit: str, rate: str, tmp_path: Path
) -> None:
    """Whatever the form: each file is read as it was recorded, or asked about."""
    times = times_of(RATES[rate], unit)
    if keys in ("arrived_at", "prompt_size"):
        header = {"arrived_at": VIDUR, "prompt_size": SPLITWISE}[keys].partition("\n")[0]
        columns = header.split(",")
        at = columns.index({"arrived_at": "arrived_at", "prompt_size": "arrival_timestamp"}[keys])
        rows = [
            ",".join(str(time) if n == at else "7" for n in range(len(columns))) for time in times
        ]
        text = "\n".join([header, *rows])
    else:
        more: dict[str, dict[str, object]] = {
            "hash_ids": {"hash_ids": []},
            "chat_id": {"chat_id": 1, "turn": 1},
            "neither": {},
        }
        text = mooncake(((time, 7, 7) for time in times), **more[keys])
    path = written(tmp_path, text)
    expected = pytest.approx(RATES[rate], rel=0.2)
    is_own = unit == ("ms" if keys == "hash_ids" else "s")
    try:
        found = load_of(path)
    except ScenarioError as error:
        (line,) = error.problems
        assert line.startswith(f"{path}: the times may be in s or in ms (in s: 300 requests in ")
        assert line.endswith("write time_unit: s or time_unit: ms")
        assert keys == "neither" or not is_own
    else:
        assert found == expected
    assert load_of(path, time_unit=unit) == expected
    assert read(path, timed=False).prompt.tolist() == [7] * 300


def test_where_no_key_tells_the_unit_the_reading_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake((time, 7, 7) for time in times_of(3, "ms")))
    workload = Workload(arrivals=trace(path))
    (note,) = workload.notes()
    assert note.startswith(f"{path}: no key tells the unit of times; they are read in ms (in s: ")
    assert Workload(arrivals=trace(path, time_unit="ms")).notes() == []


def test_requests_that_are_recorded_in_bursts_have_no_gap(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake((n // 10 * 3000, 7, 7) for n in range(300)))
    assert load_of(path) == pytest.approx(3.4, rel=0.02)


@pytest.mark.parametrize(("unit", "ns"), [("s", 10**9), ("ms", 10**6), ("us", 1000), ("ns", 1)])
def test_a_stated_unit_holds_to_the_nanosecond(unit: str, ns: int, tmp_path: Path) -> None:
    path = written(tmp_path, mooncake([(5, 1, 1), (8, 2, 2), (5.25, 3, 3)], hash_ids=[]))
    assert trace(path, time_unit=unit).read().arrival_ns.tolist() == [0, round(ns / 4), 3 * ns]


def test_units_that_a_form_has_of_its_own(tmp_path: Path) -> None:
    for name, unit in ("azure 2023", "s"), ("requests.csv", "ns"):
        path = written(tmp_path, PUBLISHED[name][0])
        assert read(path, timed=True, time_unit=unit).arrival_ns.tolist() == PUBLISHED[name][1]  # type: ignore[arg-type]
        (line,) = refused(path, time_unit="ms")
        assert line.endswith("states its unit; leave time_unit out")


def test_times_beyond_the_clock(tmp_path: Path) -> None:
    path = written(tmp_path, mooncake([(0, 1, 1), (1, 1, 1), (10**12, 1, 1)], chat_id=1))
    (line,) = refused(path, time_unit="s")
    assert f"{path}: the times span 1,000,000,000,000 s" in line


def test_more_rows_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_ROWS", 2)
    monkeypatch.setattr(traces, "_CHUNK_ROWS", 2)
    path = written(tmp_path, VIDUR)
    assert refused(path) == (f"{path}: has more than 2 rows; requests: N reads the first N rows",)
    assert len(read(path, timed=True, rows=2).prompt) == 2
    monkeypatch.setattr(traces, "MOST_BYTES", 20)
    assert refused(path)[0].endswith("20 bytes; requests: N reads the first N rows")


def test_failed_requests_are_told_as_such(tmp_path: Path) -> None:
    path = written(tmp_path, BURST_GPT + "10493251,GPT-4,482,0,482,API log\n")
    line, remedy = refused(path)
    assert line.startswith(f"{path}:5: no output tokens, as of a request that failed (got 104")
    assert remedy == f"{path}: 1 bad row; bad_rows: skip leaves these rows out"


FAILED = """Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
5,ChatGPT,472,18,490,Conversation log

7,ChatGPT,0,0,0,Conversation log
-8,ChatGPT,3,1,0,Conversation log
nan,ChatGPT,3,1,0,Conversation log
9,GPT-4
11,GPT-4,10,1e3,0,API log
12,GPT-4,10,3,0,API log
"""


def test_bad_rows_are_refused_with_all_of_their_lines(tmp_path: Path) -> None:
    path = written(tmp_path, FAILED)
    *lines, remedy = refused(path)
    assert [line.split(": ")[0] for line in lines] == [f"{path}:{n}" for n in (4, 5, 6, 7, 8)]
    assert remedy == f"{path}: 5 bad rows; bad_rows: skip leaves these rows out"
    assert "positive, of nine digits at most (got 7,ChatGPT,0,0" in lines[0]
    assert "no time of arrival" in lines[1]


def test_bad_rows_are_skipped_and_told(tmp_path: Path) -> None:
    path = written(tmp_path, FAILED)
    recorded = read(path, timed=True, bad_rows="skip")
    assert recorded.prompt.tolist() == [472, 10]
    assert recorded.arrival_ns.tolist() == [0, 7 * 10**9]
    assert recorded.bad_rows == 5
    assert recorded.bad == refused(path)[:-1]


def test_many_bad_rows_are_counted(tmp_path: Path) -> None:
    rows = "1,ok,1,1\n" + "1,x,0,0\n" * 4000
    path = written(tmp_path, f"Timestamp,Model,Request tokens,Response tokens\n{rows}")
    lines = refused(path)
    assert len(lines) == 21
    assert lines[-1] == f"{path}: 4,000 bad rows; bad_rows: skip leaves these rows out"
    assert read(path, timed=True, bad_rows="skip").bad_rows == 4000


@pytest.mark.parametrize("line", ["[1]", "{", "3", '{"timestamp": "x", "input_length": 1}', "null",
    '{"timestamp": true, "input_length": 1, "output_length": 1}',
    '{"timestamp": 1, "input_length": 1.5, "output_length": 1}',
    '{"timestamp": NaN, "input_length": 1, "output_length": 1}',
    '{"timestamp": 1e999, "input_length": 1, "output_length": 1}',
    '{"timestamp": 1, "input_length": 1, "output_length": 99999999999999999999}'])  # fmt: skip
def test_bad_json_lines_are_told(line: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"{MOONCAKE}{line}\n")
    told, _ = refused(path)
    assert told.startswith(f"{path}:4: ")
    assert len(read(path, timed=True, bad_rows="skip").prompt) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ":1: no known trace (got '')"),
        ("a,b\n1,2\n", ":1: no known trace (got 'a,b')"),
        ("prompt_tokens,output_tokens\n1,2\n", ":1: no known trace"),
        ('{"a": 1}\n', ":1: no known trace"),
        (AZURE_2023.splitlines()[0], ":2: the file has no rows"),
    ],
)
def test_what_is_no_trace(text: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    (line,) = refused(path)
    assert line.startswith(f"{path}{said}")
    if "no known" in said:
        assert "TIMESTAMP, ContextTokens, GeneratedTokens; " in line
        assert "JSON lines with timestamp, input_length, output_length" in line


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"arrived_at,\xe9\n")
    for path in (tmp_path, tmp_path / "latin", tmp_path / "missing"):
        (line,) = refused(str(path))
        assert line.startswith(f"{path}:")
        assert ": cannot be read: " in line


def test_a_trace_with_nothing_but_bad_rows_is_refused_in_any_case(tmp_path: Path) -> None:
    path = written(tmp_path, f"{AZURE_2023.splitlines()[0]}\nx,1,1\n")
    *lines, none = refused(path, bad_rows="skip")
    assert tuple(lines) == refused(path)[:-1]
    assert none == f"{path}: no row is left without the 1 bad ones"


def test_the_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE_2023)
    assert len(read(path, timed=True).prompt) == 3
    written(tmp_path, VIDUR.rsplit("\n", 2)[0] + "\n")
    assert len(read(path, timed=True).prompt) == 2


@settings(max_examples=100, deadline=None)
@given(csv_texts())
def test_any_text_behind_a_header_is_read_or_told(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    body = text.partition("\n")[2]
    header = "arrived_at,num_prefill_tokens,num_decode_tokens"
    path = written(tmp_path_factory.mktemp("t", numbered=True), f"{header}\n{body}")
    told: tuple[str, ...] = ()
    try:
        recorded = read(path, timed=True, bad_rows="skip")
    except ScenarioError as error:
        told = error.problems
    if not told:
        assert (recorded.prompt > 0).all()
        assert (np.diff(recorded.arrival_ns) >= 0).all()
    assert all(line.startswith(f"{path}:") for line in told)


def trace(path: str, **options: object) -> Trace:
    return Trace.model_validate({"kind": "trace", "path": path, **options})


def test_rate_scale_clip_and_number_of_requests(tmp_path: Path) -> None:
    path = written(tmp_path, VIDUR)
    assert trace(path).read().arrival_ns.tolist() == [0, 28_391_640, 4_314_305_000]
    twice = trace(path, rate_scale=2.0, requests=2)
    assert twice.read().arrival_ns.tolist() == [0, 14_195_820]
    assert twice.requests_per_s == 2
    assert trace(path, rate_scale=0.1).requests_per_s == pytest.approx(3 / 43.14305)
    clipped = trace(path, clip_context=100).read()
    assert clipped.prompt.tolist() == [56, 1, 45]
    assert clipped.output.tolist() == [44, 99, 55]
    assert clipped.clipped_rows == 3
    assert trace(path, clip_context=934).read().clipped_rows == 0


def test_requests_are_those_of_the_trace_in_blocks(tmp_path: Path) -> None:
    rows = [(3 * n, n % 7 + 1, n % 5 + 1) for n in range(2 * BLOCK + 5)]
    text = mooncake(rows, hash_ids=[])
    requests = Requests(Workload(arrivals=trace(written(tmp_path, text))), 0)
    found: list[tuple[int, int, int]] = []
    while (block := requests.block(len(found))) is not None:
        prompt, output, arrival_ns = block
        assert arrival_ns is not None
        found += zip(arrival_ns.tolist(), prompt.tolist(), output.tolist(), strict=True)
    assert found == [(time * 10**6, prompt, output) for time, prompt, output in rows]


def test_lengths_of_a_trace_serve_other_arrivals(tmp_path: Path) -> None:
    lengths = CsvLengths(kind="csv", path=written(tmp_path, FAILED), bad_rows="skip")
    assert lengths.read().prompt.tolist() == [472, 3, 3, 10]


def settings_of(path: str, more: str = "") -> list[str]:
    return [f"workload={{arrivals: {{kind: trace, path: {path}{more}}}}}"]


def test_a_scenario_tells_the_place_of_a_trace_that_is_wrong(tmp_path: Path) -> None:
    path = written(tmp_path, FAILED)
    with pytest.raises(ScenarioError) as caught:
        scenario.load("dsv3-ep128", settings_of(path))
    first, *_ = caught.value.problems
    assert first.startswith(f"--set workload: workload.arrivals.path: {path}:4: lengths should")


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ("{arrivals: {kind: trace, path: T}, lengths: {kind: csv, path: T}}", "leave lengths out"),
        ("{arrivals: {kind: closed, concurrency: 3}}", "need lengths"),
        ("{arrivals: {kind: trace, path: T, rate_scale: 0}}", "rate_scale"),
        ("{arrivals: {kind: trace, path: T, rate_scale: .nan}}", "rate_scale"),
        ("{arrivals: {kind: trace, path: T, clip_context: 1}}", "clip_context"),
        ("{arrivals: {kind: trace, path: T, bad_rows: ignore}}", "'refuse'"),
        ("{arrivals: {kind: trace, path: T, request: 3}}", "'requests'"),
        ("{arrivals: {kind: trace, path: missing}}", "cannot be read"),
    ],
)
def test_wrong_values_are_told(workload: str, said: str, tmp_path: Path) -> None:
    path = written(tmp_path, AZURE_2023)
    with pytest.raises(ScenarioError) as caught:
        scenario.load("dsv3-ep128", [f"workload={workload.replace('T', path, 2)}"])
    assert [line for line in caught.value.problems if said in line]


def test_what_a_point_of_a_sweep_depends_on_has_the_trace(tmp_path: Path) -> None:
    path = written(tmp_path, AZURE_2023)
    loaded = scenario.load("dsv3-ep128", settings_of(path))
    point = Point(0, "family", "dsv3-ep128", {}, loaded)
    assert f"trace {path}" in point.inputs()["files"]


def test_the_command_line_tells_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, FAILED)
    more = ", bad_rows: skip, clip_context: 400"
    command = ["validate", "dsv3-ep128", "--set", *settings_of(path, more)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0
    assert done.stdout == ""
    assert f"{path}:4: lengths should be whole and positive" in done.stderr.replace("\n", "")
    assert "bad rows left out: 5" in done.stderr
    assert "requests cut to the longest context: 1" in done.stderr
    monkeypatch.setattr("sys.argv", ["afdsim", "run", "dsv3-ep128", "--set", *settings_of(path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == EXIT_BAD_INPUT
    assert f"{path}:8: lengths should be" in capsys.readouterr().err.replace("\n", "")


def test_a_comparison_says_once_how_both_read_their_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, mooncake((time, 7, 7) for time in times_of(3, "ms", 20)))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app, ["compare", "dsv3-ep128", "dsv3-ep128", "--set", *settings_of(path)]
    )
    assert done.stderr.count("no key tells the unit of times; they are read in ms") == 1
