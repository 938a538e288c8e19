"""Every verb as a user calls it: what goes to stdout, what to stderr, and the exit code."""

from __future__ import annotations

import csv
import gzip
import json
import re
from pathlib import Path

import pytest

from sim.inputs import cards, scenario
from tests.command_line import Call, left_behind

ROOT = Path(__file__).resolve().parents[2]

# A small closed loop: Step-3 on one attention and one FFN instance, two micro-batches.
SMALL = (
    "deployment.attention.instances=1",
    "deployment.ffn.instances=1",
    "deployment.micro_batches=2",
    "workload.arrivals.concurrency=256",
    "slo.tpot_ms=80",
)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_run_prints_one_json_object_with_the_promised_figures(afdsim: Call) -> None:
    answer = afdsim("run", "step3-2a2f", "--json", settings=SMALL)
    assert answer.code == 0
    figures = json.loads(answer.out)
    promised = (
        "scenario deployment gpus requests_in_flight tpot_ms_mean tpot_ms_p50 tpot_ms_p99 "
        "tpot_ci95_ms tgs tokens_per_s_per_user usd_per_1m_tokens t_a_layer_us t_f_layer_us "
        "t_a2f_layer_us t_f2a_layer_us t_step_ms utilisation kv_occupancy calibrated_share "
        "extrapolated_share uncalibrated_share slo_met slo_missed slo_attainment goodput_tgs "
        "goodput_requests_per_s tgs_ci95 tpot_ms_p99_low tpot_ms_p99_high tpot_ms_requests_p90 "
        "tpot_ms_p10 tpot_ms_p90 tgs_p10 tgs_p90"
    )
    assert set(promised.split()) <= set(figures)
    assert figures["tpot_ms_p10"] < figures["tpot_ms_mean"] < figures["tpot_ms_p90"]
    assert figures["tgs_p10"] < figures["tgs"] < figures["tgs_p90"]
    assert figures["gpus"] == 16
    assert figures["requests_in_flight"] == pytest.approx(256)
    shares = ("calibrated_share", "extrapolated_share", "uncalibrated_share")
    assert sum(figures[name] for name in shares) == pytest.approx(1)
    per_s = figures["requests_in_flight"] / figures["tpot_ms_mean"] * 1e3
    assert figures["tgs"] * figures["gpus"] == pytest.approx(per_s, rel=0.01)


def test_run_saves_tables_with_provenance_and_never_overwrites(
    afdsim: Call, tmp_path: Path
) -> None:
    for _ in range(2):
        assert afdsim("run", "step3-2a2f", "--out", "here", settings=SMALL).code == 0
    first, second = tmp_path / "here", tmp_path / "here-2"
    for table in ("requests", "steps", "servers"):
        for suffix in (".csv", ".parquet"):
            made = (first / table).with_suffix(suffix).read_bytes()
            assert made == (second / table).with_suffix(suffix).read_bytes()
    run = json.loads((first / "run.json").read_text())
    expected = {"schema_version", "scenario_sha256", "seed", "afdsim", "libraries", "calibration"}
    assert expected <= set(run)
    assert run["scenario"]["workload"]["arrivals"]["concurrency"] == 256
    assert run["calibration"].keys() == {"h800"}


def test_run_gives_the_figures_of_all_replications(afdsim: Call, tmp_path: Path) -> None:
    settings = (*SMALL, "simulation.replications=3", "workload.arrivals.concurrency=250")
    call = ("run", "step3-2a2f", "--json", "--out")
    one = afdsim(*call, "one", settings=settings)
    two = afdsim(*call, "two", "--workers", "2", settings=settings)
    assert (one.code, two.code) == (0, 0), two.err
    assert one.out == two.out
    figures = json.loads(one.out)
    made = json.loads((tmp_path / "one" / "run.json").read_text())
    told = {name: made[name] for name in ("scope", "warnings")}
    assert made["summary"] | told == figures
    tpot = [run["tpot_ms_mean"] for run in made["replications"]]
    assert figures["replications"] == len(tpot) == 3
    assert figures["tpot_ms_mean"] == pytest.approx(sum(tpot) / 3)


def test_compare_tells_which_is_faster_and_how_surely(afdsim: Call, tmp_path: Path) -> None:
    narrow = ("--set-b", "workload.arrivals.concurrency=128")
    answer = afdsim("compare", "step3-2a2f", "step3-2a2f", *narrow, settings=SMALL)
    assert answer.code == 0
    assert all(line.startswith("warning: ") for line in answer.err.splitlines())
    assert "A is slower by" in answer.out
    assert "A serves more per GPU by" in answer.out
    assert "A is cheaper by" in answer.out
    assert "Settled by measuring" in answer.out
    same = afdsim("compare", "step3-2a2f", "step3-2a2f", "--json", settings=SMALL)
    found = json.loads(same.out)
    assert [each["relative"] for each in found["differences"]] == [0, 0, 0]
    assert found["differences"][0]["sentence"].startswith("TPOT: no difference at this precision")
    assert (found["replications"], found["precise"]) == (10, True)
    zero = {"p05": 0, "p10": 0, "p90": 0, "p95": 0, "better": 0.5}
    assert [each["doubt"] for each in found["differences"]] == [zero] * 3
    assert found["doubt_sentence"] == "No doubt: both are the same"
    assert left_behind(tmp_path) == []


def test_capacity_prints_the_limit_and_what_was_tried(afdsim: Call, tmp_path: Path) -> None:
    settings = (
        "workload.arrivals.requests=60",
        "workload.lengths.output={kind: fixed, tokens: 20}",
        "slo={tpot_ms: 20, queue_ms: 1000}",
    )
    call = ("capacity", "poisson-example", "--precision", "0.5", "--replications", "2")
    answer = afdsim(*call, settings=settings)
    assert answer.code == 0, answer.err
    assert answer.out.startswith("poisson-example: requests_per_s ")
    assert "with 0.99 of the requests within their targets" in answer.out
    assert "doubt: from " in answer.out
    found = json.loads(afdsim(*call, "--json", "--share", "0.9", settings=settings).out)
    assert found["share"] == 0.9
    assert found["low"] <= found["rate"] < found["high"]
    assert found["rate_p10"] < found["rate"] < found["rate_p90"]
    assert {found["low"], found["rate"], found["high"]} <= {t["rate"] for t in found["trials"]}
    assert left_behind(tmp_path) == []


def test_coverage_prints_what_is_measured_before_anything_runs(
    afdsim: Call, tmp_path: Path
) -> None:
    call = ("coverage", "deepseek-v3", "h200-sxm", "--software", "sglang", "--batch", "32")
    answer = afdsim(*call)
    assert answer.code == 0
    assert "of kernel time" in answer.out.splitlines()[-1]
    assert "taken: 4,096 tokens of context" in answer.err
    assert "requests a GPU" not in answer.err
    found = json.loads(afdsim(*call, "--json").out)
    keys = (
        "scenario model cards shape requests_per_gpu context_tokens shares kernels assumed "
        "cautions sentence"
    )
    assert set(found) == set(keys.split())
    assert found["requests_per_gpu"] == 32
    keys = "layer layers card op kernel dtype key shape time_us status beyond curve points error"
    assert set(found["kernels"][0]) == {*keys.split(), "source"}
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert left_behind(tmp_path) == []


def test_run_says_in_one_line_what_is_measured(afdsim: Call) -> None:
    bound = ("simulation.engine=bound",)
    told = afdsim("run", "step3-2a2f", settings=bound).err.splitlines()
    sentence = json.loads(afdsim("coverage", "step3-2a2f", "--json", settings=bound).out)[
        "sentence"
    ]
    assert f"coverage: {sentence}" in told
    uncalibrated = ("deployment.attention.accelerator=mi300x", "deployment.ffn.accelerator=mi300x")
    ran = afdsim("run", "step3-2a2f", settings=(*bound, *uncalibrated))
    assert "kernels was measured on mi300x" in ran.err


def test_costs_appear_where_all_gpus_have_a_price(afdsim: Call) -> None:
    call = ("explain", "dsv3-ep8-h200")
    assert "USD" not in afdsim(*call).out
    found = afdsim(*call, "--price", "h200-sxm=2.5", "--json")
    frozen = json.loads(found.out)["frozen"]
    tokens_per_s = frozen["figures"]["tgs"] * frozen["gpus"]
    rent = 2.5 * frozen["gpus"]
    assert frozen["figures"]["usd_per_1m_tokens"] == pytest.approx(rent / 3600 / tokens_per_s * 1e6)
    assert "USD/1M" in afdsim(*call, "--price", "h200-sxm=2.5").out

    bound = ("simulation.engine=bound",)
    assert "USD" not in afdsim("run", "dsv3-ep8-h200", settings=bound).out
    priced = afdsim("run", "dsv3-ep8-h200", "--price", "h200-sxm=2.5", settings=bound)
    assert "usd_per_1m_tokens" in priced.out

    table = ("theory", "step3", "--accelerator", "h200-sxm,b200")
    assert "USD" not in afdsim(*table).out
    rows = json.loads(afdsim(*table, "--price", "b200=4", "--json").out)
    assert {row["afd_attention_accelerator"] for row in rows} == {"b200"}


def test_capacity_prices_the_tokens_at_the_limit(afdsim: Call) -> None:
    settings = (
        "workload.arrivals.requests=60",
        "workload.lengths.output={kind: fixed, tokens: 20}",
        "slo={tpot_ms: 20, queue_ms: 1000}",
    )
    call = ("capacity", "poisson-example", "--precision", "0.5", "--replications", "2", "--json")
    rents = ("--price", "h800=1", "--price", "h800=3.6")
    found = json.loads(afdsim(*call, *rents, settings=settings).out)
    gpus = scenario.load("poisson-example").gpu_count()
    expected = 3.6 * gpus / 3600 / (found["rate"] * 20) * 1e6
    assert found["usd_per_1m_tokens"] == pytest.approx(expected)


def test_run_records_a_timeline_of_chosen_layers(afdsim: Call, tmp_path: Path) -> None:
    answer = afdsim("run", "step3-2a2f", "--timeline", "4:5", "--out", "t", settings=SMALL)
    assert answer.code == 0
    rows = table(tmp_path / "t/timeline.csv")
    assert {row["layer"] for row in rows} == {"4", "5"}
    assert {"attention", "a2f", "experts", "f2a_in"} <= {row["stage"] for row in rows}
    assert all(int(row["start_ns"]) <= int(row["end_ns"]) for row in rows)


def test_timeline_writes_a_trace_and_nothing_else(afdsim: Call, tmp_path: Path) -> None:
    answer = afdsim("timeline", "step3-2a2f", "--steps", "2:2", "--layers", "4:5", settings=SMALL)
    assert answer.code == 0, answer.err
    assert answer.out == ""
    assert "ui.perfetto.dev" in answer.err
    assert left_behind(tmp_path) == ["step3-2a2f-timeline.json.gz"]
    trace = json.loads(gzip.decompress((tmp_path / "step3-2a2f-timeline.json.gz").read_bytes()))
    assert {e["args"]["layer"] for e in trace["traceEvents"] if e["ph"] == "X"} == {4, 5}


def test_explain_prints_sentences_and_tables(afdsim: Call, tmp_path: Path) -> None:
    answer = afdsim("explain", "step3-2a2f", settings=SMALL)
    assert (answer.code, answer.err) == (0, "")
    first = answer.out.splitlines()[0]
    assert first.startswith("step3-2a2f (1A1F, micro-batches: 2) is FFN-bound: TPOT ")
    for title in ("critical circuit", "stages, and what", "part of the cards", "balanced shapes"):
        assert title in answer.out
    for cell in ("NIC out a0.g0", "NVLink in f0", "reduce_scatter", "NIC bandwidth", "1A2F"):
        assert cell in answer.out
    assert afdsim("explain", "step3-2a2f", settings=SMALL).out == answer.out
    assert left_behind(tmp_path) == []


def test_explain_says_which_balanced_shape_cannot_run(afdsim: Call) -> None:
    sides = ("deployment.attention.instances=4", "deployment.ffn.instances=2")
    load = "workload.arrivals.concurrency=1728"
    answer = afdsim("explain", "dsv3-afd", settings=(*sides, load))
    assert answer.code == 0
    assert "refused: KV cache needs" in answer.out


def test_explain_prints_one_json_object(afdsim: Call) -> None:
    for name, settings in (("step3-2a2f", SMALL), ("qwen3-ep16", ())):
        found = json.loads(afdsim("explain", name, "--json", settings=settings).out)
        promised = (
            "scenario deployment model frozen requests_per_gpu context_tokens circuit kv_formats "
            "stages cards micro_batches balance how_sure scope"
        )
        assert list(found) == promised.split()
        assert found["circuit"]["kind"] == ("FFN-bound" if settings else "GPU-bound")
        assert sum(leg["share"] for leg in found["circuit"]["legs"]) == pytest.approx(1)
        assert found["frozen"]["figures"].keys() == {"tpot_ms", "tgs", "usd_per_1m_tokens"}
        stage = found["stages"][0]
        assert {"stage", "server", "time_us", "slack_us", "sensitivity"} <= stage.keys()
        assert stage["sensitivity"]["larger"].keys() == {"tpot", "tgs"}
        own = "ratio" if found["deployment"] == "afd" else "hides_up_to"
        assert {own, "ideal_micro_batches", "shapes"} <= found["balance"].keys()


def test_explain_finds_the_ratio_for_contexts_that_differ(afdsim: Call) -> None:
    prompts = "workload.lengths.prompt={kind: lognormal, mean: 3000, cv: 1.0, max_tokens: 50000}"
    call = ("explain", "step3-2a2f", "--stochastic")
    shown = afdsim(*call, settings=(prompts,))
    assert shown.code == 0, shown.err
    for text in ("T_A", "T_F", "T_C", "θ =", "best, mean field", "best, barrier"):
        assert text in shown.out
    found = json.loads(afdsim(*call, "--json", settings=(prompts,)).out)["stochastic"]
    assert found["present"]["barrier_us"] > found["present"]["mean_field_us"]
    assert found["barrier"]["barrier_tgs"] >= found["mean_field"]["barrier_tgs"]
    assert found["attention"].keys() == {"ns_per_token", "constant_ns", "misfit"}
    answer = afdsim("explain", "dsv3-ep128", "--stochastic")
    assert (answer.code, answer.out) == (3, "")
    assert "only AFD has a ratio" in answer.err


def test_explain_draws_the_pipeline_on_one_page(afdsim: Call, tmp_path: Path) -> None:
    for _ in range(2):
        answer = afdsim("explain", "step3-2a2f", "--picture", "new/p.html", settings=SMALL)
        assert (answer.code, answer.err) == (0, "wrote new/p.html\n")
    page = (tmp_path / "new/p.html").read_text()
    assert page.count("<html") == 1
    assert "critical circuit" in page
    assert "NVLink out f0" in page
    assert "FFN-bound" in page
    assert 'src="http' not in page
    assert left_behind(tmp_path) == ["new/p.html"]
    (tmp_path / "taken").mkdir()
    answer = afdsim("explain", "step3-2a2f", "--picture", "taken", settings=SMALL)
    assert answer.code == 6
    assert "taken: is a directory" in answer.err
    assert left_behind(tmp_path) == ["new/p.html"]


def test_validate_checks_studies(afdsim: Call) -> None:
    answer = afdsim("validate", str(cards.study("afd-vs-ep")))
    assert answer.code == 0
    assert "39 cells, all well formed" in answer.err


def test_validate_reports_all_mistakes_at_once(afdsim: Call, tmp_path: Path) -> None:
    assert afdsim("new", "mine").code == 0
    path = tmp_path / "scenarios/mine.yaml"
    text = path.read_text().replace("model: step3", "model: step4")
    text = text.replace("micro_batches: 3", "micro_batches: -3\n  microbatches: 3")
    path.write_text(text)
    answer = afdsim("validate", "mine")
    assert answer.code == 3
    assert answer.out == ""
    lines = answer.err.splitlines()
    assert any("unknown model 'step4'" in line and "step3" in line for line in lines)
    assert any("micro_batches" in line and "-3" in line for line in lines)
    assert any("microbatches" in line and "did you mean 'micro_batches'" in line for line in lines)
    assert all("scenarios/mine.yaml:" in line for line in lines)


def test_every_shipped_scenario_and_sweep_is_valid(afdsim: Call) -> None:
    scenarios = [path.stem for path in (ROOT / "scenarios").glob("*.yaml")]
    sweeps = [path.stem for path in (ROOT / "scenarios/sweeps").glob("*.yaml")]
    assert len(scenarios) >= 10
    assert len(sweeps) >= 2
    answer = afdsim("validate", *scenarios, *sweeps)
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(
    ("arguments", "settings", "code", "said"),
    [
        (("run", "step3-2a3f"), (), 3, "did you mean 'step3-2a2f'"),
        (("run", "nowhere.yaml"), (), 3, "no such file"),
        (("run", "step3-2a2f"), ("model=steppe",), 3, "unknown model"),
        (("run", "step3-2a2f"), ("deployment.fabric=x",), 3, "unknown fabric"),
        (("run", "step3-2a2f"), ("workload.arrivals.concurrency=-1",), 3, "greater than 0"),
        (("run", "step3-2a2f"), ("slo.tpot_ms=.nan",), 3, "finite"),
        (("run", "step3-2a2f"), ("slo.tpot_ms=1_000",), 3, "write 1000"),
        (("run", "step3-2a2f"), ("slo.tpot_percentile=100",), 3, "less than 100"),
        (("run", "step3-2a2f"), ("slo.queue_percentile=99",), 3, "needs queue_ms"),
        (("run", "step3-2a2f"), ("no_path",), 3, "path=value"),
        (("run", "step3-2a2f"), ("workload.arrivals.concurrency=99999",), 4, "lower the batch"),
        (("run", "step3-2a2f"), ("deployment.ffn.instances=5",), 4, "do not divide"),
        (("run", "step3-2a2f"), ("deployment.attention.accelerator=l4",), 4, "no NICs"),
        (
            ("run", "poisson-example"),
            ("workload.lengths.prompt={kind: fixed, tokens: 2000000}",),
            4,
            "KV",
        ),
        (("run",), (), 2, "scenario"),
        (("runn",), (), 2, "runn"),
        (("run", "step3-2a2f", "--timeline", "x"), (), 2, "FIRST:LAST"),
        (("timeline", "step3-2a2f"), (), 2, "--steps"),
        (("timeline", "step3-2a2f", "--steps", "5:4"), (), 2, "FIRST:LAST"),
        (("timeline", "step3-2a2f", "--steps", "0:9999"), (), 2, "the run ends sooner"),
        (("timeline", "step3-2a2f", "--steps", "300:301"), SMALL, 2, "the run has steps 0:"),
        (("timeline", "step3-2a2f", "--steps", "0:1", "--layers", "60:62"), (), 2, "0:60"),
        (("timeline", "step3-2a3f", "--steps", "0:1"), (), 3, "did you mean 'step3-2a2f'"),
        (("capacity", "step3-2a2f"), (), 3, "kind closed has no rate"),
        (("compare", "step3-2a2f", "step3-2a3f"), (), 3, "did you mean 'step3-2a2f'"),
        (("compare", "step3-2a2f", "dsv3-ep128"), ("simulation.engine=bound",), 3, "event or"),
        (("run", "step3-2a2f"), ("simulation={seed: 0, engine: bound, replications: 2}",), 3, "1"),
        (("explain", "step3-2a3f"), (), 3, "did you mean 'step3-2a2f'"),
        (("explain", "step3-2a2f"), ("workload.arrivals.concurrency=0",), 3, "greater than 0"),
        (("explain", "step3-2a2f"), ("workload.arrivals.concurrency=99999",), 4, "lower the batch"),
        (("explain", "step3-2a2f"), ("deployment.ffn.instances=5",), 4, "do not divide"),
        (("theory", "step3", "--context", "0"), (), 2, "whole numbers"),
        (("theory", "step9"), (), 3, "unknown model"),
        (("coverage", "step3"), (), 2, "name a card"),
        (("coverage", "step3-2a2f", "--ep", "8"), (), 2, "give MODEL and CARD"),
        (("coverage", "step3", "h800", "--batch", "0"), (), 2, "--batch"),
        (("coverage", "step3-2a3f"), (), 3, "did you mean 'step3-2a2f'"),
        (("coverage", "step9", "h800"), (), 3, "did you mean 'step3'"),
        (("coverage", "step3", "h900"), (), 3, "did you mean"),
        (("coverage", "step3", "h800", "--software", "vlm"), (), 3, "did you mean 'vllm'"),
        (("coverage", "step3", "h800", "--precision", "fp9"), (), 3, "did you mean 'fp8'"),
        (("coverage", "step3", "l4", "--ep", "16"), (), 4, "has no NICs"),
        (("theory", "step3", "--price", "h200=2"), (), 3, "did you mean 'h200-sxm'"),
        (("run", "step3-2a2f", "--price", "h800=-1"), (), 3, "--price h800=-1: should be"),
        (("sweep", "afd-ratio", "--price", "h800"), (), 3, "write CARD=USD"),
        (("hardware", "show", "h900"), (), 3, "did you mean"),
        (("schema", "scenery"), (), 2, "did you mean 'scenario'"),
        (
            ("sweep", "afd-ratio", "--workers", "2", "--scheduler", "tcp://a:1"),
            (),
            2,
            "--workers or",
        ),
        (("sweep", "afd-ratio", "--scheduler", "here"), (), 2, "write tcp://HOST:PORT"),
        (("study", "afd-vs-ep", "--scheduler", "here"), (), 2, "write tcp://HOST:PORT"),
        (("sweep", "step3-vs-dsv4"), (), 3, "did you mean 'step3-vs-dsv3'"),
        (("plot", "nothing-here"), (), 3, "name the directory of a sweep"),
    ],
)
def test_bad_input_has_its_exit_code_and_leaves_nothing(
    afdsim: Call,
    tmp_path: Path,
    arguments: tuple[str, ...],
    settings: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    answer = afdsim(*arguments, settings=settings)
    assert answer.code == code, answer.err
    assert said in answer.err
    assert answer.out == ""
    assert left_behind(tmp_path) == []


SWEEP = """
kind: sweep
name: tiny
set:
  deployment.micro_batches: 2
  slo.tpot_ms: {slo}
families:
  - family: AFD
    base: step3-2a2f
    axes:
      - deployment.attention.instances: [1, 2]
        deployment.ffn.instances: [1, 1]
      - workload.arrivals.concurrency: {{from: 128, to: 256, step: 128}}
  - family: too big
    base: step3-2a2f
    set: {{workload.arrivals.concurrency: 60000}}
published:
  - {{label: somewhere, tpot_ms: 50, tgs: 100, source: nowhere}}
"""


def test_sweep_is_the_same_with_one_and_two_workers(afdsim: Call, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(slo=70))
    for workers in ("1", "2"):
        answer = afdsim("sweep", "tiny.yaml", "--workers", workers, "--out", f"w{workers}")
        assert answer.code == 0, answer.err
        assert "Pareto front" in answer.out
    made = left_behind(tmp_path / "w1")
    same = ["pipelines.json", "report.html", "run.json", "sweep.csv", "sweep.parquet"]
    assert made == sorted([*same, "points.sqlite"])
    for name in same:
        one, two = (tmp_path / f"w{n}" / name for n in (1, 2))
        assert one.read_bytes() == two.read_bytes(), name
    rows = table(tmp_path / "w1/sweep.csv")
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["refused"]
    assert "lower the batch" in rows[-1]["reason"]


def test_a_sweep_goes_on_in_its_directory_and_says_why_points_run(
    afdsim: Call, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(slo=70))
    folder = tmp_path / "results/runs/tiny"
    first = afdsim("sweep", "tiny.yaml", "--explain")
    assert first.code == 0, first.err
    assert "point 4 (too big) runs: new" in first.err
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    second = afdsim("sweep", "tiny.yaml", "--explain", "--retry-failed")
    assert second.code == 0, second.err
    assert second.out == first.out
    assert "5 of 5 points are taken over, 0 run" in second.err
    assert "runs:" not in second.err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    text = SWEEP.format(slo=70).replace("to: 256, step: 128", "to: 384, step: 128")
    text = text.replace("families:", 'constraints: ["gpus < 24"]\nfamilies:').replace("60000", "96")
    (tmp_path / "tiny.yaml").write_text(text)
    third = afdsim("sweep", "tiny.yaml", "--explain", "--json", "--workers", "1")
    assert third.code == 0, third.err
    assert "4 of 7 combinations are left out by constraints" in third.err
    assert "2 of 3 points are taken over, 1 run" in third.err
    assert "workload.arrivals.concurrency=384) runs: new" in third.err
    assert len(json.loads(third.out)["points"]) == len(table(folder / "sweep.csv")) == 3
    assert left_behind(tmp_path / "results/runs") == [f"tiny/{name}" for name in sorted(before)]


def test_sweep_into_a_directory_of_something_else_exits_6(afdsim: Call, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(slo=70))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("years of work")
    answer = afdsim("sweep", "tiny.yaml", "--out", "mine")
    assert answer.code == 6
    assert "choose another --out" in answer.err
    assert answer.out == ""
    assert left_behind(tmp_path) == ["mine/notes", "tiny.yaml"]


def test_sweep_without_a_point_that_meets_the_slo_exits_4(afdsim: Call, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(slo=1))
    answer = afdsim("sweep", "tiny.yaml", "--workers", "1", "--out", "s")
    assert answer.code == 4
    assert "no point meets its SLO" in answer.err
    rows = table(tmp_path / "s/sweep.csv")
    assert "exceeds 1 ms" in rows[0]["reason"]


def test_sweep_mistakes_are_reported_before_anything_runs(afdsim: Call, tmp_path: Path) -> None:
    text = SWEEP.format(slo=70).replace("instances: [1, 2]", "instances: [1, -2, 3]")
    text = text.replace("base: step3-2a2f\n    set", "base: step3-2a2g\n    set")
    (tmp_path / "tiny.yaml").write_text(text)
    answer = afdsim("sweep", "tiny.yaml")
    assert answer.code == 3
    assert "zipped paths need equally many values" in answer.err
    (tmp_path / "tiny.yaml").write_text(text.replace("[1, -2, 3]", "[1, -2]"))
    answer = afdsim("sweep", "tiny.yaml")
    assert answer.code == 3
    assert "greater than 0 (got -2)" in answer.err
    assert "did you mean 'step3-2a2f'" in answer.err
    assert left_behind(tmp_path) == ["tiny.yaml"]


def test_plot_overlays_sweeps_offline(afdsim: Call, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SWEEP.format(slo=70))
    for name in ("a", "b"):
        afdsim("sweep", "tiny.yaml", "--workers", "1", "--out", name)
    assert afdsim("plot", "a", "b", "--out", "both.html").code == 0
    page = (tmp_path / "both.html").read_text()
    assert "a: AFD" in page
    assert "b: AFD" in page
    assert 'src="http' not in page


def test_theory_json_and_csv_have_the_promised_fields(afdsim: Call) -> None:
    rows = json.loads(afdsim("theory", "step3", "qwen3-32b", "--json").out)
    fields = (
        "model context kv_bytes attention_flops linear_flops ffn_flops total_params active_params "
        "arithmetic_intensity sparsity costs afd_usd_per_1m afd_attention_accelerator "
        "afd_ffn_accelerator"
    )
    assert all(list(row) == fields.split() for row in rows)
    assert [(row["model"], row["context"]) for row in rows] == [
        ("step3", 8192),
        ("step3", 32768),
        ("qwen3-32b", 8192),
        ("qwen3-32b", 32768),
    ]
    lines = afdsim("theory", "step3", "--accelerator", "h800,h20", "--csv").out.splitlines()
    assert len(lines) == 3
    assert "attention_usd_per_1m.h20" in lines[0]


def test_cards_and_schema_are_shown(afdsim: Call) -> None:
    models = json.loads(afdsim("models", "--json").out)
    assert [each["model"] for each in models] == cards.names(cards.MODELS)
    assert "kind: model" in afdsim("models", "show", "step3").out
    found = json.loads(afdsim("hardware", "--json").out)
    assert [each["accelerator"] for each in found] == cards.names(cards.ACCELERATORS)
    known = {each["accelerator"]: each["calibrated"] for each in found}
    assert (known["h800"], known["mi300x"]) == (True, False)
    assert "arXiv 2507.19427" in afdsim("hardware", "show", "h800").out
    schema = json.loads(afdsim("schema").out)
    assert schema["properties"]["slo"]
    assert schema["$defs"]["Afd"]["properties"]["micro_batches"]["description"]


def test_new_scenario_runs_and_an_existing_one_is_kept(afdsim: Call, tmp_path: Path) -> None:
    assert afdsim("new", "mine", "--from", "dsv3-ep128").code == 0
    assert afdsim("validate", "mine").code == 0
    assert afdsim("new", "mine").code == 2
    assert (tmp_path / "scenarios/mine.yaml").read_text().count("name: mine") == 1


def test_run_with_the_bound_engine_gives_the_steady_state(afdsim: Call, tmp_path: Path) -> None:
    answer = afdsim(
        "run",
        "step3-2a2f",
        "--json",
        "--out",
        "steady",
        settings=(*SMALL, "simulation.engine=bound"),
    )
    assert answer.code == 0
    figures = json.loads(answer.out)
    simulated = json.loads(afdsim("run", "step3-2a2f", "--json", settings=SMALL).out)
    assert figures.keys() == simulated.keys()
    assert figures["tpot_ms_mean"] == pytest.approx(simulated["tpot_ms_mean"], rel=0.02)
    assert figures["tpot_ms_p99"] is None
    assert left_behind(tmp_path / "steady") == ["run.json"]
    assert json.loads((tmp_path / "steady" / "run.json").read_text())["engine"] == "bound"


def test_the_bound_engine_refuses_what_it_cannot_do(afdsim: Call) -> None:
    answer = afdsim("run", "poisson-example", settings=("simulation.engine=bound",))
    assert answer.code == 3
    assert "workload.arrivals of kind closed" in answer.err
    timeline = ("run", "step3-2a2f", "--timeline", "1:2")
    assert afdsim(*timeline, settings=("simulation.engine=bound",)).code == 2


REFINED = """
kind: sweep
name: tiny
refine: {pareto: 0.2}
set: {slo.tpot_ms: 80}
families:
  - family: AFD
    base: step3-2a2f
    set:
      deployment.attention.instances: 1
      workload.arrivals: {kind: closed, requests_per_gpu: 1}
    axes:
      - deployment.ffn.instances: [1, 2]
      - workload.arrivals.requests_per_gpu: {from: 8, to: 72, step: 32}
"""


def test_a_refined_sweep_goes_on_where_it_ended(afdsim: Call, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(REFINED)
    first = afdsim("sweep", "tiny.yaml", "--workers", "2")
    assert first.code == 0, first.err
    assert "points of the grid can reach a front; " in first.err
    folder = tmp_path / "results/runs/tiny"
    rows = table(folder / "sweep.csv")
    batches = {float(row["set.workload.arrivals.requests_per_gpu"]) for row in rows}
    assert batches - {8, 40, 72}, "nothing was added"
    before = (folder / "sweep.csv").read_bytes()
    second = afdsim("sweep", "tiny.yaml", "--workers", "1")
    assert "0 run" in second.err
    assert (folder / "sweep.csv").read_bytes() == before


def test_sweep_with_the_bound_engine_finds_batches(afdsim: Call, tmp_path: Path) -> None:
    text = REFINED.replace("refine: {pareto: 0.2}\n", "")
    text = text.replace("base: step3-2a2f\n", "base: step3-2a2f\n    max_batch_under_slo: mean\n")
    (tmp_path / "tiny.yaml").write_text(text)
    answer = afdsim("sweep", "tiny.yaml", "--engine", "bound", "--json")
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["points"]
    assert {row["engine"] for row in rows} == {"bound"}
    assert all(row["batch"] > 1 and row["slo_met"] for row in rows)
    described = json.loads((tmp_path / "results/runs/tiny-bound/run.json").read_text())
    loads = {row["requests_in_flight"] for row in rows}
    assert described["best"]["AFD"]["workload"]["arrivals"]["concurrency"] in loads
    assert afdsim("sweep", "tiny.yaml", "--engine", "magic").code == 3


OVERLOAD = (
    "workload.arrivals.requests_per_s=150",
    "workload.arrivals.requests=200",
    "software.measured_on=qwen3-235b-a22b",
)
SCOPE = "decoding only; prefill is not included"


def test_an_overloaded_run_warns_once_and_misses(afdsim: Call) -> None:
    ran = afdsim("run", "poisson-example", "--json", settings=OVERLOAD)
    figures = json.loads(ran.out)
    assert ran.code == 0
    assert figures["stable"] is False
    assert figures["slo_met"] is False
    assert figures["scope"] == SCOPE
    (warning,) = figures["warnings"]
    assert warning.startswith("unstable")
    assert ran.err.count(f"warning: {warning}\n") == 1
    (saved,) = Path("results/runs").iterdir()
    assert json.loads((saved / "run.json").read_text())["warnings"] == [warning]
    shown = afdsim("run", "poisson-example", settings=OVERLOAD)
    assert shown.out.count(SCOPE) == 1
    assert "unstable" not in shown.out


def test_a_sweep_says_for_how_many_points_a_warning_holds(afdsim: Call) -> None:
    Path("s.yaml").write_text(
        "kind: sweep\nname: s\ndescription: two loads\nfamilies:\n"
        "  - {family: a, base: poisson-example, axes: [{workload.arrivals.requests_per_s: "
        "[1, 150, 160]}], set: {workload.arrivals.requests: 60}}\n"
    )
    ran = afdsim("sweep", "./s.yaml", "--json", "--workers", "1")
    told = json.loads(ran.out)
    assert told["warnings"][0].startswith("3 points: the software figures")
    assert told["warnings"][1].startswith("2 points: unstable")
    assert [row["stable"] for row in told["points"]] == [True, False, False]
    for text in told["warnings"]:
        assert ran.err.count(text) == 1
    folder = Path(told["directory"])
    assert json.loads((folder / "run.json").read_text())["warnings"] == told["warnings"]
    page = (folder / "report.html").read_text()
    assert page.count(SCOPE) >= 1
    assert "2 points: unstable" in page
    assert afdsim("sweep", "./s.yaml", "--workers", "1").out.count(SCOPE) == 1


def test_a_comparison_warns_of_the_side_that_it_means(afdsim: Call) -> None:
    b = ("--set-b", "workload.arrivals.requests_per_s=150")
    few = ("workload.arrivals.requests=40", *OVERLOAD[2:])
    ran = afdsim("compare", "poisson-example", "poisson-example", *b, "--most", "10", settings=few)
    warnings = [line for line in ran.err.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: B: unstable")
    assert ran.out.count(SCOPE) == 1


def test_capacity_tells_its_progress_and_the_overload(afdsim: Call) -> None:
    options = ("--replications", "2", "--precision", "1")
    few = ("workload.arrivals.requests=40",)
    ran = afdsim("capacity", "poisson-example", *options, settings=few)
    assert ran.code == 0
    assert re.match(r"trying (\S+)\n\1: ", ran.err)
    assert "the limit is below" in ran.err
    assert "no, unstable" in ran.out
    assert ran.out.count(SCOPE) == 1


def test_an_output_without_a_name_is_refused_before_the_run(afdsim: Call) -> None:
    answer = afdsim("run", "step3-2a2f", "--out", "")
    assert answer.code == 2
    assert "name the directory to create" in " ".join(answer.err.split())


POINTS = str(ROOT / "results" / "accuracy" / "points.csv")


def test_accuracy_shows_the_scenario_of_a_row_and_runs_it(afdsim: Call, tmp_path: Path) -> None:
    shown = afdsim("accuracy", POINTS, "--show", "step3-2a2f-peak")
    assert shown.code == 0
    (tmp_path / "row.yaml").write_text(shown.out, encoding="utf-8")
    assert afdsim("run", "./row.yaml", "--json").code == 0


def test_accuracy_tells_mistakes_and_what_it_cannot_express(afdsim: Call, tmp_path: Path) -> None:
    path = tmp_path / "few.csv"
    lines = Path(POINTS).read_text(encoding="utf-8").splitlines()
    wide = next(line.split(",")[0] for line in lines if "h100_sxm_trtllm_fp8" in line)
    few = [lines[0], *(line for line in lines if line.startswith(("step3-3a2f", wide)))]
    path.write_text("\n".join(few), encoding="utf-8")
    found = afdsim("accuracy", str(path), "--json")
    rows = {row["id"]: row for row in json.loads(found.out)}
    assert rows["step3-3a2f-bf16"]["expressible"]
    wanted = {"measured_ms", "predicted_ms", "error", "clock", "calibrated_share", "why_not"}
    assert all(wanted <= set(row) for row in rows.values())
    refused = rows[wide]
    assert (refused["expressible"], refused["error"]) == (False, None)
    assert "WIDEEP between x86 nodes" in refused["why_not"]
    assert afdsim("accuracy", str(path), "--show", wide).code == 3
    path.write_text("\n".join(few).replace("served TPOT", "sundial"), encoding="utf-8")
    bad = afdsim("accuracy", str(path))
    assert bad.code == 3
    assert "clock: should be device, wall, served TPOT" in bad.err
    assert afdsim("accuracy").code == 2
    assert afdsim("accuracy", "--stages", POINTS, "--show", "x").code == 2


def test_run_shows_doubt_without_simulating(afdsim: Call, tmp_path: Path) -> None:
    before = left_behind(tmp_path)
    answer = afdsim("run", "step3-2a2f-hopper", "--show", "doubt", "--json")
    assert answer.code == 0
    assert left_behind(tmp_path) == before
    found = json.loads(answer.out)
    assert found["tpot_ms_p05"] < found["tpot_ms_p10"] < found["tpot_ms"] < found["tpot_ms_p90"]
    shares = [each["share"] for each in found["sources"]]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) + found["undeclared"]["share"] == pytest.approx(1)
    (card,) = (each for each in found["sources"] if each["name"] == "card")
    assert card["may_be"] == "h800 or h100-sxm or h200-sxm"
    table = afdsim("run", "step3-2a2f-hopper", "--show", "doubt").out
    assert "glue of a layer" in table
    assert "what no source declares" in table
    for option in (("--out", "there"), ("--timeline", "0:2")):
        refused = afdsim("run", "step3-2a2f-hopper", "--show", "doubt", *option)
        assert (refused.code, refused.out) == (2, "")
        assert option[0] in refused.err
    assert left_behind(tmp_path) == before


def test_run_reoptimises_each_draw(afdsim: Call) -> None:
    shown = ("run", "dsv3-ep8-h200", "--show", "doubt", "--reoptimise", "--set", "slo.tpot_ms=40")
    again = json.loads(afdsim(*shown, "--json").out)["reoptimised"]
    assert again["batch_p10"] <= again["batch"] <= again["batch_p90"]
    assert "largest batch under 40 ms" in afdsim(*shown).out
    answer = afdsim("run", "poisson-example", "--show", "doubt", "--reoptimise")
    assert answer.code == 2
    assert "closed" in answer.err


def test_launch_prints_the_file_and_tells_the_rest(afdsim: Call) -> None:
    answer = afdsim("launch", "dsv3-ep8-h200", "--engine", "sglang")
    assert answer.code == 0
    assert answer.out.startswith("#!/usr/bin/env bash\n")
    assert "--attn-dp-size 8" in answer.out
    assert "not in the file: prefill" in answer.err


def test_launch_writes_a_file_with_settings(afdsim: Call, tmp_path: Path) -> None:
    settings = ("memory.max_running_requests=80",)
    words = ("launch", "dsv3-ep8-h200", "--engine", "vllm", "--out", "serve.sh")
    answer = afdsim(*words, settings=settings)
    assert (answer.code, answer.out) == (0, "")
    assert "--max-num-seqs 80 " in (tmp_path / "serve.sh").read_text("utf-8")
    told = json.loads(afdsim("launch", "dsv3-ep8-h200", "--engine", "dynamo", "--json").out)
    assert told["name"] == "dsv3-ep8-h200.dynamo.yaml"
    assert told["cannot"]


@pytest.mark.parametrize(
    ("scenario", "engine", "code", "told"),
    [
        ("dsv3-ep8-h200", "vlm", 2, "did you mean 'vllm'"),
        ("dsv3-ep9-h200", "vllm", 3, "did you mean"),
        ("step3-2a2f", "vllm", 4, "take afd-plugin"),
    ],
)
def test_launch_refuses(afdsim: Call, scenario: str, engine: str, code: int, told: str) -> None:
    answer = afdsim("launch", scenario, "--engine", engine)
    assert (answer.code, answer.out) == (code, "")
    assert told in answer.err
