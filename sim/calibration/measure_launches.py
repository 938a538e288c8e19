"""Launches of a kernel on a torch device: its ways, their error, and the time of one.

What is timed on a GPU: one replay of a CUDA graph between two events, less what two events and
a graph take themselves. Before it, the level-2 cache is filled by reading other memory: no line
is left dirty, whose writing back would slow the kernel, and the launch is queued by then. Warm
launches find the cache as their predecessor left it. On a CPU, wall time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

import torch

Tensor = Any  # torch.Tensor: the extra [gpu] is absent where types are checked

OTHER_BYTES = 512 * 2**20  # more than any level-2 cache
_WAIT_CYCLES = 200_000  # some 100 µs, in which a launch is queued
_TRIALS = 5  # launches by which the fastest way is chosen
_CLOCK_TRIALS = 51


@dataclass(frozen=True)
class Launch:
    """A kernel on one set of inputs, and what its result should be."""

    ways: Mapping[str, Callable[[], Tensor]]
    """What runs it, by name: the fastest is timed. MemoryError where one has no room."""
    reference: Callable[[], Tensor]
    """In float32; of the first rows of the result, if it has fewer."""


@contextmanager
def told_of_memory() -> Iterator[None]:
    """Raise MemoryError where the device has no room."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error)) from None


class Timer:
    """Times launches on a device."""

    def __init__(self, device: torch.device, is_warm: bool = False) -> None:
        self.device = device
        self.is_warm = is_warm

    def timed(self, run: Callable[[], Tensor]) -> Callable[[], float]:
        """Return what launches `run` once and tells its time, µs."""
        if self.device.type != "cuda":
            return lambda: _wall_us(run)
        graph = _graph(run)
        return lambda: self._between_us(graph) - self.clock_us

    @cached_property
    def clock_us(self) -> float:
        """The time between two events around a graph that is not its kernels', µs."""
        if self.device.type != "cuda":
            return 0.0
        small = torch.zeros(1, device=self.device)
        one, two = _graph(lambda: small.add_(1)), _graph(lambda: small.add_(1).add_(1))
        of_one, of_two = (
            median([self._between_us(graph) for _ in range(_CLOCK_TRIALS)]) for graph in (one, two)
        )
        return max(0.0, 2 * of_one - of_two)

    @cached_property
    def _other(self) -> Tensor:
        with told_of_memory():
            return torch.zeros(OTHER_BYTES // 4, dtype=torch.float32, device=self.device)

    def _between_us(self, graph: Any) -> float:
        if self.is_warm:
            torch.cuda._sleep(_WAIT_CYCLES)
        else:
            self._other.amax()
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) * 1e3


class TorchKernel:
    """A kernel prepared on several sets of inputs; the fastest way to run it is timed."""

    def __init__(self, launches: Sequence[Launch], timer: Timer) -> None:
        self.launches = launches
        self.way = ""
        self._timer = timer
        self._fitting = list(launches[0].ways)
        self._timed: list[Callable[[], float]] = []
        self._turn = 0

    def error(self) -> float:
        """Return the largest error against float32, relative to its largest value.

        Ways for which the device has no room are left out; MemoryError if none is left.
        """
        worst = 0.0
        for launch in self.launches:
            with told_of_memory():
                wanted = launch.reference()
            scale = wanted.abs().max().clamp_min(1e-6)
            for way in tuple(self._fitting):
                try:
                    with told_of_memory():
                        found = launch.ways[way]()[: len(wanted)].float()
                except MemoryError:
                    self._fitting.remove(way)
                    continue
                # A maximum would forget NaN.
                worst = max(worst, _or_infinite((found - wanted).abs().max() / scale))
        if not self._fitting:
            raise MemoryError("the device has room for no way to run it")
        return worst

    def time_us(self) -> float:
        """Return the time of one launch on the next set of inputs, µs."""
        if not self._timed:
            self.way = self._fastest()
            self._timed = [self._of(launch, self.way) for launch in self.launches]
        self._turn = (self._turn + 1) % len(self.launches)
        return self._timed[self._turn]()

    def _fastest(self) -> str:
        if len(self._fitting) == 1:
            return self._fitting[0]
        times: dict[str, float] = {}
        for way in self._fitting:
            launch = self._of(self.launches[0], way)
            times[way] = median([launch() for _ in range(_TRIALS)])
        return min(times, key=times.__getitem__)

    def _of(self, launch: Launch, way: str) -> Callable[[], float]:
        with told_of_memory():
            return self._timer.timed(launch.ways[way])


def _graph(run: Callable[[], Tensor]) -> Any:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph


def _wall_us(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e6


def _or_infinite(value: Tensor) -> float:
    found = float(value.item())
    return found if found == found else float("inf")
