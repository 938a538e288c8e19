"""Exploring a sweep finds the front of its grid, and leaves no large steps between its points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.foundation.errors import ScenarioError
from sim.foundation.pareto import pareto_front
from sim.metrics.steady_summary import steady_summary
from sim.steady.state import steady_state
from sim.sweeps import sweep
from sim.sweeps.points import Point, Row, front, row
from sim.sweeps.refine import Place, bound_places, explore

BATCH = "workload.arrivals.requests_per_gpu"
ONE = "  - family: one\n"
FILE = f"""
kind: sweep
name: made
refine: {{pareto: 0.05}}
families:
{ONE}    base: dsv3-ep128
    axes:
      - deployment.gpus: [32, 64]
      - {BATCH}: {{from: 8, to: 136, step: 32}}
  - family: other
    base: dsv3-ep128
    axes:
      - {BATCH}: {{from: 8, to: 136, step: 32}}
  - family: small
    base: qwen3-ep16
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> sweep.LoadedSweep:
    path = tmp_path_factory.mktemp("refine") / "made.yaml"
    path.write_text(FILE)
    return sweep.load(path)


class Made:
    """Outcomes that follow from a point's settings, or from a list."""

    def __init__(self, places: dict[int, Place] | None = None) -> None:
        self.places = places
        self.simulated: list[Point] = []

    def place(self, point: Point) -> Place | None:
        if self.places is not None:
            return self.places.get(point.index)
        gpus = point.settings.get("deployment.gpus", 16)
        batch = point.settings.get(BATCH, 10)
        if batch > 120:
            return None
        tpot_s = 0.01 + batch / 5000
        return 1 / tpot_s, batch / tpot_s * (1 - 8 / gpus)

    def simulate(self, points: Sequence[Point]) -> list[Row]:
        self.simulated += points
        rows = []
        for point in points:
            place = self.place(point)
            outcome: dict[str, object] = {"status": "refused", "reason": "full"}
            if place is not None:
                figures = dict(zip(("tokens_per_s_per_user", "tgs"), place, strict=True))
                outcome = {"status": "ok", "reason": "", **figures}
            rows.append(row(point, outcome))
        return rows


coordinates = st.tuples(st.integers(1, 12), st.integers(1, 12))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(coordinates, min_size=16, max_size=16),
    st.lists(st.floats(0, 2), min_size=16, max_size=16),
)
def test_no_point_of_the_front_is_left_out(
    loaded: sweep.LoadedSweep, places: list[tuple[int, int]], above: list[float]
) -> None:
    truth = {i: (float(x), float(y)) for i, (x, y) in enumerate(places)}
    coarse = loaded.sweep.model_copy(update={"refine": sweep.Refine(pareto=0.999_999)})
    grid = sweep.LoadedSweep(coarse, loaded.points, 0, loaded.document, loaded.bases, ())
    made = Made(truth)

    def screen(points: Sequence[Point]) -> list[Place | None]:
        bounds = []
        for point in points:
            (x, y), more = truth[point.index], 1 + above[point.index]
            bounds.append((x * more, y * more))
        return list(bounds)

    done = {point.index for point in explore(grid, screen, made.simulate)}
    assert len(made.simulated) == len({point.index for point in made.simulated})
    for family in ("one", "other"):
        mine = [point.index for point in loaded.points if point.family == family]
        best = {mine[i] for i in pareto_front([truth[i] for i in mine])}
        reached = [i for i in mine if i in done]
        found = {reached[i] for i in pareto_front([truth[i] for i in reached])}
        assert {truth[i] for i in found} == {truth[i] for i in best}


def test_the_steps_of_the_front_become_small(loaded: sweep.LoadedSweep) -> None:
    made = Made()
    points = explore(loaded, lambda points: [None] * len(points), made.simulate)
    rows = Made().simulate(points)
    for family in ("one", "other"):
        best = front(rows, family)
        assert len(best) > 20
        for slow, fast in pairwise(best):
            near = fast["tokens_per_s_per_user"] / slow["tokens_per_s_per_user"] <= 1.05
            near |= slow["tgs"] / fast["tgs"] <= 1.05
            assert near, (slow, fast)
        # Right up to where points are refused.
        assert 114 <= max(row[f"set.{BATCH}"] for row in best) <= 120
    assert [point.index for point in points] == sorted(point.index for point in points)
    batches = [point.settings[BATCH] for point in points if point.settings]
    assert all(isinstance(batch, int) for batch in batches)
    again = explore(loaded, lambda points: [None] * len(points), Made().simulate)
    assert [(p.index, p.settings) for p in again] == [(p.index, p.settings) for p in points]


def test_the_bound_places_a_point_a_little_above_its_steady_state(
    loaded: sweep.LoadedSweep,
) -> None:
    point = loaded.points[0]
    (place,) = bound_places([point])
    assert place is not None
    figures = steady_summary(steady_state(point.scenario))
    assert place[0] == pytest.approx(1.01 * figures["tokens_per_s_per_user"])
    assert place[1] == pytest.approx(1.01 * figures["tgs"])


@pytest.mark.parametrize(
    "effect",
    [
        "simulation.engine=recurrence",
        "noise={host: {kind: exponential, mean_us: {value: 200, source: made up}}}",
        "routing={kind: uniform, per_step: {placement: {kind: contiguous}}}",
    ],
)
def test_the_bound_places_only_what_it_sees_whole(loaded: sweep.LoadedSweep, effect: str) -> None:
    path = loaded.document.name
    point = sweep.load(path, [effect]).points[0]
    assert (bound_places([point]) == [None]) == ("engine" not in effect)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("pareto: 0.05", "pareto: 1.5"), "less than 1"),
        (("pareto: 0.05", "paretto: 0.05"), "did you mean 'pareto'"),
        (("base: qwen3-ep16", "base: poisson-example"), "needs workload.arrivals of kind closed"),
        (("refine: {pareto: 0.05}", "max_batch_under_slo: mean"), "max_batch_under_slo"),
        ((ONE, f"{ONE}    max_batch_under_slo: p42\n"), "'mean', 'p50', 'p90' or 'p99'"),
        (
            (ONE, f"{ONE}    set: {{simulation.engine: bound}}\n    max_batch_under_slo: p99\n"),
            "knows the mean TPOT alone",
        ),
    ],
)  # fmt: skip
def test_mistakes(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    text = FILE.replace(*change)
    assert text != FILE
    path = tmp_path / "made.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError, match=r"made\.yaml:") as caught:
        sweep.load(path)
    assert said in str(caught.value)
