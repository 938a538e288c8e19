"""Loops: all that are compiled, compiled before a run asks for them.

    python -m sim.decoding.loops

This takes some seconds, once for an installation; later runs read Numba's cache.
"""

from __future__ import annotations

import sys

from sim.decoding import acceptance, micro_batch_loops, work_log
from sim.deployments import kept_times
from sim.engines.jit import Loop, on_compiling
from sim.engines.maxplus import circuits, graph, walk
from sim.kernels import core_loops, curve_loops, load_loops

_HOMES = (
    *(micro_batch_loops, work_log, kept_times, core_loops, curve_loops),
    *(load_loops, acceptance, graph, walk, circuits),
)


def loops() -> list[Loop]:
    """Return every loop of the package."""
    names = [value for module in _HOMES for value in vars(module).values()]
    return list(dict.fromkeys(value for value in names if isinstance(value, Loop)))


def compile_all() -> None:
    """Compile every loop, or read it from the cache."""
    for loop in loops():
        _ = loop.dispatcher


if __name__ == "__main__":
    on_compiling(lambda: print("compiling loops: some 10 s …", file=sys.stderr))
    compile_all()
