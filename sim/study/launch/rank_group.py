"""Rank groups: how the GPUs that serve together lie on nodes and form data-parallel ranks."""

from __future__ import annotations

from dataclasses import dataclass

from sim.inputs import cards
from sim.inputs.deployment import Afd, Ep


@dataclass(frozen=True)
class RankGroup:
    """GPUs of one role."""

    accelerator: str
    gpus: int
    tp: int
    """GPUs that share requests: a data-parallel rank."""
    gpus_per_node: int
    gpus_source: str
    """Keys of the scenario that say how many GPUs there are."""
    tp_source: str

    @property
    def dp(self) -> int:
        return self.gpus // self.tp

    @property
    def dp_source(self) -> str:
        return self.gpus_source if self.tp == 1 else f"{self.gpus_source} / {self.tp_source}"

    @property
    def nodes(self) -> int:
        return -(-self.gpus // self.gpus_per_node)

    @property
    def dp_per_node(self) -> int:
        """Data-parallel ranks of a full node; 0 where a rank takes several nodes."""
        return self.gpus_per_node // self.tp

    @property
    def spans_nodes(self) -> bool:
        """Whether a data-parallel rank has GPUs on several nodes."""
        return self.nodes > 1 and self.gpus_per_node % self.tp > 0

    def words(self) -> str:
        """Return the group in words: 16 h200-sxm on 2 nodes of 8."""
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        return f"{self.gpus} {self.accelerator} on {nodes} of {self.gpus_per_node}"


def _group(card: str, gpus: int, tp: int, source: str, tp_source: str) -> RankGroup:
    each = min(gpus, cards.accelerator(card).node.gpus)
    return RankGroup(card, gpus, tp, each, source, tp_source)


def ep_group(ep: Ep) -> RankGroup:
    tp_source = "deployment.attention_tp"
    return _group(ep.accelerator, ep.gpus, ep.attention_tp, "deployment.gpus", tp_source)


def attention_group(afd: Afd) -> RankGroup:
    side, key = afd.attention, "deployment.attention"
    source = f"{key}.instances x gpus_per_instance"
    return _group(side.accelerator, side.gpu_count(), side.tp, source, f"{key}.tp")


def ffn_group(afd: Afd) -> RankGroup:
    side, key = afd.ffn, "deployment.ffn"
    source = f"{key}.instances x gpus_per_instance"
    return _group(side.accelerator, side.gpu_count(), 1, source, f"{key}.parallelism")
