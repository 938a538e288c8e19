"""How the cost of a run grows with its size. CPU times of one process.

Run with `make bench ROWS=growth`.
"""

from __future__ import annotations

from pathlib import Path
from time import process_time

import numpy as np
import pytest

from sim.decoding.run import simulate
from sim.inputs import scenario
from sim.inputs.scenario import Scenario
from tests import tiny
from tests.bench.jobs import Bench

pytestmark = pytest.mark.bench


def steps(count: int) -> list[str]:
    return [f"simulation.{which}_steps={count}" for which in ("min", "max")]


def report(bench: Bench, what: str, loaded: dict[int, Scenario]) -> None:
    """Report by which power of the size the CPU time grows."""
    spent = {}
    for size, each in loaded.items():
        simulate(each)
        begun = process_time()
        simulate(each)
        spent[size] = process_time() - begun
    power = np.polyfit(np.log(list(spent)), np.log(list(spent.values())), 1)[0]
    times = ", ".join(f"{size}: {s:.2f} s" for size, s in spent.items())
    bench.ratio(f"cost by {what} ({times}): exponent {power:.2f}")
    assert power < 1.3


def test_growth_with_gpus(bench: Bench) -> None:
    settings = [*steps(100), "workload.arrivals.concurrency=6144"]
    sizes = {count * 8: f"deployment.attention.instances={count}" for count in (8, 32, 128)}
    each = {gpus: scenario.load("dsv3-afd", [*settings, size]) for gpus, size in sizes.items()}
    report(bench, "attention GPUs", each)


def test_growth_with_steps(bench: Bench) -> None:
    each = {count: scenario.load("dsv3-afd", steps(count)) for count in (100, 400, 1600)}
    report(bench, "steps", each)


DRAWN = (
    "routing={kind: uniform, per_step: {placement: {kind: contiguous}}}",
    "noise={tasks: [{server: gpu, law: {kind: lognormal, cv: {value: 0.03, source: test}}}]}",
)


@pytest.mark.parametrize(
    ("what", "drawn"), [("layers", ()), ("layers, each with draws of its own", DRAWN)]
)
def test_growth_with_layers(
    bench: Bench, tmp_path: Path, what: str, drawn: tuple[str, ...]
) -> None:
    repeated = f"repeat: {tiny.LAYERS - 1}"
    assert repeated in tiny.MODEL
    each = {}
    for layers in (100, 300, 900):
        model = tmp_path / f"{layers}.yaml"
        model.write_text(tiny.MODEL.replace(repeated, f"repeat: {layers - 1}"))
        settings = [*steps(200), "simulation.engine=recurrence"]
        each[layers] = tiny.load(model, "step3-2a2f", *settings, *drawn)
    report(bench, what, each)
