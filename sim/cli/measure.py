"""The verb that measures kernels on the GPU at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sim.foundation.printable import printable

if TYPE_CHECKING:
    from sim.calibration.measure import Backend, Case
    from sim.experiments.kernel_demand import Demand


def measure(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the CSV files.")
    ] = Path("measured"),
    scenario: Annotated[
        list[str] | None,
        typer.Option("--scenario", help="Measure what this scenario asks for; may be repeated."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the scenarios."),
    ] = None,
    op: Annotated[
        list[str] | None, typer.Option("--op", help="Measure only this op; may be repeated.")
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="Name of the GPU's card, or of the GPU in measurement files.")
    ] = "",
    device: Annotated[str, typer.Option(help="cuda (ROCm too), or cpu to try kernels.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="Tiny shapes: a trial of the kernels.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.")] = 0,
    warm: Annotated[
        bool, typer.Option(help="Leave the level-2 cache as it is, as most benchmarks do.")
    ] = False,
    only_list: Annotated[
        bool, typer.Option("--list", help="Print what would be measured, and measure nothing.")
    ] = False,
) -> None:
    """Time kernels on this machine's GPU and write measurement files for `calibrate fit`.

    Needs the extra [gpu]. Without --scenario, the shapes of a few shipped scenarios are measured.

    Example: afdsim measure --gpu h200-sxm --scenario dsv3-ep8-h200 --out measured
    """
    from sim.calibration import measure as measuring

    ops = measuring.known_ops(op or measuring.FORMS)
    cases = _cases(scenario, setting or [], ops, gpu, tiny)
    if only_list:
        print(*cases, sep="\n")
        return
    backend = _backend(device, gpu, seed, warm)
    _warn_of(backend.gpu)
    times = []
    try:
        for pair in measuring.measure(backend, cases, _say):
            times.append(pair)  # what was timed before an error is written
    finally:
        for path in measuring.write(measuring.texts(backend, times), out):
            print(path)


def _cases(
    scenarios: list[str] | None, settings: list[str], ops: list[str], gpu: str, tiny: bool
) -> list[Case]:
    from sim.calibration.measurements import GPUS
    from sim.experiments import kernel_cases
    from sim.experiments.kernel_demand import demands
    from sim.inputs.scenario import load

    if tiny:
        return kernel_cases.tiny_cases(ops)
    names = scenarios or kernel_cases.USUAL
    cards = GPUS.get(gpu, (gpu,))
    mine: list[Demand] = []
    for name in names:  # of a scenario on other cards, every kernel
        found = list(demands(load(name, settings)))
        mine += [demand for demand in found if demand.accelerator.name in cards] or found
    for what, gpus in kernel_cases.left_to_the_table(mine).items():
        why = "takes several GPUs" if gpus > 1 else "cannot be measured"
        _say(f"{what}: {why}; runs take it from the card's table")
    return kernel_cases.cases(mine, ops)


def _warn_of(gpu: str) -> None:
    """Say if `calibrate fit` will not find a card of that name."""
    from sim.calibration.measurements import GPUS
    from sim.inputs import cards

    known = cards.names(cards.ACCELERATORS)
    if not set(GPUS.get(gpu, (gpu,))) & set(known):
        _say(f"no card is called {gpu}: pass --gpu with one of {', '.join(known)}, or write one")


def _backend(device: str, gpu: str, seed: int, is_warm: bool) -> Backend:
    from sim.foundation.errors import CalibrationError

    try:
        import torch

        from sim.calibration.measure_torch import TorchBackend
    except ImportError:
        raise CalibrationError("measure needs torch: pip install 'afdsim[gpu]'") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise CalibrationError("no CUDA device here; --device cpu --tiny tries the kernels")
    return TorchBackend(device, gpu, seed, is_warm)


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)
