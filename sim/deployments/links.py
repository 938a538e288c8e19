"""Links: what carries the transfers of a deployment, at which rate, and where it reaches.

A fabric of medium nic joins any GPUs that have NICs. One of medium scale_up joins those of a single
scale-up domain. Its link also carries the collectives of GPUs that share a task, on servers of
their own: transfers are refused where such collectives run beside them, or a link would count
twice.
"""

from __future__ import annotations

from sim.foundation.errors import InfeasibleError
from sim.inputs.deployment import Afd
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


def check_transfers(afd: Afd, attention: Accelerator, ffn: Accelerator, fabric: Fabric) -> None:
    """Raise InfeasibleError if a scale-up fabric cannot carry the transfers of an AFD deployment.

    All GPUs must lie in one domain, and none may use its link for collectives of every layer.
    """
    if fabric.medium != "scale_up":
        return
    if attention.name != ffn.name:
        raise InfeasibleError(
            f"the fabric {fabric.name} is a scale-up link, which does not join {attention.name} to "
            f"{ffn.name}: take one accelerator for both sides, or a fabric of NICs"
        )
    check_domain(attention, afd.gpu_count(), fabric)
    for setting, ways, collectives in (
        ("ffn.gpus_per_instance", afd.ffn.gpus_together, "all-gather and reduce-scatter"),
        ("attention.o_proj_tp", afd.attention.o_proj_tp, "exchange and reduction of heads"),
        ("attention.tp", afd.attention.tp, "sum of the output"),
    ):
        if ways > 1:
            raise InfeasibleError(
                f"deployment.{setting} is {ways}: its {collectives} would run over the very link "
                f"that the fabric {fabric.name} takes for transfers, and their waiting for each "
                f"other is not modelled: set deployment.{setting} to 1, or take a fabric of NICs"
                + (", or set deployment.ffn.collectives to none" if setting[:3] == "ffn" else "")
            )


def check_collectives(afd: Afd, ffn: Accelerator) -> None:
    """Raise InfeasibleError if the switch of the FFN side cannot multicast and reduce, as asked."""
    if afd.ffn.collectives == "nvls" and not ffn.node.in_network_collectives:
        raise InfeasibleError(
            f"deployment.ffn.collectives is nvls, but the scale-up link of {ffn.name} neither "
            "multicasts nor reduces: take nccl"
        )
