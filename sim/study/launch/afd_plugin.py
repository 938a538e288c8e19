"""afd-plugin: flags of `vllm serve` for the attention and the FFN side of an AFD deployment.

Names of options: vllm-project/afd-plugin at 2e4378f (2026-08-08), which runs on vLLM 0.26.0: guides
of its connectors, recipes, afd_plugin/config.py.
"""

from __future__ import annotations

from sim.inputs import cards
from sim.inputs.deployment import Afd
from sim.study.launch import vllm
from sim.study.launch.needs import Needs
from sim.study.launch.parts import EngineCommand, InShell, Option
from sim.study.launch.rank_group import RankGroup

VERSION = "2e4378f"

_PORT = 6239
_UBATCHES = 2

# Card families whose architectures the plugin registers: DeepSeek-V2, V3 and V3.2.
_MODELS = ("deepseek-v2", "deepseek-v3")


def commands(
    needs: Needs, afd: Afd, attention: RankGroup, ffn: RankGroup
) -> tuple[dict[str, EngineCommand], list[str]]:
    """Return the command of each role, and what the plugin leaves out."""
    cannot = [*needs.cannot(), *vllm.split_ranks(attention)]
    npu = cards.accelerator(attention.accelerator).vendor == "Huawei"
    spread = "deployment.ffn.parallelism"
    options = [vllm.served_name(needs), *vllm.parallel(attention, needs, spread)]
    options += vllm.nodes(attention)
    options += vllm.sizes(needs, cannot, fewest=0)  # the FFN side takes no more at once
    options += vllm.memory(needs, cannot)
    options += vllm.drafts(needs)
    roles = {
        "attention": [*options, *_shared(needs, afd, npu)],
        "ffn": [*_ffn(needs, attention, ffn), *_shared(needs, afd, npu)],
    }
    groups = {"attention": attention, "ffn": ffn}
    exports = [] if npu else [Option("VLLM_USE_V2_MODEL_RUNNER", 0, "afd-plugin on CUDA")]
    program = ("vllm", "serve", '"$MODEL"')
    told = {
        role: EngineCommand(
            program,
            [*each, *_plugin(role, afd, attention, ffn, npu)],
            [],
            exports,
            vllm.later(groups[role]),
        )
        for role, each in roles.items()
    }
    return told, [*_refused(needs, afd, attention, ffn, npu), *cannot, *_left_out(needs, afd, npu)]


def _ffn(needs: Needs, attention: RankGroup, ffn: RankGroup) -> list[Option]:
    """Return the options that only the FFN side has: its batch is the tokens that reach a rank."""
    spread = "deployment.ffn.parallelism"
    options = [vllm.served_name(needs), *vllm.parallel(ffn, needs, spread), *vllm.nodes(ffn)]
    if needs.requests is not None:
        tokens = -(-needs.requests.value * needs.positions * attention.dp // ffn.dp)
        source = f"{needs.requests.source}: tokens of a step / FFN GPUs"
        options += [
            Option("--max-num-seqs", tokens, source),
            Option("--max-num-batched-tokens", tokens, source),
            Option("--max-cudagraph-capture-size", tokens, source),
        ]
    options.append(Option("--max-model-len", *needs.context()))
    utilisation = float(needs.scenario.memory.utilisation)
    return [*options, Option("--gpu-memory-utilization", utilisation, "memory.utilisation")]


def _shared(needs: Needs, afd: Afd, npu: bool) -> list[Option]:
    """Return the options that both sides must give alike."""
    mode = Option("--compilation-config.cudagraph_mode", "FULL_DECODE_ONLY", "afd-plugin's graphs")
    options = [mode]
    if npu and needs.scenario.precision.of("experts") == "int8":
        options.append(Option("--quantization", "ascend", "precision"))
    if afd.micro_batches == 1:
        return options
    return [
        *options,
        *vllm.overlapped("deployment.micro_batches"),
        Option("--ubatch-size", _UBATCHES, "deployment.micro_batches"),
    ]


def _plugin(role: str, afd: Afd, attention: RankGroup, ffn: RankGroup, npu: bool) -> list[Option]:
    key = "--additional-config.afd"
    connector = "CAMP2pAFDConnector" if npu else "P2pNcclAFDConnector"
    gate = not (npu or afd.ffn.routes)
    return [
        Option(f"{key}.role", role, f"deployment.{role}"),
        Option(f"{key}.connector", connector, "deployment.attention.accelerator"),
        Option(f"{key}.host", InShell("$AFD_HOST"), "first node of the FFN side"),
        Option(f"{key}.port", _PORT, "a free port of that node"),
        Option(f"{key}.num_attention_ranks", attention.gpus, attention.gpus_source),
        Option(f"{key}.num_ffn_ranks", ffn.gpus, ffn.gpus_source),
        Option(f"{key}.compute_gate_on_attention", gate, "deployment.ffn.collectives"),
    ]


def _refused(needs: Needs, afd: Afd, attention: RankGroup, ffn: RankGroup, npu: bool) -> list[str]:
    """Return why the plugin would not start this shape."""
    told = []
    model = cards.model(needs.scenario.model).name
    if not model.startswith(_MODELS):
        told.append(
            f"model {model}: afd-plugin has wrappers of DeepSeek-V2, V3 and V3.2 "
            "alone, and would not start"
        )
    if not npu and attention.gpus % ffn.gpus:
        told.append(
            f"deployment: attention ranks ({attention.gpus}) are no multiple of FFN ranks "
            f"({ffn.gpus}); P2pNcclAFDConnector would not start"
        )
    if afd.attention.accelerator != afd.ffn.accelerator:
        told.append("deployment: sides of different accelerators were not tried by afd-plugin")
    return told


def _left_out(needs: Needs, afd: Afd, npu: bool) -> list[str]:
    """Return what the plugin does otherwise, or not at all."""
    ffn, attention = afd.ffn, afd.attention
    told = (
        (
            afd.micro_batches > _UBATCHES,
            f"deployment.micro_batches {afd.micro_batches}: afd-plugin runs 1 or exactly 2, so "
            f"{_UBATCHES} are written",
        ),
        (
            ffn.parallelism != "ep",
            f"deployment.ffn.parallelism {ffn.parallelism}: no recipe of afd-plugin slices "
            "experts; whole experts are spread over all FFN GPUs",
        ),
        (
            not ffn.routes,
            f"deployment.a2f {afd.a2f}: an attention rank sends its tokens to one FFN rank, which "
            "exchanges them with the others",
        ),
        (
            ffn.moe_kernel == "fused_ep",
            "deployment.ffn.moe_kernel fused_ep: afd-plugin has no kernel over both sides",
        ),
        (
            not afd.in_stream,
            "deployment.transfers beside: afd-plugin transfers in the stream that computes",
        ),
        (
            {afd.a2f_dtype, afd.f2a_dtype} != {"bf16"},
            f"deployment.a2f_dtype {afd.a2f_dtype}, f2a_dtype {afd.f2a_dtype}: hidden states are "
            "sent in the model's bf16",
        ),
        (
            npu and not ffn.routes,
            "routers are on the attention side in the scenario, on the FFN side under "
            "CAMP2pAFDConnector",
        ),
        (
            bool(attention.computes),
            f"deployment.attention.computes {', '.join(attention.computes)}: afd-plugin has no "
            "option for it",
        ),
        (
            attention.o_proj_tp > 1,
            f"deployment.attention.o_proj_tp {attention.o_proj_tp}: vLLM divides output "
            "projections as the rest of attention",
        ),
        (
            attention.lm_head_tp != attention.tp,
            f"deployment.attention.lm_head_tp {attention.lm_head_tp}: vLLM divides the LM head "
            f"over the GPUs of a data-parallel rank, here {attention.tp}",
        ),
        (
            bool(ffn.redundant_experts) or needs.balanced_by is not None,
            "redundant experts and EPLB: afd-plugin's remote experts take none",
        ),
        (
            needs.scenario.speculation is not None,
            "speculation: no recipe of afd-plugin drafts tokens, so this is untried",
        ),
    )
    return [sentence for applies, sentence in told if applies]
