"""`context`: a short form of lengths, by the mean context of a request in flight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.foundation.errors import ScenarioError
from sim.inputs.lengths import DrawnLengths, stationary_sample
from sim.inputs.scenario import Scenario, load
from sim.sweeps.sweep import load as load_sweep

BASE = "step3-2a2f"


def prompt_of(scenario: Scenario) -> int:
    lengths = scenario.workload.lengths
    assert isinstance(lengths, DrawnLengths)
    return lengths.prompt.max_length()


def written(tmp_path: Path, workload: str) -> Path:
    """Return a scenario file with another workload."""
    text = Path(__file__).parents[2].joinpath(f"scenarios/{BASE}.yaml").read_text(encoding="utf-8")
    before, rest = text.split("workload:")
    path = tmp_path / "mine.yaml"
    path.write_text(f"{before}workload: {workload}\n{rest[rest.index('slo:') :]}", encoding="utf-8")
    return path


def test_a_context_is_the_same_scenario_as_its_lengths(tmp_path: Path) -> None:
    base = load(BASE)
    assert load(BASE, ["workload.context=4096"]).workload == base.workload
    arrivals = "arrivals: {kind: closed, concurrency: 6144}"
    path = written(tmp_path, f"{{{arrivals}, context: 4096}}")
    assert load(path) == base
    assert "context" not in base.workload.model_dump()


def test_lengths_may_state_the_output_beside_a_context(tmp_path: Path) -> None:
    arrivals = "arrivals: {kind: closed, concurrency: 6144}"
    output = "lengths: {kind: drawn, output: {kind: fixed, tokens: 2001}}"
    assert prompt_of(load(written(tmp_path, f"{{{arrivals}, context: 8192, {output}}}"))) == 7192
    short = load(BASE, ["workload.lengths.output.tokens=1", "workload.context=8192"])
    assert prompt_of(short) == 8192


@pytest.mark.parametrize(
    "output",
    [
        "{kind: fixed, tokens: 501}",
        "{kind: uniform, low: 100, high: 900}",
        "{kind: lognormal, mean: 500, cv: 0.8, max_tokens: 100000}",
        "{kind: geometric, mean: 500, max_tokens: 100000}",
        "{kind: bimodal, short: 100, long: 2000, long_share: 0.3}",
    ],
)
def test_requests_in_flight_have_the_context_in_the_mean(output: str) -> None:
    lengths = load(BASE, ["workload.context=9000", f"workload.lengths.output={output}"]).workload
    prompt, _, ages = stationary_sample(lengths.law, 0, 200_000)
    assert float(np.mean(prompt + ages)) == pytest.approx(9000, rel=0.004)


def test_the_last_statement_of_a_context_or_a_prompt_holds() -> None:
    prompt = "workload.lengths.prompt={kind: fixed, tokens: 700}"
    assert prompt_of(load(BASE, [prompt, "workload.context=8192"])) == 7680
    assert prompt_of(load(BASE, ["workload.context=8192", prompt])) == 700
    assert prompt_of(load(BASE).with_settings({"workload.context": 8192})) == 7680
    lengths = "workload.lengths={kind: drawn, output: {kind: fixed, tokens: 1}}"
    assert prompt_of(load(BASE, ["workload.context=8192", lengths])) == 8192


SWEEP = """
kind: sweep
name: contexts
set: {workload.lengths.prompt.tokens: 300}
families:
  - family: AFD
    base: step3-2a2f
    axes: [{AXIS: [VALUES]}]
"""


def test_a_sweep_goes_over_contexts_and_a_setting_for_all_points_wins(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SWEEP.replace("AXIS: [VALUES]", "workload.context: [4096, 8192]"))
    assert [prompt_of(point.scenario) for point in load_sweep(path).points] == [3584, 7680]
    path.write_text(SWEEP.replace("AXIS: [VALUES]", "workload.lengths.prompt.tokens: [5, 6]"))
    points = load_sweep(path, ["workload.context=4096"]).points
    assert [prompt_of(point.scenario) for point in points] == [3584, 3584]


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        ("context: 8192, lengths: {kind: drawn, prompt: {kind: fixed, tokens: 1}, OUT}", "same"),
        ("context: 300", "a request in flight has decoded 512 tokens in the mean"),
        ("context: -1", "workload.context: should be greater than 0 (got -1)"),
        ("context: 8K", "workload.context: should be a valid integer (got '8K')"),
        ("context: 8192, lengths: {kind: csv, path: x}", "leave context out"),
        ("context: 8192, lengths: {kind: drawn, output: {kind: fixed}}", "tokens: missing"),
        ("context: 8192, lengths: {kind: drawn, outputs: 3}", "did you mean 'output'"),
        ("contexts: 8192", "did you mean 'context'"),
    ],
)
def test_mistakes_are_told_where_they_stand(tmp_path: Path, workload: str, said: str) -> None:
    out = "output: {kind: fixed, tokens: 9}"
    path = written(
        tmp_path, f"{{arrivals: {{kind: closed, concurrency: 9}}, {workload.replace('OUT', out)}}}"
    )
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert said in str(caught.value)
    lines = path.read_text(encoding="utf-8").splitlines()
    line = next(n for n, text in enumerate(lines, 1) if text.startswith("workload:"))
    assert all(problem.startswith(f"{path}:{line}:") for problem in caught.value.problems)


@pytest.mark.parametrize("context", ["nan", "-1", "1.0e+99", "[1]", "{a: 1}"])
def test_a_wrong_context_is_one_mistake_where_it_takes_the_place_of_a_prompt(context: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load(BASE, [f"workload.context={context}"])
    (problem,) = caught.value.problems
    assert problem.startswith("--set workload.context: ")


def test_a_trace_has_no_context() -> None:
    settings = ["workload.arrivals={kind: trace, path: x.csv}", "workload.context=4096"]
    with pytest.raises(ScenarioError, match="leave context out"):
        load(BASE, settings)
