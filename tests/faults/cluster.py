"""A Dask cluster over TCP: prints its address, then the workers' process ids for each line read."""

from __future__ import annotations

import sys
from typing import Any

import distributed


def main() -> None:
    """Serve until stdin is closed, with as many workers as the first argument says."""
    start: Any = distributed.LocalCluster
    local = {"host": "127.0.0.1", "protocol": "tcp", "dashboard_address": None}
    workers = int(sys.argv[1])
    with start(n_workers=workers, threads_per_worker=1, processes=True, **local) as cluster:
        print(cluster.scheduler_address, flush=True)
        for _ in sys.stdin:
            print(*(worker.pid for worker in cluster.workers.values() if worker.pid), flush=True)


if __name__ == "__main__":
    main()
