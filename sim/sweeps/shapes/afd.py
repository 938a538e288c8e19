"""AFD shapes: instances of both sides, how experts lie, micro-batches, fabric, kernels.

| FFN instances | transfers | who builds it |
|---|---|---|
| nodes whose GPUs share every expert or hold their own (tp, tp_ep, ep) | NICs | Step-3 |
| single GPUs with experts of their own | NICs | MegaScale-Infer |
| single GPUs with experts of their own | scale-up link | MegaScale-Infer's way within a rack |
| trays whose GPUs share every expert (tp_ep) | scale-up link | Step-3's way within a rack |
| trays, one kernel that receives, computes and sends | scale-up link | FastAFD |

Within a domain that is a single node, attention instances are single GPUs as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple

from sim.inputs import cards
from sim.inputs.deployment import Afd
from sim.inputs.model import DenseFfn, ModelCard
from sim.inputs.scenario import Scenario
from sim.kernels import kernel_table, served
from sim.sweeps.shapes.choices import copies, counts, lm_head_tp, routed_experts, sharing

_MICRO_BATCHES = (2, 3, 4)

# More copies than this share of the experts fill memory that no FFN GPU has to spare.
_MOST_COPIED = 1 / 2

# Attention GPUs for each FFN GPU at most: Step-3's and FastAFD's largest ratios are 7 and 17.
_MOST_RATIO = 32


class _Layout(NamedTuple):
    attention_gpus: int
    """Of an instance."""
    ffn_gpus: int
    """Of an instance."""
    parallelism: str
    fabric: str
    kernel: str
    collectives: str = "nccl"

    def settings(self, model: ModelCard, attention_card: str) -> dict[str, Any]:
        """Return what all shapes of this layout have."""
        # One kernel exchanges tokens of MoE layers alone: attention GPUs compute dense FFNs.
        dense = any(isinstance(ffn, DenseFfn) for ffn in model.ffn.values())
        shared_head = lm_head_tp(self.attention_gpus, attention_card)
        return {
            "deployment.attention.gpus_per_instance": self.attention_gpus,
            "deployment.attention.lm_head_tp": shared_head,
            "deployment.attention.computes": ["dense"]
            if dense and self.kernel == served.FUSED_EP
            else [],
            "deployment.ffn.gpus_per_instance": self.ffn_gpus,
            "deployment.ffn.parallelism": self.parallelism,
            "deployment.ffn.moe_kernel": self.kernel,
            "deployment.ffn.collectives": self.collectives,
            "deployment.fabric": self.fabric,
        }

    def sizes(self, gpus: int) -> Iterator[tuple[int, int]]:
        """Yield attention and FFN instances on at most `gpus` GPUs; some take all of them."""
        for ffn in counts(gpus // self.ffn_gpus):
            left = min(gpus - ffn * self.ffn_gpus, ffn * self.ffn_gpus * _MOST_RATIO)
            most = left // self.attention_gpus
            for attention in counts(most):
                yield attention, ffn


def shapes(scenario: Scenario, gpus: int) -> Iterator[dict[str, Any]]:
    """Yield settings of the AFD shapes of at most `gpus` GPUs."""
    model, names = cards.model(scenario.model), scenario.deployment.gpus_by_card()
    attention_card, ffn_card = (cards.accelerator(name) for name, _gpus in names)
    domain = ffn_card.node.scale_up_domain_gpus
    for layout in _layouts(scenario, attention_card.name, ffn_card.name):
        fixed = layout.settings(model, attention_card.name)
        most = gpus if layout.fabric == "rdma" else min(gpus, domain)
        ways = sharing(model, layout.attention_gpus) if _may_share(model, layout) else [1]
        for (attention, ffn), tp, micro_batches in product(
            layout.sizes(most), ways, _MICRO_BATCHES
        ):
            yield fixed | {
                "deployment.attention.instances": attention,
                "deployment.attention.tp": tp,
                "deployment.ffn.instances": ffn,
                "deployment.ffn.redundant_experts": _copies(
                    model, layout.parallelism, ffn, layout.ffn_gpus
                )[0],
                "deployment.micro_batches": micro_batches,
            }


def more_copies(scenario: Scenario) -> list[int]:
    """Return the numbers of copies of experts that the scenario's shape may have."""
    assert isinstance(scenario.deployment, Afd)
    ffn, model = scenario.deployment.ffn, cards.model(scenario.model)
    return _copies(model, ffn.parallelism, ffn.instances, ffn.gpus_per_instance)


def _layouts(scenario: Scenario, attention_card: str, ffn_card: str) -> Iterator[_Layout]:
    attention, ffn = cards.accelerator(attention_card).node, cards.accelerator(ffn_card).node
    kernel = _kernel(scenario, ffn_card)
    # Step-3 gathers and scatters by NVLS (its report, section 7).
    by = "nvls" if ffn.in_network_collectives else "nccl"
    for parallelism in ("tp_ep", "ep", "tp"):
        yield _Layout(attention.gpus, ffn.gpus, parallelism, "rdma", kernel, by)
    yield _Layout(attention.gpus, 1, "ep", "rdma", kernel)
    if attention_card != ffn_card:
        return
    unit = ffn.gpus if ffn.scale_up_domain_gpus > ffn.gpus else 1
    yield _Layout(unit, 1, "ep", "nvlink", kernel)
    if unit > 1:
        yield _Layout(unit, unit, "tp_ep", "nvlink", kernel, by)
    # Where the engine's own was not measured, compiling refuses it.
    yield _Layout(unit, unit, "ep", "nvlink", served.FUSED_EP)


def _kernel(scenario: Scenario, card: str) -> str:
    """Return the kernel of experts behind transfers: fused if that alone was measured."""
    table = kernel_table.load(cards.accelerator(card), cards.calibration(card))
    dtype = served.measured_as(scenario.precision.of("experts"))
    measured = [k for k in (served.MASKED, served.FUSED) if table.has_format("moe", k, dtype)]
    return (measured or [served.MASKED])[0]


def _may_share(model: ModelCard, layout: _Layout) -> bool:
    """Return whether GPUs may share requests: several KV heads, and a link that waits for none."""
    several = any(getattr(each, "kv_heads", 1) > 1 for each in model.attention.values())
    return several and layout.fabric == "rdma"


def _copies(model: ModelCard, parallelism: str, instances: int, gpus: int) -> list[int]:
    """Return numbers of copies of experts on instances of `gpus` GPUs."""
    if parallelism == "tp":
        return [0]
    ranks = instances if parallelism == "tp_ep" else instances * gpus
    return copies(routed_experts(model), ranks, _MOST_COPIED)
