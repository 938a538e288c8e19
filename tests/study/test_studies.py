"""Studies: both sides at their best, verdicts that follow from margins, the same bytes always."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.deployments import compile_deployment
from sim.doubt.margin import OPEN, in_doubt, verdict
from sim.experiments.replications import replication
from sim.foundation.errors import InfeasibleError
from sim.parallel import processes
from sim.parallel.signals import Stopped
from sim.study import cells, verdicts
from sim.study.best_shapes import best_shapes, bound_worth
from sim.study.cells import LoadedStudy
from sim.study.doubts import margin_of_plain
from sim.study.jobs import CellResult, StudyJobs
from sim.study.paired_runs import at_its_batch, changed, fitting, paired_runs
from sim.study.schema import Counterfactual, Shortlist
from sim.study.verdicts import Moved
from sim.sweeps.points import Outcome
from sim.sweeps.runner import Runner
from sim.sweeps.store import Store
from tests import small_study, tiny

SIDES = ("AFD", "EP")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> LoadedStudy:
    return cells.load(small_study.write(tmp_path_factory.mktemp("study")))


@pytest.mark.parametrize("cell", [0, 1])
@pytest.mark.parametrize("side", [0, 1])
def test_the_shortlist_holds_the_best_of_all_shapes(
    study: LoadedStudy, cell: int, side: int
) -> None:
    shapes, priced = study.cells[cell].sides[side], study.cells[cell].priced
    short = best_shapes(shapes, study.study, priced)
    all_of_them = Shortlist(probe=99, search=99, reconsider=99)
    every = best_shapes(shapes, study.study.replaced(shortlist=all_of_them), priced)
    assert every["counts"]["searched"] == every["counts"]["screened"] > 3
    assert short["counts"]["searched"] == 2
    assert short["searched"][0] == every["searched"][0]
    assert short["beyond"] < 0
    assert every["beyond"] is None
    worths = [each["worth"] for each in every["searched"]]
    assert worths == sorted(worths, reverse=True)


def test_a_best_shape_meets_the_slo_and_one_more_request_does_not(study: LoadedStudy) -> None:
    shapes = study.cells[0].sides[1]
    best = best_shapes(shapes, study.study, priced=True)["searched"][0]
    limit_ms = shapes.first.slo.tpot_ms
    assert best["figures"]["tpot_ms_mean"] <= limit_ms
    assert best["limit"] == "SLO"
    assert best["figures"]["tpot_ms_mean"] > 0.97 * limit_ms


def doubt_of_margin(value: float, spread: float = 0.0, rest: float = 0.0) -> dict[str, Any]:
    """Return an outcome of the third round whose draws lie evenly around a margin."""
    factors = np.exp(np.linspace(-spread, spread, 64)).tolist()
    plain = {"value": value, "factors": factors, "factor_80": 1.0, "factor_90": 1.0}
    plain |= {"log_sd": rest, "parts": []}
    return {"status": "ok", "margin": plain, "tpot": [[0.9, 1.1], [0.8, 1.2]]}


@given(st.floats(-0.8, 4), st.floats(0, 0.3), st.floats(0, 0.2), st.floats(0.55, 0.95))
def test_verdicts(margin: float, rest: float, indifference: float, certainty: float) -> None:
    found = margin_of_plain(doubt_of_margin(margin, 0.1, rest)["margin"])
    said = verdict(found, SIDES, indifference, certainty)
    least = math.log1p(indifference)
    if said == OPEN:
        assert abs(math.log1p(margin)) < least + 0.1 + 4 * rest + 1e-9
    else:
        assert said == SIDES[margin < 0]
        assert abs(math.log1p(margin)) > least - 1e-9


def test_a_scenario_draws_with_itself(study: LoadedStudy) -> None:
    shapes = study.cells[0].sides[0]
    found = best_shapes(shapes, study.study, priced=True)
    scenario = at_its_batch(shapes.first, found)
    entries = found["searched"][:1] * 2
    same = paired_runs([scenario, scenario], entries, study.study, priced=True)
    assert (same["margin"], same["half_width"]) == (0, 0)
    margin = in_doubt(0.0, scenario, scenario).margin
    assert margin.interval(90) == (0, 0)
    assert verdict(margin, SIDES, 0.02, 0.8) == OPEN


def test_what_a_counterfactual_changes(study: LoadedStudy) -> None:
    shapes = study.cells[0].sides[0]
    found = best_shapes(shapes, study.study, priced=True)
    now = found["searched"][0]["worth"]

    def yields(by: str = "bound", **change: Any) -> float:
        told = {"name": "x", "by": by, "sides": {shapes.side: change}}
        read = Counterfactual.model_validate(told)
        return changed(shapes, found, read, study.study, priced=True)

    assert yields() == yields(free=["dispatch"]) == now
    assert yields(free=["link", "a2f", "a2f_in"]) > 1.02 * now
    assert yields("simulation", set={"noise": None}) > now
    assert yields("simulation", set={"slo.tpot_ms": 0.01}) == 0
    assert yields(set={"slo.tpot_ms": 0.01}) == 0
    slower = yields(set={"software.glue_us_per_layer": {"value": 9, "source": "test"}})
    best = found["searched"][0]
    same = shapes.first.with_settings({**best["settings"], **study.study.screen})
    assert 0.7 * now < slower < now
    assert yields(set={"memory.utilisation": shapes.first.memory.utilisation}) == now
    assert best["bound"] == bound_worth(same, priced=True)


def entry(worth: float) -> dict[str, Any]:
    gpus = {"deployment.attention.instances": 4, "deployment.ffn.instances": 1}
    settings = gpus | {"deployment.gpus": 8, "deployment.redundant_experts": 3}
    searched = [{"worth": worth, "settings": settings, "figures": {"gpus": 8}}]
    return {"status": "ok", "searched": searched, "beyond": None}


def test_verdicts_of_cells(study: LoadedStudy) -> None:
    cell, of = study.cells[0], study.study
    slow = {"status": "slo", "searched": [], "least_tpot_ms": 3.0}
    full: dict[str, Any] = {"status": "memory", "searched": [], "least_tpot_ms": None}
    fine = entry(1.0)
    cases: list[tuple[list[dict[str, Any] | None], str | None]] = [
        ([fine, slow], "only AFD"),
        ([full, fine], "only EP"),
        ([full, slow], "neither"),
        ([fine, fine], None),
        ([None, slow], None),
    ]
    for best, said in cases:
        found = verdicts.judge(of, CellResult(cell, best), None)
        assert found.verdict == said
        assert found.margin is None
    assert verdicts.judge(of, CellResult(cell, [full, slow]), None).whys == (
        "no shape fits in memory",
        "least TPOT 3 ms, the SLO is 0.9 ms",
    )


def test_what_decides_is_what_the_winner_could_not_do_without(study: LoadedStudy) -> None:
    met = {"margin": 0.2, "half_width": 0.01, "limits": [None, None]}
    yields = {
        "a": [0.9, 1.0],
        "b": [3.0, 1.0],
        "c": [1.15, 1.0],
        "d": [0.0, 1.0],
    }
    result = CellResult(study.cells[0], [entry(1.2), entry(1.0)], met, dict(yields))
    found = verdicts.judge(study.study, result, doubt_of_margin(0.2, 0.05, 0.02))
    assert found.verdict == "AFD"
    assert found.factors == ((0.9, 1.1), (0.8, 1.2))
    assert found.decides is not None
    assert found.decides.name == "d"
    assert found.edges == (("deployment.attention.instances",), ("deployment.gpus",))
    assert [(m.name, m.verdict, m.flips) for m in found.moved] == [
        ("a", "EP", True),
        ("b", "AFD", False),
        ("c", "AFD", False),
        ("d", "only EP", True),
    ]
    assert found.moved[0].margin == pytest.approx(-0.1)
    assert found.moved[3].margin is None
    helps = (Moved("b", 2.0, 2.5, "AFD", flips=False),)
    assert replace(found, moved=helps).decides is None
    assert replace(found, verdict=OPEN).decides is None


def files(folder: Path) -> dict[str, bytes]:
    names = ("study.csv", "study.parquet", "mechanisms.csv", "mechanisms.parquet", "report.md")
    return {name: (folder / name).read_bytes() for name in names}


def test_the_same_bytes_by_any_number_of_workers_and_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from sim.cli import main

    path = small_study.write(tmp_path)

    def run(folder: str, count: int, *more: str) -> dict[str, bytes]:
        words = ["study", str(path), "--workers", str(count), "--out", str(tmp_path / folder)]
        words += more
        monkeypatch.setattr("sys.argv", ["afdsim", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return files(tmp_path / folder)

    one = run("one", 1)
    assert run("two", 2) == one

    finished = 0

    def stop(_outcome: Outcome) -> None:
        nonlocal finished
        finished += 1
        if finished == 3:
            raise Stopped(signal.SIGTERM)

    loaded = cells.load(path)
    with Store(tmp_path / "three", "small") as store, processes.local(1) as pool:
        runner = Runner(store)
        jobs = StudyJobs(loaded, runner)
        with pytest.raises(Stopped):
            runner.run(jobs.searches, pool, stop)
        first, second = jobs.results()
        assert None not in first.best
        assert None in second.best
    with Store(tmp_path / "three", "small") as store:
        runner = Runner(store)
        jobs = StudyJobs(loaded, runner)
        assert runner.missing(jobs.searches) == jobs.searches[3:]
    assert run("three", 1) == one
    capsys.readouterr()
    assert run("three", 1, "--json") == one
    answer = json.loads(capsys.readouterr().out)
    assert [cell["side"] for cell in answer["cells"]] == [*SIDES, *SIDES]
    assert answer["directory"] == str(tmp_path / "three")
    mechanisms = one["mechanisms.csv"].decode().splitlines()
    assert [("slow" in line, "fast" in line) for line in mechanisms if "free network" in line] == [
        (True, False)
    ]


def test_pairs_at_the_edge_of_memory_take_a_load_that_fits_with_every_seed(
    loaded_model: Path,
) -> None:
    lengths = "workload.lengths.prompt={kind: lognormal, mean: 3000, cv: 1.0, max_tokens: 20000}"
    roomy = tiny.load(loaded_model, "dsv3-ep128", lengths)
    site = compile_deployment(roomy.with_batch(1))
    needed = 40.001 * site.expected.claimed_bytes()
    spare = (site.kv_memory().kv_capacity_bytes() - needed) / 1e9
    reserve = f"memory.activation_reserve_gb={roomy.memory.activation_reserve_gb + spare}"
    full = tiny.load(loaded_model, "dsv3-ep128", lengths, reserve).with_batch(40 * 4)
    compile_deployment(full)
    over = 0
    for number in range(1, 7):
        try:
            compile_deployment(replication(full, number))
        except InfeasibleError:
            over += 1
    assert 0 < over < 6
    fits = fitting(full, range(1, 7))
    for number in range(1, 7):
        compile_deployment(replication(fits, number))
