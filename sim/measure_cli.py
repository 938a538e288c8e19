"""The verb that measures kernels on the GPU at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def measure(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the CSV files.")],
    op: Annotated[
        list[str] | None, typer.Option("--op", help="Measure only this op; may be repeated.")
    ] = None,
    gpu: Annotated[
        str, typer.Option(help="Name of the GPU in the files; default: the device's.")
    ] = "",
    device: Annotated[str, typer.Option(help="cuda, or cpu to try the kernels.")] = "cuda",
    tiny: Annotated[bool, typer.Option(help="Tiny shapes: a trial of the kernels.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.")] = 0,
) -> None:
    """Time kernels on this machine's GPU and write measurement files for `calibrate fit`.

    Needs the extra [gpu]. Example: afdsim measure --gpu h200_sxm --out measured
    """
    from sim import measure as measuring
    from sim.errors import CalibrationError
    from sim.printable import printable

    cases = measuring.default_cases(op or measuring.FORMS, tiny)
    try:
        import torch

        from sim.measure_torch import TorchBackend
    except ImportError:
        raise CalibrationError("measure needs torch: pip install 'afdsim[gpu]'") from None
    if device == "cuda" and not torch.cuda.is_available():
        raise CalibrationError("no CUDA device here; --device cpu --tiny tries the kernels")
    backend = TorchBackend(device, gpu, seed)
    times = measuring.measure(backend, cases, lambda text: print(printable(text), file=sys.stderr))
    for path in measuring.write(measuring.texts(backend, times), out):
        print(path)
