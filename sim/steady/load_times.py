"""Load times: what micro-batches of deployments that are alike take under a steady load."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.deployments.deployment import Deployment
from sim.engines.bound import BoundEngine
from sim.engines.program import KEPT, Program
from sim.inputs.admission import share_of
from sim.kernels.ops import Floats


def shares(deployment: Deployment, requests: int) -> list[int]:
    """Return the requests of each micro-batch when `requests` are in flight."""
    m, row = deployment.micro_batches, deployment.scenario.admission.row(deployment.attention_gpus)
    return [share_of(requests, micro_batch, m, row) for micro_batch in range(m)]


class LoadTimes:
    """What micro-batches take under a load, by attention GPUs and requests.

    All deployments that it serves are alike: they differ at most in the number of attention GPUs,
    and GPUs that hold the same take the same. So one look-up serves many loads of all of them.
    """

    def __init__(self, free: Collection[str] = ()) -> None:
        """Let stages and delays in `free` take no time."""
        self._free = free
        self._known: dict[tuple[int, int], Load] = {}
        self._blocks: dict[int, dict[tuple[int, int], Deployment]] = {}
        """Deployments of the loads looked up, by GPUs that stand together."""

    def look_up(self, deployment: Deployment, requests: Iterable[int]) -> None:
        """Look up micro-batches of `requests` on the GPUs of a deployment."""
        self.look_up_all((deployment, each) for each in requests)

    def look_up_all(self, asked: Iterable[tuple[Deployment, int]]) -> None:
        """Look up micro-batches of different deployments at once."""
        missing = {
            (site.attention_gpus, requests): site
            for site, requests in asked
            if (site.attention_gpus, requests) not in self._known
        }
        by_block: dict[int, dict[tuple[int, int], Deployment]] = {}
        for (gpus, requests), site in missing.items():
            block = site.neighbours if gpus % site.neighbours == 0 else gpus
            by_block.setdefault(block, {})[gpus, requests] = site
        for block, sites in by_block.items():
            self._look_up(sites, block)
            self._blocks.setdefault(block, {}).update(sites)

    def changed(self, change: Callable[[Deployment], Deployment]) -> LoadTimes:
        """Return the same loads in the same static order, timed by deployments that are changed.

        Whoever asks for a state of them passes the changed deployment too, for its latencies.
        """
        other = LoadTimes(self._free)
        for block, sites in self._blocks.items():
            first = change(next(iter(sites.values())))
            other._look_up(dict.fromkeys(sites, first), block, self._known)
        return other

    def differ(self, other: LoadTimes) -> bool:
        """Return whether any load takes another time than the same of another look-up."""
        known = self._known.items()
        return any((load.values != other._known[of].values).any() for of, load in known)

    def _look_up(
        self,
        sites: Mapping[tuple[int, int], Deployment],
        block: int,
        ordered: Mapping[tuple[int, int], Load] | None = None,
    ) -> None:
        """Look up loads, whose static order is that of `ordered` if that is given."""
        loads = list(sites)
        site = sites[loads[0]]
        gpus, requests = np.array(loads).T
        rows, usage_ns = site.durations(site.expected.representative(gpus, requests, block))
        slowest = {
            key: ns.max(axis=-1, keepdims=True)
            for key, ns in rows.items()
            if key[0] not in self._free
        }
        if ordered is None:
            host_ns = np.array([each.delays_ns["host"] for each in sites.values()])
            programs = site.one_of_each_by_load(slowest, host_ns)
        else:
            programs = [ordered[load].program for load in loads]
        values = programs[0].values(slowest, len(loads))
        values[requests == 0] = 0
        for each in zip(loads, programs, values, usage_ns, strict=True):
            self._known[each[0]] = Load(*each[1:])

    def steps_ns(self, asked: Iterable[tuple[Deployment, int]]) -> list[Fraction]:
        """Return the times per step of such states, by deployment and requests in flight, ns.

        Those of one program are found together.
        """
        of_program: dict[Program, list[int]] = {}
        values, delays_ns = [], []
        for place, (site, requests) in enumerate(asked):
            loads, each_ns = self.in_turn(site, requests)
            of_program.setdefault(loads[0].program, []).append(place)
            values.append([load.values for load in loads])
            delays_ns.append(each_ns)
        found: dict[int, Fraction] = {}
        for program, places in of_program.items():
            rows = np.array([values[place] for place in places])
            delays = np.array([delays_ns[place] for place in places])
            found |= zip(places, bound_engine(program).steps_ns(rows, delays), strict=True)
        return [found[place] for place in range(len(values))]

    def in_turn(
        self, deployment: Deployment, requests: int
    ) -> tuple[list[Load], list[tuple[int, ...]]]:
        """Return the micro-batches, and the latencies of each: none where no request is in it."""
        in_turn, gpus = shares(deployment, requests), deployment.attention_gpus
        loads = [self._known[gpus, share] for share in in_turn]
        held = deployment.delays_ns
        delays_ns = tuple(
            0 if name in self._free else held[name] for name in loads[0].program.delays
        )
        nothing = (0,) * len(delays_ns)
        return loads, [delays_ns if share else nothing for share in in_turn]


class Load(NamedTuple):
    program: Program
    """One server of each pool, in the order that suits the load."""
    values: NDArray[np.int64]
    """`Times.values` of the slowest servers."""
    usage_ns: Floats


@lru_cache(maxsize=KEPT)
def bound_engine(program: Program) -> BoundEngine:
    return BoundEngine(program)
