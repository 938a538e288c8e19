"""What the pages under test are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sim.metrics.catalogue import METRICS
from sim.pictures.sweep_page import Source
from sim.sweeps.points import Row
from sim.sweeps.sweep import Published

# A name that would break a page that does not escape it.
ODD = "<b>odd</b> & 'quoted'</script>"

_POOLS = ("attention", "attention.nic_out", "attention.nic_in", "ffn.nic_in", "ffn.nvlink", "ffn")
FAMILIES = ("Step-3 AFD", "Step-3 EP", "DeepSeek-V3 AFD", "DeepSeek-V3 EP")


def small_sweep(model: Path) -> dict[str, Any]:
    """Return a sweep of the tiny model: two families that run and one that is refused."""
    afd = {
        "deployment.attention.gpus_per_instance": 2,
        "deployment.attention.lm_head_tp": 1,
        "deployment.ffn.gpus_per_instance": 2,
    }
    concurrency = {"workload.arrivals.concurrency": [24, 96, 384]}
    return {
        "kind": "sweep",
        "name": "small",
        "description": "A small sweep",
        "set": {
            "model": str(model),
            "routing": {"kind": "balanced"},
            "slo.tpot_ms": 1.61,
            "workload.arrivals": {"kind": "closed", "concurrency": 24},
            "workload.lengths.prompt": {"kind": "fixed", "tokens": 100},
            "workload.lengths.output": {"kind": "fixed", "tokens": 40},
        },
        "families": [
            {
                "family": "AFD",
                "base": "step3-2a2f",
                "set": afd,
                "axes": [{"deployment.attention.instances": [1, 2]}, concurrency],
            },
            {
                "family": "EP",
                "base": "dsv3-ep128",
                "set": {"deployment.gpus": 4, "deployment.lm_head_tp": 1},
                "axes": [concurrency],
            },
            {
                "family": ODD,
                "base": "step3-2a2f",
                "set": {**afd, "deployment.attention.accelerator": "l4"},
            },
        ],
        "published": [{"label": ODD, "tpot_ms": 3, "tgs": 900, "source": "nowhere"}],
    }


def large_source(points: int) -> Source:
    """Return a made-up sweep as large as people make them, with all columns of a real one."""
    rows = [_row(index) for index in range(points)]
    family = FAMILIES[0]
    measured = Published(label="measured", tpot_ms=50, tgs=2000, source="nowhere", family=family)
    return Source("large", rows, [measured], {"sweep": {"description": "made up"}}, {})


def _row(index: int) -> Row:
    """Return a point on one of many curves of throughput against interactivity."""
    tpot_ms = 20 + (index * 37 % 1000) / 10
    tgs = 3000 * tpot_ms / (tpot_ms + 30) - index * 7 % 900
    figures = {metric.name: 1 + (index * 31 % 997) / 7 for metric in METRICS}
    return {
        "point": index,
        "family": FAMILIES[index % len(FAMILIES)],
        "base": "step3-2a2f",
        "shape": f"{1 + index % 16}A{1 + index % 4}F",
        "status": "ok",
        "reason": "" if tpot_ms <= 50 else f"TPOT {tpot_ms:.1f} ms exceeds 50 ms",
        "set.deployment.attention.instances": 1 + index % 16,
        "set.deployment.ffn.instances": 1 + index % 4,
        "set.workload.arrivals.requests_per_gpu": 8 * (1 + index % 30),
        **figures,
        "gpus": 8 * (2 + index % 19),
        "tpot_ms_mean": tpot_ms,
        "tokens_per_s_per_user": 1e3 / tpot_ms,
        "tgs": tgs,
        "tpot_ms_p10": 0.9 * tpot_ms,
        "tpot_ms_p90": 1.2 * tpot_ms,
        "tgs_p10": tgs / 1.2,
        "tgs_p90": tgs / 0.9,
        "usd_per_1m_tokens": 560 / tgs,
        **{f"{status}_share": 1 / 3 for status in ("calibrated", "extrapolated", "uncalibrated")},
        "slo_tpot_ms": 50,
        "slo_met": tpot_ms <= 50,
        **{f"utilisation.{pool}": (index * 13 % 101) / 101 for pool in _POOLS},
    }
