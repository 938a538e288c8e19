"""Shapes: the deployments that a scenario may have (schema)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, model_validator

from sim.foundation.units import DType
from sim.inputs.base import Strict

MoeKernel = Literal["masked", "fused"]

# A validation context that lets pass what does not divide, to see what else is wrong with a shape.
UNDIVIDED = {"undivided": True}


MOST_GPUS = 16_384
Gpus = Annotated[int, Field(gt=0, le=MOST_GPUS)]
"""GPUs that one deployment may have; each takes some 40 kB in a run."""


def _check_gpus(instances: int, gpus_per_instance: int) -> None:
    found = instances * gpus_per_instance
    if found > MOST_GPUS:
        raise ValueError(
            f"{instances:,} instances of {gpus_per_instance:,} GPUs are {found:,} GPUs, of "
            f"{MOST_GPUS:,} at most; simulate one deployment and count its copies"
        )


class AttentionSide(Strict):
    """The attention instances of an AFD deployment: data-parallel, each GPU its own requests."""

    accelerator: str
    """Accelerator card, a file in hardware/."""
    instances: Gpus
    """Attention instances (x of xAyF)."""
    gpus_per_instance: Gpus
    """GPUs of one instance."""
    o_proj_tp: PositiveInt
    """GPUs that share the output projection of an instance; 1: each holds all of it."""
    lm_head_tp: PositiveInt
    """GPUs that share the LM head of an instance; 1: each holds all of it."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> AttentionSide:
        _check_gpus(self.instances, self.gpus_per_instance)
        if info.context == UNDIVIDED:
            return self
        for name, ways in (("o_proj_tp", self.o_proj_tp), ("lm_head_tp", self.lm_head_tp)):
            if self.gpus_per_instance % ways:
                raise ValueError(
                    f"{name} {ways} does not divide {self.gpus_per_instance} gpus_per_instance"
                )
        return self

    def gpu_count(self) -> int:
        return self.instances * self.gpus_per_instance


class FfnSide(Strict):
    """The FFN instances of an AFD deployment."""

    accelerator: str
    """Accelerator card, a file in hardware/."""
    instances: Gpus
    """FFN instances (y of xAyF)."""
    gpus_per_instance: Gpus
    """GPUs of one instance."""
    parallelism: Literal["tp", "ep", "tp_ep"]
    """tp: every expert sliced over all FFN GPUs; ep: whole experts spread over all FFN GPUs;
    tp_ep: experts spread over the instances, sliced inside each (Step-3's hybrid)."""
    moe_kernel: MoeKernel
    """masked: a grouped GEMM over experts padded to tiles (DeepGEMM behind DeepEP); fused: the
    serving framework's fused MoE kernel with permutation and sum."""
    redundant_experts: NonNegativeInt = 0
    """Extra expert copies, so that experts + copies divide evenly over the ranks (ep, tp_ep)."""

    @model_validator(mode="after")
    def _check(self) -> FfnSide:
        _check_gpus(self.instances, self.gpus_per_instance)
        if self.redundant_experts and self.parallelism == "tp":
            raise ValueError("redundant_experts: with tp every GPU has its part of every expert")
        return self

    def gpu_count(self) -> int:
        return self.instances * self.gpus_per_instance


class Afd(Strict):
    """Attention-FFN disaggregation (Step-3): xAyF instances and a ring of micro-batches."""

    kind: Literal["afd"]
    attention: AttentionSide
    ffn: FfnSide
    micro_batches: Annotated[int, Field(ge=1, le=8)]
    """Micro-batches in the pipeline (3 in Step-3's: attention, network, FFN)."""
    a2f: Literal["broadcast", "routed"]
    """broadcast: every token goes to every FFN instance; routed: only to those that host one of
    its experts."""
    a2f_dtype: DType
    """Format of activations on the way to the FFN."""
    f2a_dtype: DType
    """Format of results on the way back."""
    duplex: Literal["full", "half"]
    """full: a NIC (or scale-up link) sends and receives at once; half: one direction at a time."""
    fabric: str
    """What carries transfers between the instances, a file in hardware/fabrics/: rdma over NICs;
    nvlink over the scale-up link, within one domain and with `ffn.gpus_per_instance` 1."""

    def gpu_count(self) -> int:
        return self.attention.gpu_count() + self.ffn.gpu_count()

    def shape_name(self) -> str:
        """Return the shape as people write it: 2A4F."""
        return f"{self.attention.instances}A{self.ffn.instances}F"

    def accelerators(self) -> list[str]:
        """Return the names of the cards, sorted, each once."""
        return sorted({self.attention.accelerator, self.ffn.accelerator})


class Ep(Strict):
    """Colocated wide expert parallelism (DeepSeek): DP attention and EP over the same GPUs."""

    kind: Literal["ep"]
    accelerator: str
    """Accelerator card, a file in hardware/."""
    gpus: Gpus
    """GPUs of the EP group (the whole deployment). A group of 1 GPU exchanges nothing."""
    redundant_experts: NonNegativeInt
    """Extra expert copies, so that experts + copies divide evenly over the GPUs."""
    moe_kernel: MoeKernel
    """masked: a grouped GEMM over experts padded to tiles (DeepGEMM behind DeepEP); fused: the
    serving framework's fused MoE kernel with permutation and sum."""
    overlap: Literal["none", "two_batch"]
    """two_batch: two micro-batches hide each other's all-to-all; none: all in sequence."""
    dispatch_dtype: DType
    """Format of activations in dispatch."""
    combine_dtype: DType
    """Format of results in combine."""
    lm_head_tp: PositiveInt
    """GPUs that share the LM head; 1: each holds all of it."""
    fabric: str
    """Network between the nodes, a file in hardware/fabrics/. An all-to-all within one scale-up
    domain always uses the scale-up link."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Ep:
        if self.gpus % self.lm_head_tp and info.context != UNDIVIDED:
            raise ValueError(f"lm_head_tp {self.lm_head_tp} does not divide {self.gpus} gpus")
        return self

    @property
    def micro_batches(self) -> int:
        """Micro-batches in flight: 2 when they overlap, else 1."""
        return 2 if self.overlap == "two_batch" else 1

    def gpu_count(self) -> int:
        return self.gpus

    def shape_name(self) -> str:
        """Return the shape as people write it: EP128."""
        return f"EP{self.gpus}"

    def accelerators(self) -> list[str]:
        """Return the name of the card."""
        return [self.accelerator]


DeploymentShape = Annotated[Afd | Ep, Field(discriminator="kind")]
