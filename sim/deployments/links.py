"""Links: what carries the transfers of a deployment, at which rate, and where it reaches.

A fabric of medium nic joins any GPUs that have NICs. One of medium scale_up joins those of a single
scale-up domain.
"""

from __future__ import annotations

from sim.foundation.errors import InfeasibleError
from sim.inputs.hardware import Accelerator, Fabric


def payload_bytes_per_s(accelerator: Accelerator, fabric: Fabric) -> float:
    """Return the payload that one GPU sends over a fabric, in one direction, B/s.

    Raises InfeasibleError if the fabric is of NICs and the card has none.
    """
    if fabric.medium == "scale_up":
        return accelerator.node.scale_up_bytes_per_s * fabric.goodput
    nic = accelerator.node.nic_bytes_per_s_per_gpu()
    if nic is None:
        raise InfeasibleError(
            f"{accelerator.name} has no NICs on its card: it cannot be one side of AFD over "
            f"{fabric.name}"
        )
    return nic * fabric.goodput


def check_domain(accelerator: Accelerator, gpus: int, fabric: Fabric) -> None:
    """Raise InfeasibleError if a scale-up fabric does not reach all `gpus` of a deployment."""
    domain = accelerator.node.scale_up_domain_gpus
    if fabric.medium == "scale_up" and gpus > domain:
        raise InfeasibleError(
            f"{gpus} GPUs are to exchange over the fabric {fabric.name}, but the scale-up link of "
            f"{accelerator.name} joins {domain}: take at most {domain} GPUs in all, or a fabric "
            "of NICs"
        )
