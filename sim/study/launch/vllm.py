"""vLLM: flags of `vllm serve` for data-parallel attention and expert parallelism.

Names of options: vLLM 0.33.0, vllm/engine/arg_utils.py and vllm/config; all are in 0.26.0 as well,
which afd-plugin runs (Dynamo 1.6.1 runs 0.31.0). `--option.key value` writes a key of an option
that is JSON.
"""

from __future__ import annotations

from sim.inputs.admission import Watermark
from sim.inputs.deployment import Ep
from sim.study.launch.all_to_all import Family, all_to_all
from sim.study.launch.needs import Needs
from sim.study.launch.parts import EngineCommand, InShell, Option
from sim.study.launch.rank_group import RankGroup

VERSION = "0.33.0"

# vLLM's documentation of data parallelism over nodes takes this port.
_RPC_PORT = 13345

# A step of fewer tokens is not split into two batches: two are the fewest that can be.
_DBO_THRESHOLD = 2

# The least default of --max-num-batched-tokens, which must not be below --max-num-seqs.
_BATCHED_TOKENS = 2048

_BACKENDS: dict[Family, str] = {
    "gather": "allgather_reducescatter",
    "deepep": "deepep_low_latency",
    "one_sided": "flashinfer_nvlink_one_sided",
    "two_sided": "flashinfer_nvlink_two_sided",
}

_KV = {"bf16": "bfloat16", "fp8": "fp8", "nvfp4": "nvfp4"}


def command(needs: Needs, ep: Ep, group: RankGroup, *, joins: bool) -> EngineCommand:
    """Return the command of an EP group; `joins` says that it joins its nodes itself."""
    cannot = needs.cannot()
    options = [served_name(needs), *parallel(group, needs, "deployment.kind")]
    options += nodes(group) if joins else []
    cannot += split_ranks(group)
    options += _experts(needs, ep, cannot)
    options += sizes(needs, cannot)
    options += memory(needs, cannot)
    options += drafts(needs)
    if ep.lm_head_tp != ep.attention_tp:
        cannot.append(
            f"deployment.lm_head_tp {ep.lm_head_tp}: vLLM divides the LM head over the GPUs of a "
            f"data-parallel rank, here {ep.attention_tp}"
        )
    return EngineCommand(
        ("vllm", "serve", '"$MODEL"'), options, cannot, later=later(group) if joins else []
    )


def served_name(needs: Needs) -> Option:
    return Option("--served-model-name", needs.scenario.model, "model")


def parallel(group: RankGroup, needs: Needs, spread: str) -> list[Option]:
    """Return the sizes of a rank group; the key `spread` says that its ranks share out experts."""
    options = [
        Option("--tensor-parallel-size", group.tp, group.tp_source),
        Option("--data-parallel-size", group.dp, group.dp_source),
    ]
    if needs.experts() and group.gpus > 1:
        options.append(Option("--enable-expert-parallel", None, spread))
    return options


def nodes(group: RankGroup) -> list[Option]:
    """Return how a rank group joins over nodes; nothing for a single node."""
    source = f"node.gpus of {group.accelerator}"
    if group.nodes == 1:
        return []
    if group.spans_nodes:
        return [
            Option("--nnodes", group.nodes, source),
            Option("--node-rank", InShell("$NODE_RANK"), "this node"),
            Option("--master-addr", InShell("$HEAD"), "first node"),
        ]
    each = group.dp_per_node
    local: int | InShell = each
    if group.dp % each:
        left = f"{group.dp} - NODE_RANK * {each}"
        local = InShell(f"$(({left} < {each} ? {left} : {each}))")
    return [
        Option("--data-parallel-size-local", local, source),
        Option("--data-parallel-address", InShell("$HEAD"), "first node"),
        Option("--data-parallel-rpc-port", _RPC_PORT, "a free port of the first node"),
    ]


def later(group: RankGroup) -> list[Option]:
    """Return what nodes after the first take."""
    if group.nodes == 1:
        return []
    headless = Option("--headless", None, "requests come to the first node")
    if group.spans_nodes:
        return [headless]
    first = InShell(f"$((NODE_RANK * {group.dp_per_node}))")
    return [
        headless,
        Option("--data-parallel-start-rank", first, f"node.gpus of {group.accelerator}"),
    ]


def split_ranks(group: RankGroup) -> list[str]:
    """Return what is told of several ranks that each have GPUs on several nodes."""
    if group.dp == 1 or not group.spans_nodes:
        return []
    return [
        f"{group.tp_source} {group.tp}: several ranks with GPUs on several nodes each, which vLLM "
        "places by Ray alone"
    ]


def _experts(needs: Needs, ep: Ep, cannot: list[str]) -> list[Option]:
    family, source = all_to_all(needs, ep)
    backend, options = _BACKENDS.get(family), list[Option]()
    if family == "none":
        return []
    if backend is not None:
        options.append(Option("--all2all-backend", backend, source))
    if family == "fused":
        options.append(Option("--moe-backend", "deep_gemm_mega_moe", source))
    elif ep.moe_kernel == "masked" and needs.scenario.precision.of("experts") == "fp8":
        options.append(Option("--moe-backend", "deep_gemm", "deployment.moe_kernel"))
    if family != "fused":
        cannot.append(
            f"deployment.dispatch_dtype {ep.dispatch_dtype}, combine_dtype {ep.combine_dtype}: "
            "vLLM's kernels of experts decide on the formats of an exchange"
        )
    options += _balancer(needs, ep)
    if ep.overlap == "two_batch":
        if family == "deepep":
            options += overlapped("deployment.overlap")
        else:
            cannot.append(
                "deployment.overlap two_batch: vLLM overlaps batches with DeepEP's kernels alone"
            )
    return options


def _balancer(needs: Needs, ep: Ep) -> list[Option]:
    balanced, copies = needs.balanced_by, ep.redundant_experts
    if balanced is None and not copies:
        return []
    options = [Option("--enable-eplb", None, balanced or "deployment.redundant_experts")]
    name = "--eplb-config.num_redundant_experts"
    options.append(Option(name, copies, "deployment.redundant_experts"))
    if needs.placement is not None:
        every, window = needs.placement.every_steps, needs.placement.window_steps
        key = "routing.per_step.placement"
        options += [
            Option("--eplb-config.step_interval", every, f"{key}.every_steps"),
            Option("--eplb-config.window_size", window, f"{key}.window_steps"),
        ]
    return options


def overlapped(source: str) -> list[Option]:
    """Return the options of dual batch overlap, for decoding."""
    threshold = "two batches in every step"
    return [
        Option("--enable-dbo", None, source),
        Option("--dbo-decode-token-threshold", _DBO_THRESHOLD, threshold),
    ]


def sizes(needs: Needs, cannot: list[str], fewest: int = _BATCHED_TOKENS) -> list[Option]:
    """Return the caps of a data-parallel rank, in requests and tokens.

    More tokens of a step than `fewest` are stated, as vLLM's default may be below them.
    """
    options, context = list[Option](), needs.context()
    if needs.requests is not None and needs.captured is not None:
        requests, positions = needs.requests, needs.positions
        tokens = requests.value * positions
        drafted = ", speculation.drafts" if positions > 1 else ""
        options.append(Option("--max-num-seqs", *requests))
        if tokens > fewest:
            source = f"{requests.source}{drafted}"
            options.append(Option("--max-num-batched-tokens", tokens, source))
        source = f"{needs.captured.source}{drafted}: tokens of a step"
        captured = needs.captured.value * positions
        options.append(Option("--max-cudagraph-capture-size", captured, source))
    options.append(Option("--max-model-len", *context))
    policy = needs.scenario.admission.gpu
    if needs.dp > 1 and policy != "least_requests":
        cannot.append(
            f"admission.gpu {policy}: vLLM sends a request to the rank with the fewest requests"
        )
    return options


def memory(needs: Needs, cannot: list[str]) -> list[Option]:
    """Return the share of memory, the format of KV and its blocks."""
    scenario, options = needs.scenario, list[Option]()
    stated = scenario.memory
    utilisation = float(stated.utilisation)
    options.append(Option("--gpu-memory-utilization", utilisation, "memory.utilisation"))
    options += needs.kv_option("--kv-cache-dtype", _KV, "vLLM", cannot)
    options.append(Option("--block-size", stated.kv_block_tokens, "memory.kv_block_tokens"))
    if needs.kv_tokens is not None:
        tokens, key = needs.kv_tokens
        blocks = tokens // stated.kv_block_tokens
        options.append(Option("--num-gpu-blocks-override", blocks, key))
    claims = scenario.admission.kv
    if isinstance(claims, Watermark):
        options.append(Option("--watermark", 1 - claims.share, "admission.kv.share: the rest"))
    else:
        cannot.append(
            "admission.kv reserve: vLLM claims KV as contexts grow and may preempt requests"
        )
    return options


def drafts(needs: Needs) -> list[Option]:
    """Return how tokens are drafted; nothing without drafts."""
    speculation, name = needs.scenario.speculation, "--speculative-config"
    if speculation is None:
        return []
    method = "ngram" if speculation.draft_layer is None else "mtp"
    return [
        Option(f"{name}.method", method, "speculation.draft_layer"),
        Option(f"{name}.num_speculative_tokens", speculation.drafts, "speculation.drafts"),
    ]
