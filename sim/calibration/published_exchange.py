"""Published times of NVLink exchanges, as curves: TensorRT-LLM's one-sided all-to-all, and NVLS.

`python -m sim.calibration.published_exchange` writes them into the shipped tables.

The one-sided kernels of 2026 are timed in a blog at four loads (BF16 both ways, perfect router,
GB200 NVL72). EP8 and EP64 are fitted here; EP32 of the same table stays out, to check the curves.

NVLS (multimem) gathers and scatters in the switch. The Step-3 report (§7.1) says that both saturate
NVLink and that the all-gather takes no SMs: bytes move at the rate of the link.
Copy engines gather at the rate of the link as well, after starting a copy for every peer.
"""

from __future__ import annotations

import numpy as np

from sim.calibration.fit import fit_group, groups
from sim.calibration.grid import thinned
from sim.calibration.measurements import Measurement
from sim.inputs import cards
from sim.inputs.hardware import Accelerator
from sim.kernels import served
from sim.kernels.curve import Curve
from sim.kernels.kernel_table import US_PER_S
from sim.kernels.ops import Floats
from sim.kernels.table_file import read, write

_BLOG = "github:NVIDIA/TensorRT-LLM@22de8b34 docs/source/blogs/tech_blog/blog18"
_LOADS = (1, 64, 128, 512)
_ONE_SIDED_US = {
    ("a2a_dispatch", 8): (18.9, 22.3, 31.7, 89.5),
    ("a2a_combine", 8): (31.0, 34.1, 38.1, 91.7),
    ("a2a_dispatch", 64): (27.8, 28.8, 41.6, 115.7),
    ("a2a_combine", 64): (32.6, 37.7, 44.5, 106.7),
}
_RACKS = ("gb200", "gb300")

# A multimem all-reduce of 512 KiB over 8 Hopper GPUs takes 11 us (vLLM PR 42324), 1 us of it on the
# link. Starting seven copies is assumed to take twice that: no one published it.
_LAUNCH_US = {served.NVLS: 10.0, served.COPY_ENGINE: 20.0}
_SATURATED = {
    served.NVLS: "Step-3 report, section 7.1: saturates NVLink; launch: vLLM PR 42324",
    served.COPY_ENGINE: "Step-3 report, section 7.1: saturates NVLink; launch: assumed",
}
_BYTES, _NODES, _GPUS = (1e4, 1e10), 161, np.array([8.0])
_THIN = 0.015
_GATHERS = {served.NVLS: ("all_gather", "reduce_scatter"), served.COPY_ENGINE: ("all_gather",)}


def one_sided(accelerator: Accelerator) -> list[Curve]:
    """Return the curves of the one-sided all-to-all on a card of an NVL72 rack."""
    rows = [
        Measurement(
            path="published",
            line=0,
            gpu=accelerator.name,
            op=op,
            kernel=served.TRTLLM_ONE_SIDED,
            dtype="bf16",
            fixed=(("hidden", 7168.0), ("topk", 8.0)),
            at=(("tokens", float(tokens)), ("ep", float(ep)), ("experts", 256.0)),
            latency_us=time_us,
            source=_BLOG,
        )
        for (op, ep), times_us in _ONE_SIDED_US.items()
        for tokens, time_us in zip(_LOADS, times_us, strict=True)
    ]
    return [curve for group in groups(rows) for curve in fit_group(group, accelerator)[0]]


def at_link_rate(accelerator: Accelerator) -> list[Curve]:
    """Return the collectives that saturate the link of a card, from their launch on.

    As for NCCL on a slower link, launch and transfer are not added: the longer one counts.
    """
    n_bytes = np.geomspace(_BYTES[0], _BYTES[1], _NODES)
    moved = n_bytes[:, np.newaxis] * (1 - 1 / _GPUS)
    link_us = moved / accelerator.node.scale_up_bytes_per_s * US_PER_S

    def bounded(launch_us: float) -> tuple[tuple[tuple[str, Floats], ...], Floats]:
        residual = np.log(np.maximum(link_us, launch_us) / (link_us + launch_us))
        return thinned(("bytes", "gpus"), (n_bytes, _GPUS), residual, _THIN)

    return [
        Curve(
            op="collective",
            kernel=kernel,
            dtype="bf16",
            key=name,
            overhead_us=launch_us,
            e_c=1.0,
            e_m=1.0,
            p=1.0,
            source=_SATURATED[kernel],
            licence="figure",
            points=1,
            mape=float("nan"),
            p90=float("nan"),
            most_work=1.0,
            axes=bounded(launch_us)[0],
            residual=bounded(launch_us)[1],
        )
        for kernel, launch_us in _LAUNCH_US.items()
        for name in _GATHERS[kernel]
    ]


def main() -> None:
    """Write the curves into the shipped tables."""
    for path in sorted(cards.packaged(cards.CALIBRATION).glob("*.csv")):
        card = cards.accelerator(path.stem)
        made = one_sided(card) if card.name in _RACKS else []
        made += [
            curve
            for curve in at_link_rate(card)
            if card.node.in_network_collectives or curve.kernel != served.NVLS
        ]
        known = {curve.identity: curve for curve in read(path)[0]}
        known |= {curve.identity: curve for curve in made}
        write(sorted(known.values(), key=lambda curve: curve.identity), path)


if __name__ == "__main__":
    main()
