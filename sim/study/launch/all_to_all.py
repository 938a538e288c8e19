"""All-to-all: the family of kernels that a scenario's tokens go through between EP ranks."""

from __future__ import annotations

from typing import Literal

from sim.inputs import cards
from sim.inputs.deployment import Ep
from sim.kernels import ops, served
from sim.study.launch.needs import Needs

Family = Literal["none", "gather", "fused", "deepep", "one_sided", "two_sided", "mc2"]

_FAMILIES: dict[str, Family] = {
    served.DEEPEP_NVLINK: "deepep",
    served.DEEPEP_RDMA: "deepep",
    served.TRTLLM_ONE_SIDED: "one_sided",
    served.TRTLLM_ONE_SIDED_EARLY: "one_sided",
    served.TRTLLM_NVLINK: "two_sided",
    served.MC2: "mc2",
}


def all_to_all(needs: Needs, ep: Ep) -> tuple[Family, str]:
    """Return the family that the scenario is timed with, and the keys that it comes from."""
    if ep.gpus == 1:
        return "none", "deployment.gpus"
    if not needs.experts():
        return "none", "model"
    if ep.moe_kernel == served.FUSED_EP:
        return "fused", "deployment.moe_kernel"
    if ep.exchange == "gather":
        return "gather", "deployment.exchange"
    masked = ep.moe_kernel == served.MASKED
    kernels = needs.scenario.software.kernels.get("a2a", {}).get(ep.dispatch_dtype, [])
    named = next((name for name in kernels if name.startswith("deepep") == masked), "")
    domain = cards.accelerator(ep.accelerator).node.scale_up_domain_gpus
    source = "deployment.moe_kernel" + (", software.kernels.a2a" if named else "")
    return _FAMILIES[ops.exchange_kernel(named, ep.gpus, domain)], source
