"""Shapes: the deployments that a scenario may have (schema)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationInfo, model_validator

from sim.foundation.units import DType
from sim.inputs.base import Strict
from sim.inputs.software import Communication, Compute

MoeKernel = Literal["masked", "fused", "fused_ep"]

# A validation context that lets pass what does not divide, to see what else is wrong with a shape.
UNDIVIDED = {"undivided": True}

MOST_MICRO_BATCHES = 8
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
    tp: PositiveInt = 1
    """GPUs that share requests: heads, their KV and their projections are divided over these GPUs,
    which sum the output of each layer (tensor parallelism). Data-parallel ranks are groups of so
    many GPUs; KV heads fewer than GPUs, and MLA's latent, are on each of them."""
    computes: list[Literal["shared", "dense"]] = Field(default_factory=list)
    """FFNs that each attention GPU holds whole and computes for its own tokens. shared: the shared
    experts, while tokens are with the routed ones; dense: dense FFNs, whose layers then do not
    leave the attention GPUs. Routers are on the attention side, but where FFN GPUs route
    (`ffn.collectives` all_to_all)."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> AttentionSide:
        _check_gpus(self.instances, self.gpus_per_instance)
        if info.context == UNDIVIDED:
            return self
        wrong = [
            f"{name} {ways} does not divide {self.gpus_per_instance} gpus_per_instance"
            for name, ways in (
                ("o_proj_tp", self.o_proj_tp),
                ("lm_head_tp", self.lm_head_tp),
                ("tp", self.tp),
            )
            if self.gpus_per_instance % ways
        ]
        wrong += _wrong_ways("tp", self.tp, self.lm_head_tp)
        if self.tp > 1 and self.o_proj_tp > 1:
            wrong.append("tp shares the output projection as well: set o_proj_tp to 1")
        if self.computes and self.o_proj_tp > 1:
            wrong.append("computes does not go with a shared output projection: set o_proj_tp to 1")
        if wrong:
            raise ValueError("; ".join(wrong))
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
    serving framework's fused MoE kernel with permutation and sum; fused_ep: one kernel over all FFN
    GPUs that receives, computes and sends (FastAFD's M-to-N MegaMoE), with no transfers beside it.
    It needs `parallelism` ep, `a2f` routed and a fabric of the scale-up link."""
    redundant_experts: NonNegativeInt = 0
    """Extra expert copies, so that experts + copies divide evenly over the ranks (ep, tp_ep)."""
    collectives: Literal["nccl", "nvls", "copy_engine", "none", "all_to_all"] = "nccl"
    """What gathers and scatters inside an instance. nccl: as measured; nvls: the switch multicasts
    and reduces, at the rate of the link; copy_engine: copies gather at the rate of the link without
    SMs, and NCCL scatters; none: tokens go straight to each GPU, which holds experts of its own
    (`parallelism` ep), as `fused_ep` sends them in any case; all_to_all: the GPU that a token comes
    to routes it, and dispatch and combine as under EP take it to its experts on the others of the
    one instance (`parallelism` ep; afd-plugin). Dense FFNs are then whole on each GPU."""

    @model_validator(mode="after")
    def _check(self) -> FfnSide:
        _check_gpus(self.instances, self.gpus_per_instance)
        if self.redundant_experts and self.parallelism == "tp":
            raise ValueError(
                "redundant_experts: with tp every GPU has a part of every expert; leave it out"
            )
        for field, value, asked in (
            ("collectives", "none", self.collectives),
            ("collectives", "all_to_all", self.collectives),
            ("moe_kernel", "fused_ep", self.moe_kernel),
        ):
            if asked == value and self.parallelism != "ep":
                raise ValueError(
                    f"{field} {value}: tokens go to the GPU that holds their expert, but with "
                    f"{self.parallelism} several GPUs hold a part of it; set parallelism to ep"
                )
        if self.routes and self.instances > 1:
            raise ValueError(
                f"collectives all_to_all: the experts of a token are all in one instance; set "
                f"instances to 1 and gpus_per_instance to {self.gpu_count()}"
            )
        return self

    @property
    def routes(self) -> bool:
        """Whether FFN GPUs choose the experts of a token."""
        return self.collectives == "all_to_all"

    @property
    def gpus_apart(self) -> bool:
        """Whether each GPU of an instance gets tokens and answers for itself."""
        alone = self.gpus_per_instance == 1 or self.collectives == "none"
        return alone or self.moe_kernel == "fused_ep"

    @property
    def gpus_together(self) -> int:
        """GPUs that work in lockstep: those of an instance, or each alone."""
        return 1 if self.gpus_apart else self.gpus_per_instance

    def gpu_count(self) -> int:
        return self.instances * self.gpus_per_instance


def _wrong_ways(name: str, tp: int, lm_head_tp: int) -> list[str]:
    if lm_head_tp % tp == 0:
        return []
    told = f"{name} {tp} does not divide lm_head_tp {lm_head_tp}"
    return [f"{told}: GPUs that share requests share their LM head; set it to {tp}"]


class AttentionGpus(NamedTuple):
    """The GPUs that hold KV."""

    accelerator: str
    gpus: int
    o_proj_tp: int
    """GPUs that share an output projection."""
    tp: int
    """GPUs that share requests."""

    @property
    def ranks(self) -> int:
        """Data-parallel ranks."""
        return self.gpus // self.tp


class DeploymentKind(Strict):
    """What every kind of deployment tells. A new kind is a subclass and a member of the union."""

    noise_sides: ClassVar[tuple[str, ...]] = ("all",)
    """Sides that noise may name."""
    beside: ClassVar[dict[Compute, Communication]]
    """What runs beside what in its static order."""
    attention_count: ClassVar[dict[str, set[str]]] = {}
    """Fields, as pydantic names them, that only say how many attention GPUs there are: times of a
    GPU do not depend on them, nor times of all but by the requests in flight."""

    @abstractmethod
    def gpus_by_card(self) -> list[tuple[str, int]]:
        """Return how many GPUs of which accelerator card it takes, side by side."""

    @abstractmethod
    def attention_gpus(self) -> AttentionGpus: ...

    @abstractmethod
    def shape_name(self) -> str:
        """Return the shape as people write it: 2A4F, EP128."""

    @abstractmethod
    def with_micro_batches(self, count: int) -> Self | None:
        """Return it with another number of micro-batches; None if it can have no such number."""

    def gpu_count(self) -> int:
        return sum(gpus for _name, gpus in self.gpus_by_card())

    def accelerators(self) -> list[str]:
        """Return the names of the cards, sorted, each once."""
        return sorted({name for name, _gpus in self.gpus_by_card()})


class Afd(DeploymentKind):
    """Attention-FFN disaggregation (Step-3): xAyF instances and a ring of micro-batches."""

    kind: Literal["afd"]
    attention: AttentionSide
    ffn: FfnSide
    micro_batches: Annotated[int, Field(ge=1, le=MOST_MICRO_BATCHES)]
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
    nvlink over the scale-up link, within one domain; FFN instances of several GPUs then gather and
    scatter on the same link where its switch does (`ffn.collectives` nccl or nvls), or not at all
    (none, or `ffn.moe_kernel` fused_ep)."""
    transfers: Literal["beside", "in_stream"] = "beside"
    """beside: links carry tokens while GPUs compute; in_stream: kernels in the stream of the
    computation send and receive, each half of the fabric's latency and its bytes, and their GPU
    computes nothing meanwhile (afd-plugin's synchronous CAMP2p)."""

    noise_sides = ("all", "attention", "ffn")
    attention_count: ClassVar = {"attention": {"instances"}}
    # The transfers of other micro-batches go both ways at any time.
    beside: ClassVar[dict[Compute, Communication]] = {
        "attention": "transfers",
        "o_proj": "transfers",
        "experts": "transfers",
    }

    @model_validator(mode="after")
    def _check(self) -> Afd:
        if self.in_stream:
            self._check_in_stream()
        elif self.ffn.routes:
            raise ValueError(
                "ffn.collectives all_to_all shares the links of transfers, and their waiting for "
                "each other is not modelled: set transfers to in_stream"
            )
        if self.ffn.moe_kernel != "fused_ep":
            return self
        wrong = [
            f"{field} {found} does not go with moe_kernel fused_ep, which {why}: set it to {needed}"
            for field, found, needed, why in (
                ("a2f", self.a2f, "routed", "pulls the tokens of its experts"),
                ("duplex", self.duplex, "full", "receives and sends at once"),
            )
            if found != needed
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _check_in_stream(self) -> None:
        wrong = [
            f"{name} {found} does not go with transfers in_stream: set it to {needed}"
            for name, found, needed in (
                ("attention.o_proj_tp", self.attention.o_proj_tp, 1),
                ("attention.computes", self.attention.computes, []),
            )
            if found != needed
        ]
        if self.ffn.moe_kernel == "fused_ep":
            wrong.append("ffn.moe_kernel fused_ep has no transfers beside it: leave out transfers")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def in_stream(self) -> bool:
        """Whether GPUs send and receive in the stream of their computation."""
        return self.transfers == "in_stream"

    def gpus_by_card(self) -> list[tuple[str, int]]:
        return [(side.accelerator, side.gpu_count()) for side in (self.attention, self.ffn)]

    def attention_gpus(self) -> AttentionGpus:
        side = self.attention
        return AttentionGpus(side.accelerator, side.gpu_count(), side.o_proj_tp, side.tp)

    def shape_name(self) -> str:
        return f"{self.attention.instances}A{self.ffn.instances}F"

    def with_micro_batches(self, count: int) -> Afd | None:
        in_range = 1 <= count <= MOST_MICRO_BATCHES
        return self.replaced(micro_batches=count) if in_range else None

    def resized(self, attention: int, ffn: int) -> Afd:
        """Return the deployment with other numbers of attention and FFN instances."""
        sides = {
            "attention": self.attention.model_copy(update={"instances": attention}),
            "ffn": self.ffn.model_copy(update={"instances": ffn}),
        }
        return self.model_copy(update=sides)


class Ep(DeploymentKind):
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
    serving framework's fused MoE kernel with permutation and sum; fused_ep: one kernel that
    dispatches, computes and combines (DeepGEMM's MegaMoE), with no all-to-all beside it."""
    overlap: Literal["none", "two_batch"]
    """two_batch: two micro-batches hide each other's all-to-all; none: all in sequence."""
    dispatch_dtype: DType
    """Format of activations in dispatch."""
    combine_dtype: DType
    """Format of results in combine."""
    exchange: Literal["all_to_all", "gather"] = "all_to_all"
    """all_to_all: a token goes to the ranks that host its experts (DeepEP, NVLink kernels); gather:
    every rank gathers all tokens and results are summed by a reduce-scatter, within one scale-up
    domain (SGLang without an all-to-all backend)."""
    lm_head_tp: PositiveInt
    """GPUs that share the LM head; 1: each holds all of it."""
    attention_tp: PositiveInt = 1
    """GPUs that share requests: heads, their KV and their projections are divided over these GPUs,
    which sum the output of each layer, and dispatch their part of the tokens each. Data-parallel
    ranks are groups of so many GPUs; KV heads fewer than GPUs, and MLA's latent, are on each."""
    fabric: str
    """Network between the nodes, a file in hardware/fabrics/. An all-to-all within one scale-up
    domain always uses the scale-up link."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Ep:
        if info.context == UNDIVIDED:
            return self
        wrong = [
            f"{name} {ways} does not divide {self.gpus} gpus"
            for name, ways in (("lm_head_tp", self.lm_head_tp), ("attention_tp", self.attention_tp))
            if self.gpus % ways
        ]
        wrong += _wrong_ways("attention_tp", self.attention_tp, self.lm_head_tp)
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def micro_batches(self) -> int:
        """Micro-batches in flight: 2 when they overlap, else 1."""
        return 2 if self.overlap == "two_batch" else 1

    beside: ClassVar[dict[Compute, Communication]] = {
        "attn0": "dispatch",
        "shared": "dispatch",
        "attn1": "combine",
    }

    def gpus_by_card(self) -> list[tuple[str, int]]:
        return [(self.accelerator, self.gpus)]

    def attention_gpus(self) -> AttentionGpus:
        return AttentionGpus(self.accelerator, self.gpus, 1, self.attention_tp)

    def shape_name(self) -> str:
        return f"EP{self.gpus}"

    def with_micro_batches(self, count: int) -> Ep | None:
        """Return it with one micro-batch, which overlaps nothing, or with DeepSeek's two."""
        if count not in (1, 2):
            return None
        return self.replaced(overlap="none" if count == 1 else "two_batch")


DeploymentShape = Annotated[Afd | Ep, Field(discriminator="kind")]
