"""Reach: which GPUs of an EP deployment a link joins; over a scale-up link those of one domain.

All checks raise InfeasibleError with a remedy.
"""

from __future__ import annotations

from sim.foundation.errors import InfeasibleError
from sim.inputs.deployment import Ep
from sim.inputs.hardware import Accelerator


def check_lm_head(ep: Ep, accelerator: Accelerator) -> None:
    """Refuse an LM head that is shared beyond a scale-up domain."""
    domain = accelerator.node.scale_up_domain_gpus
    if ep.lm_head_tp > domain:  # no fewer than those that share requests
        raise InfeasibleError(
            f"{ep.lm_head_tp} GPUs should share the LM head over a scale-up link that "
            f"joins {domain}: make lm_head_tp smaller"
        )


def check_nics(ep: Ep, accelerator: Accelerator) -> None:
    """Refuse GPUs of several scale-up domains without NICs."""
    domain = accelerator.node.scale_up_domain_gpus
    if ep.gpus > domain and accelerator.node.nic_bytes_per_s_per_gpu() is None:
        raise InfeasibleError(
            f"{accelerator.name} has no NICs on its card: EP over {ep.gpus} GPUs "
            f"cannot leave a node of {domain}"
        )


def check_exchange(ep: Ep, accelerator: Accelerator) -> None:
    """Refuse to gather tokens beyond a scale-up domain."""
    domain = accelerator.node.scale_up_domain_gpus
    if ep.exchange == "gather" and ep.gpus > domain:
        raise InfeasibleError(
            f"{ep.gpus} GPUs should gather tokens over a scale-up link that joins "
            f"{domain}: set exchange to all_to_all"
        )
