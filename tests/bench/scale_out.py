"""A sweep of 10,000 points, or a study of small cells, over Dask: what a job costs, and whom.

Run with `python -m tests.bench.scale_out --workers 1,4,16` on Linux, `--cells 30` for a study. As
root, the scheduler and 4 hosts of workers have network namespaces of their own, and the table holds
the bytes that crossed them; else all are plain processes. Costs are CPU time: more workers than
cores share those cores.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any, NamedTuple

from sim.parallel import processes
from sim.parallel.cluster import cluster
from sim.parallel.processes import Workers
from sim.study import cells
from sim.study import folder as study_folder
from sim.sweeps import folder as sweep_folder
from sim.sweeps import sweep
from tests import small_study

SWEEP = """
kind: sweep
name: ten-thousand
set: {{simulation.engine: bound, routing: {{kind: uniform}}}}
families:
  - family: AFD
    base: step3-2a2f
    set: {{deployment.ffn.parallelism: tp}}
    axes:
      - deployment.attention.instances: {{from: 1, to: 20, step: 1}}
      - deployment.ffn.instances: {{from: 1, to: 20, step: 1}}
      - workload.arrivals.concurrency: {{from: 192, to: {most}, step: 192}}
"""
JOBS_A_CELL = 5
"""Two searches, the paired runs and two counterfactuals."""
HOSTS = 4
"""Namespaces over which workers spread."""


class Site(NamedTuple):
    """Where a process runs: a command to start it there, its address, its network device."""

    prefix: tuple[str, ...] = ()
    address: str = "127.0.0.1"
    device: str | None = None

    def bytes(self) -> int:
        """Return the bytes that entered or left it so far, 0 where none are counted."""
        if self.device is None:
            return 0
        counts = Path("/sys/class/net") / self.device / "statistics"
        return sum(int((counts / f"{way}_bytes").read_text()) for way in ("rx", "tx"))


@contextmanager
def namespaces(count: int) -> Iterator[list[Site]]:
    """Return sites that reach each other over a bridge, in the network 10.77.0.0/24."""
    with ExitStack() as undo:

        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True)

        ip("link", "add", "afdsim", "type", "bridge")
        undo.callback(ip, "link", "delete", "afdsim")
        ip("address", "add", "10.77.0.1/24", "dev", "afdsim")
        ip("link", "set", "afdsim", "up")
        sites = []
        for index in range(count):
            name, device = f"afdsim{index}", f"afdsim-{index}"
            ip("netns", "add", name)
            undo.callback(ip, "netns", "delete", name)
            ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", device, "master", "afdsim", "up")
            address = f"10.77.0.{index + 2}"
            ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            sites.append(Site(("ip", "netns", "exec", name), address, device))
        yield sites


@contextmanager
def started(site: Site, *command: str) -> Iterator[int]:
    """Run a command of Dask until the end of the block."""
    words = [*site.prefix, sys.executable, "-m", "dask", *command]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and its children so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return own + sum(cpu_s(int(child)) for each in tasks for child in each.read_text().split())


@contextmanager
def dask(workers: int, sites: list[Site]) -> Iterator[tuple[Workers, int, list[int]]]:
    """Return the workers of a new cluster, its scheduler and its hosts."""
    first, *others = sites
    address = f"tcp://{first.address}:8786"
    hosts = others[:workers] or [first]
    with ExitStack() as running:
        scheduler = running.enter_context(
            started(first, "scheduler", "--host", first.address, "--no-dashboard", "--no-show")
        )
        share = [workers // len(hosts) + (i < workers % len(hosts)) for i in range(len(hosts))]
        held = [
            running.enter_context(
                started(
                    host, *("worker", address, "--nthreads", "1", "--nworkers", str(count)),
                    *("--host", host.address, "--no-dashboard", "--memory-limit", "0"),
                )
            )
            for host, count in zip(hosts, share, strict=True)
        ]  # fmt: skip
        pool = joined(address, workers)
        running.enter_context(pool)
        yield pool, scheduler, held


def joined(address: str, workers: int) -> Workers:
    """Return the cluster once all of its workers have come."""
    import distributed

    for _ in range(60):
        try:
            connect: Any = distributed.Client
            with connect(address, timeout=5, set_as_default=False) as client:
                client.wait_for_workers(workers, timeout=120)
            return cluster(address)
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"no cluster of {workers} workers at {address}")


class Cost(NamedTuple):
    """What a sweep took, in CPU seconds and bytes of each party."""

    command_s: float
    scheduler_s: float
    workers_s: float
    scheduler_bytes: float
    hosts_bytes: float

    def since(self, before: Cost) -> Cost:
        return Cost(*(now - then for now, then in zip(self, before, strict=True)))

    def row(self, name: str, points: int, alone_s: float) -> str:
        total_s = self.command_s + self.scheduler_s + self.workers_s
        times = (f"{each / points * 1e3:.2f}" for each in self[:3])
        sizes = (f"{each / points / 1e3:.1f}" for each in self[3:])
        cells = [name, *times, *sizes, f"{alone_s / total_s:.0%}"]
        return f"| {' | '.join(cells)} |"


HEADER = """
| workers | command ms | scheduler ms | workers ms | scheduler kB | hosts kB | efficiency |
|---|---|---|---|---|---|---|"""


class Work(NamedTuple):
    """What is to be done."""

    jobs: int
    run: Callable[[Path, Workers], object]
    """Does it in a directory."""
    table: str
    """File of the directory that holds the outcome."""


def swept(scratch: Path, points: int) -> Work:
    path = scratch / "points.yaml"
    path.write_text(SWEEP.format(most=192 * (points // 400)))
    loaded = sweep.load(path)
    run = partial(sweep_folder.run, loaded)
    return Work(len(loaded.points), run, "sweep.csv")


def studied(scratch: Path, count: int) -> Work:
    """Return a study of `count` cells, which differ in the TPOT that is asked for."""
    paces = "".join(
        f"    p{cell}: {{set: {{slo.tpot_ms: {0.9 + 0.6 * cell / count:.4f}}}}}\n"
        for cell in range(count)
    )
    text = small_study.STUDY
    two = text[text.index("    fast:") : text.index("shortlist:")]
    last = text[text.index("  - name: understated") :]
    made = [(each.format(model=""), new) for each, new in ((two, paces), (last, ""))]
    loaded = cells.load(small_study.write(scratch, *made))
    run = partial(study_folder.run, loaded)
    return Work(JOBS_A_CELL * count, run, "study.csv")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,4,16", help="sizes of the cluster, e.g. 1,4,16")
    parser.add_argument("--points", type=int, default=10_000, help="a multiple of 400")
    parser.add_argument("--cells", type=int, default=0, help="a study of so many cells instead")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as undo:
        place = Path(scratch)
        work = studied(place, asked.cells) if asked.cells else swept(place, asked.points)

        def ran(pool: Workers, name: str, cost: Callable[[], Cost]) -> tuple[Cost, str]:
            before, folder = cost(), place / name
            work.run(folder, pool)
            found = hashlib.sha256((folder / work.table).read_bytes()).hexdigest()
            return cost().since(before), found

        def here() -> Cost:
            own_s = process_time()
            return Cost(own_s, 0, cpu_s(os.getpid()) - own_s, 0, 0)

        with processes.local(1) as pool:
            alone, expected = ran(pool, "local", here)
        alone_s = alone.command_s + alone.workers_s
        print(f"{work.jobs:,} jobs, CPU time and bytes of each")
        print(HEADER, alone.row("1, no cluster", work.jobs, alone_s), sep="\n", flush=True)
        plain = [Site()] * (1 + HOSTS)
        sites = plain if os.geteuid() else undo.enter_context(namespaces(1 + HOSTS))
        for workers in map(int, asked.workers.split(",")):
            with dask(workers, sites) as (pool, scheduler, hosts):

                def there(scheduler: int = scheduler, hosts: list[int] = hosts) -> Cost:
                    spent = process_time(), cpu_s(scheduler), sum(map(cpu_s, hosts))
                    return Cost(*spent, sites[0].bytes(), sum(site.bytes() for site in sites[1:]))

                cost, made = ran(pool, f"dask-{workers}", there)
            print(cost.row(str(workers), work.jobs, alone_s), flush=True)
            assert made == expected, "the cluster gave other bytes"


if __name__ == "__main__":
    main()
