"""Bad noise: laws, places, probabilities and files that cannot be, told with place and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.foundation.errors import ScenarioError
from sim.inputs import scenario

TASK = "noise={{tasks: [{{server: gpu, law: {}}}]}}"
FIGURE = "{{value: {}, source: test}}"


def told(*overrides: str, base: str = "step3-2a2f") -> str:
    with pytest.raises(ScenarioError) as caught:
        scenario.load(base, overrides)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("law", "path", "remedy"),
    [
        ("{kind: normal}", "noise.tasks.0.law.kind", "'lognormal'"),
        ("{kind: lognormal, cv: 0.1}", "noise.tasks.0.law.cv", "mapping"),
        (f"{{kind: gamma, cv: {FIGURE.format(-1)}}}", "noise.tasks.0.law.cv", "equal to 0"),
        (
            f"{{kind: uniform, spread: {FIGURE.format(1.5)}}}",
            "noise.tasks.0.law",
            "spread should be at most 1 (got 1.5)",
        ),
        ("{kind: empirical, source: test}", "noise.tasks.0.law", "exactly one of factors and path"),
        ("{kind: empirical, factors: [1], source: test}", "law.factors", "at least 2"),
        ("{kind: empirical, factors: [1, -1], source: test}", "law.factors.1", "greater than 0"),
        ("{kind: empirical, factors: [1, 2]}", "law.source", "missing"),
        ("{kind: empirical, path: none.csv, source: test}", "law.path", "none.csv: cannot be read"),
    ],
)
def test_bad_laws(law: str, path: str, remedy: str) -> None:
    problem = told(TASK.format(law))
    assert path in problem
    assert remedy in problem


def test_bad_devices() -> None:
    slow = f"share: {FIGURE.format(1.1)}, factor: {FIGURE.format(0.5)}"
    problem = told(f"noise={{slow: [{{server: gpus, {slow}}}]}}")
    assert "noise.slow.0.server" in problem
    assert "'gpu'" in problem
    assert "share should be at most 1 (got 1.1)" in told(
        f"noise={{slow: [{{server: gpu, {slow}}}]}}"
    )
    fast = slow.replace("1.1", "0.1")
    assert "factor should be at least 1 (got 0.5)" in told(
        f"noise={{slow: [{{server: gpu, {fast}}}]}}"
    )


def test_sides_are_of_afd() -> None:
    law = f"{{kind: lognormal, cv: {FIGURE.format(0.1)}}}"
    sided = f"noise={{tasks: [{{server: gpu, side: ffn, law: {law}}}]}}"
    assert scenario.load("step3-2a2f", [sided]).noise is not None
    assert "side exists only under AFD; leave it out" in told(sided, base="dsv3-ep128")


def test_every_bad_line_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "factors.csv"
    law = TASK.format(f"{{kind: empirical, path: {path}, source: test}}")
    path.write_text("factor\n1\n0\nnan\n1.2\n\nx\n")
    problem = told(law)
    for line in (3, 4, 7):
        assert f"factors.csv:{line}: a factor should be a positive number" in problem
    path.write_text("factors\n1\n")
    assert "factors.csv:1: the header should name factor" in told(law)
    path.write_text("factor\n1\n")
    assert "at least 2 factors are needed" in told(law)
    path.write_text("factor\n1.2\n0.8\n")
    loaded = scenario.load("step3-2a2f", [law])
    assert loaded.noise is not None
    assert loaded.noise.tasks[0].server == "gpu"
