"""EP shapes: widths, copies, overlap, kernels of experts, and who shares requests.

Within one scale-up domain larger than a node (a rack of 72 GPUs) a deployment is a number of its
trays; over NICs it is a number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from sim.inputs import cards
from sim.inputs.hardware import Accelerator
from sim.inputs.scenario import Scenario
from sim.kernels import kernel_table, served
from sim.sweeps.shapes.choices import copies, counts, lm_head_tp, routed_experts, sharing


def shapes(scenario: Scenario, gpus: int) -> Iterator[dict[str, Any]]:
    """Yield settings of the EP shapes of at most `gpus` GPUs."""
    name = scenario.deployment.attention_gpus().accelerator
    card, model = cards.accelerator(name), cards.model(scenario.model)
    experts, node = routed_experts(model), card.node.gpus
    kernels = [*_kernels(scenario, card)]
    domain = card.node.scale_up_domain_gpus
    for nodes in counts((min(gpus, domain) if domain > node else gpus) // node):
        width = nodes * node
        for overlap, tp, kernel in product(("none", "two_batch"), sharing(model, node), kernels):
            if not (kernel == served.FUSED_EP and width > domain):
                yield {
                    "deployment.gpus": width,
                    "deployment.redundant_experts": copies(experts, width)[0],
                    "deployment.overlap": overlap,
                    "deployment.attention_tp": tp,
                    "deployment.moe_kernel": kernel,
                    "deployment.lm_head_tp": lm_head_tp(width, name),
                }


def more_copies(scenario: Scenario) -> list[int]:
    """Return the numbers of copies of experts that the scenario's shape may have."""
    model, deployment = cards.model(scenario.model), scenario.deployment
    return copies(routed_experts(model), deployment.gpu_count())


def _kernels(scenario: Scenario, card: Accelerator) -> Iterator[str]:
    """Yield the kernels of experts that the engine has and that were measured in the format.

    Masked ones go with DeepEP, fused ones with an engine that names its own. One kernel for all is
    DeepSeek's; of other engines, of those that name theirs.
    """
    table = kernel_table.load(card, cards.calibration(card.name))
    dtype = served.measured_as(scenario.precision.of("experts"))
    named = scenario.software.kernels or {}
    exchanges = {name for names in named.get("a2a", {}).values() for name in names}
    engine_has = {
        served.MASKED: not exchanges or served.DEEPEP_NVLINK in exchanges,
        served.FUSED: "moe" in named or "a2a" not in named,
    }
    has = [name for name, it_has in engine_has.items() if it_has]
    measured = [name for name in has if table.has_format("moe", name, dtype)]
    yield from measured or has
    # Where the engine's own was not measured, compiling refuses it.
    if ("moe_fused_ep" in named or "moe" not in named) and table.has_format(
        "moe_fused_ep", served.FUSED_EP, dtype
    ):
        yield served.FUSED_EP
