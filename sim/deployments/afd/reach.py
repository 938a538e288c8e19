"""Reach: which GPUs of an AFD deployment may share work or exchange tokens, and over what.

The scale-up link also carries the collectives of GPUs that share a task. Those of an FFN instance
take turns with transfers, each one way of the link; others have servers of their own, and transfers
over the link are refused beside them, or it would count twice.
"""

from __future__ import annotations

from sim.deployments.links import check_domain
from sim.foundation.errors import InfeasibleError
from sim.inputs.deployment import Afd, AttentionSide, FfnSide
from sim.inputs.hardware import Accelerator, Fabric
from sim.inputs.model import DenseFfn, ModelCard, MoeFfn
from sim.inputs.routing import Routing
from sim.kernels import served


def check_sharing(side: AttentionSide | FfnSide, accelerator: Accelerator) -> None:
    """Raise InfeasibleError if GPUs that share work are more than a scale-up link joins."""
    domain = accelerator.node.scale_up_domain_gpus
    if isinstance(side, FfnSide):
        ways = side.gpus_together
    else:
        ways = max(side.o_proj_tp, side.lm_head_tp, side.tp)
    if ways > domain:
        raise InfeasibleError(
            f"{ways} {side.accelerator} GPUs should share work over a scale-up link that "
            f"joins {domain}: make the instance or the tensor parallelism smaller"
        )


def check_transfers(afd: Afd, attention: Accelerator, ffn: Accelerator, fabric: Fabric) -> None:
    """Raise InfeasibleError if a scale-up fabric cannot carry the transfers of an AFD deployment.

    All GPUs must lie in one domain, none may use its link for collectives of attention, and FFN
    instances gather and scatter by the switch alone.
    """
    if fabric.medium != "scale_up":
        return
    if attention.name != ffn.name:
        raise InfeasibleError(
            f"the fabric {fabric.name} is a scale-up link, which does not join {attention.name} to "
            f"{ffn.name}: take one accelerator for both sides, or a fabric of NICs"
        )
    check_domain(attention, afd.gpu_count(), fabric)
    if afd.in_stream:
        return
    for setting, ways, collectives in (
        ("attention.o_proj_tp", afd.attention.o_proj_tp, "exchange and reduction of heads"),
        ("attention.tp", afd.attention.tp, "sum of the output"),
    ):
        if ways > 1:
            raise InfeasibleError(
                f"deployment.{setting} is {ways}: its {collectives} would run over the very link "
                f"that the fabric {fabric.name} takes for transfers, and their waiting for each "
                f"other is not modelled: set deployment.{setting} to 1, or take a fabric of NICs"
            )
    if afd.ffn.gpus_together == 1:
        return
    by_switch = ffn.node.in_network_collectives and afd.ffn.collectives != served.COPY_ENGINE
    if not by_switch or afd.duplex == "half":
        raise InfeasibleError(
            f"deployment.ffn.gpus_per_instance is {afd.ffn.gpus_per_instance}: over the fabric "
            f"{fabric.name} its GPUs gather and scatter on the link of the transfers, which is "
            "modelled where the switch multicasts and reduces, one way each: set "
            "deployment.ffn.collectives to nccl or nvls on a card whose switch does, and "
            "deployment.duplex to full; or set deployment.ffn.gpus_per_instance to 1, "
            "deployment.ffn.collectives to none, or take a fabric of NICs"
        )


def check_collectives(afd: Afd, ffn: Accelerator) -> None:
    """Raise InfeasibleError if the switch of the FFN side cannot multicast and reduce, as asked."""
    if afd.ffn.collectives == "nvls" and not ffn.node.in_network_collectives:
        raise InfeasibleError(
            f"deployment.ffn.collectives is nvls, but the scale-up link of {ffn.name} neither "
            "multicasts nor reduces: take nccl"
        )


def check_in_stream(afd: Afd, routing: Routing) -> None:
    """Raise InfeasibleError where transfers in the stream of computation would follow draws."""
    if afd.in_stream and routing.per_step is not None:
        raise InfeasibleError(
            "deployment.transfers in_stream is timed by the expected load: leave "
            "routing.per_step out, or set transfers to beside"
        )


def check_one_kernel(afd: Afd, model: ModelCard, fabric: Fabric) -> None:
    """Refuse a kernel that receives, computes and sends where it does not reach or has no part.

    Raises InfeasibleError.
    """
    if afd.ffn.moe_kernel != served.FUSED_EP:
        return
    if fabric.medium != "scale_up":
        raise InfeasibleError(
            f"ffn.moe_kernel fused_ep reads and writes the memory of other GPUs over the "
            f"scale-up link, and the fabric {fabric.name} is of NICs: take another"
        )
    latent = [
        name
        for name, ffn in model.ffn.items()
        if isinstance(ffn, MoeFfn) and ffn.latent is not None and ffn.shared
    ]
    if latent and "shared" not in afd.attention.computes:
        raise InfeasibleError(
            f"{model.name} has experts of a latent width beside shared ones of the hidden size "
            f"({', '.join(latent)}), and ffn.moe_kernel fused_ep exchanges tokens of one width: "
            "put shared into attention.computes"
        )
    dense = [name for name, ffn in model.ffn.items() if isinstance(ffn, DenseFfn)]
    if dense and "dense" not in afd.attention.computes:
        raise InfeasibleError(
            f"{model.name} has layers with a dense FFN ({', '.join(dense)}), which "
            "ffn.moe_kernel fused_ep does not exchange: put dense into attention.computes"
        )
