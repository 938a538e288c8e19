"""SGLang: flags of `sglang.launch_server` for data-parallel attention and expert parallelism.

Names of options: SGLang 0.5.23, sglang/srt/arg_groups/fields, and 0.5.21, which Dynamo 1.6.1 runs.
Usage: recipes of NVIDIA/srt-slurm at c88ef73.
"""

from __future__ import annotations

from sim.inputs import cards
from sim.inputs.admission import Watermark
from sim.inputs.deployment import Ep
from sim.inputs.model import DenseFfn
from sim.study.launch.all_to_all import Family, all_to_all
from sim.study.launch.needs import Needs
from sim.study.launch.parts import EngineCommand, InShell, Option
from sim.study.launch.rank_group import RankGroup

VERSION = "0.5.23"

_PORT = 20000

_BACKENDS: dict[Family, str] = {
    "gather": "none",
    "fused": "megamoe",
    "deepep": "deepep",
    "one_sided": "flashinfer",
    "two_sided": "flashinfer",
}

_KV = {"bf16": "bf16", "fp8": "fp8_e4m3", "nvfp4": "nvfp4"}

_BALANCING = {
    "kv_and_requests": "total_tokens",
    "least_kv": "total_tokens",
    "least_requests": "total_requests",
    "round_robin": "round_robin",
}

_DISPATCHED = ("bf16", "fp8", "int8", "nvfp4")

# What DeepEP's buffers take unless told otherwise.
_BUFFERED_TOKENS = 128


def command(
    needs: Needs, ep: Ep, group: RankGroup, *, joins: bool, renamed: bool = True
) -> EngineCommand:
    """Return the command of an EP group.

    `joins` says that it joins its nodes itself; `renamed`, that the engine has `--attn-dp-size`
    (0.5.23) in place of `--dp-size` with `--enable-dp-attention`.
    """
    cannot, exports = needs.cannot(), list[Option]()
    options = [Option("--served-model-name", needs.scenario.model, "model")]
    options += _parallel(group, needs, renamed)
    if joins and group.nodes > 1:
        nodes = f"{group.gpus_source}, node.gpus of {group.accelerator}"
        options += [
            Option("--nnodes", group.nodes, nodes),
            Option("--node-rank", InShell("$NODE_RANK"), "this node"),
            Option("--dist-init-addr", InShell(f"$HEAD:{_PORT}"), "first node"),
        ]
    options += _lm_head(needs, ep, cannot)
    options += _experts(needs, ep, cannot, exports)
    options += _sizes(needs, group, cannot)
    options += _memory(needs, cannot)
    options += _drafts(needs)
    program = ("python3", "-m", "sglang.launch_server", "--model-path", '"$MODEL"')
    return EngineCommand(program, options, cannot, exports)


def _parallel(group: RankGroup, needs: Needs, renamed: bool) -> list[Option]:
    options, source = [Option("--tp-size", group.gpus, group.gpus_source)], group.dp_source
    if group.dp > 1:
        options.append(Option("--attn-dp-size" if renamed else "--dp-size", group.dp, source))
        options += [] if renamed else [Option("--enable-dp-attention", None, source)]
    if needs.experts():
        options.append(Option("--ep-size", group.gpus, group.gpus_source))
    return options


def _lm_head(needs: Needs, ep: Ep, cannot: list[str]) -> list[Option]:
    options, model = list[Option](), cards.model(needs.scenario.model)
    dense = any(isinstance(ffn, DenseFfn) for ffn in model.ffn.values())
    if dense and needs.dp > 1:
        told = "deployment.kind: dense FFNs are whole on each GPU"
        options.append(Option("--moe-dense-tp-size", 1, told))
    if needs.dp == 1 or ep.lm_head_tp == ep.gpus:
        return options
    if ep.lm_head_tp == ep.attention_tp:
        return [*options, Option("--enable-dp-lm-head", None, "deployment.lm_head_tp")]
    cannot.append(
        f"deployment.lm_head_tp {ep.lm_head_tp}: SGLang divides the LM head over the GPUs of a "
        "data-parallel rank or over all"
    )
    return options


def _experts(needs: Needs, ep: Ep, cannot: list[str], exports: list[Option]) -> list[Option]:
    family, source = all_to_all(needs, ep)
    options = list[Option]()
    if family == "none":
        return []
    if family in _BACKENDS:
        options.append(Option("--moe-a2a-backend", _BACKENDS[family], source))
    else:
        cannot.append(f"{source}: SGLang has no option for the all-to-all {family}")
    if family == "deepep":
        options.append(Option("--deepep-mode", "auto", "low latency in decoding"))
        options += _dispatched(ep, cannot)
        if needs.requests is not None:
            tokens = max(needs.requests.value * needs.positions, _BUFFERED_TOKENS)
            name = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
            exports.append(Option(name, tokens, f"{needs.requests.source}: tokens of a step"))
    if ep.moe_kernel == "masked" and needs.scenario.precision.of("experts") == "fp8":
        options.append(Option("--moe-runner-backend", "deep_gemm", "deployment.moe_kernel"))
    if ep.redundant_experts:
        source = "deployment.redundant_experts"
        options.append(Option("--ep-num-redundant-experts", ep.redundant_experts, source))
    if needs.balanced_by is not None:
        options.append(Option("--enable-eplb", None, needs.balanced_by))
    if needs.placement is not None:
        every, key = needs.placement.every_steps, "routing.per_step.placement.every_steps"
        options.append(Option("--eplb-rebalance-num-iterations", every, key))
    if ep.overlap == "two_batch":
        options.append(Option("--enable-two-batch-overlap", None, "deployment.overlap"))
    return options


def _dispatched(ep: Ep, cannot: list[str]) -> list[Option]:
    if ep.combine_dtype != "bf16":
        cannot.append(f"deployment.combine_dtype {ep.combine_dtype}: DeepEP combines in bf16")
    if ep.dispatch_dtype not in _DISPATCHED:
        cannot.append(
            f"deployment.dispatch_dtype {ep.dispatch_dtype}: SGLang dispatches in "
            f"{', '.join(_DISPATCHED)}"
        )
        return []
    source = "deployment.dispatch_dtype"
    return [Option("--deepep-dispatcher-output-dtype", ep.dispatch_dtype, source)]


def _sizes(needs: Needs, group: RankGroup, cannot: list[str]) -> list[Option]:
    options = list[Option]()
    if needs.requests is not None and needs.captured is not None:
        each, source = needs.requests
        total = f"{source}: {each} on each of {group.dp} ranks"
        options += [
            Option("--max-running-requests", each * group.dp, total),
            Option("--cuda-graph-max-bs-decode", *needs.captured),
        ]
    options.append(Option("--context-length", *needs.context()))
    policy = needs.scenario.admission.gpu
    if group.dp > 1:
        if policy in _BALANCING:
            options.append(Option("--load-balance-method", _BALANCING[policy], "admission.gpu"))
        else:
            cannot.append(f"admission.gpu {policy}: SGLang has no such policy")
    return options


def _memory(needs: Needs, cannot: list[str]) -> list[Option]:
    stated = needs.scenario.memory
    static = float(stated.utilisation) - needs.reserved_share()
    reserve = "memory.utilisation less activation_reserve_gb and graphs"
    options = [Option("--mem-fraction-static", int(static * 1000) / 1000, reserve)]
    options += needs.kv_option("--kv-cache-dtype", _KV, "SGLang", cannot)
    options.append(Option("--page-size", stated.kv_block_tokens, "memory.kv_block_tokens"))
    if needs.kv_tokens is not None:
        options.append(Option("--max-total-tokens", *needs.kv_tokens))
    claims = needs.scenario.admission.kv
    told = f"watermark {claims.share:g}" if isinstance(claims, Watermark) else "reserve"
    cannot.append(
        f"admission.kv {told}: SGLang estimates what outputs will claim, and retracts requests "
        "where KV runs out"
    )
    return options


def _drafts(needs: Needs) -> list[Option]:
    speculation = needs.scenario.speculation
    if speculation is None:
        return []
    source, positions = "speculation.drafts", speculation.positions
    verified = Option("--speculative-num-draft-tokens", positions, f"{source} + 1")
    if speculation.draft_layer is None:
        return [Option("--speculative-algorithm", "NGRAM", "speculation.draft_layer"), verified]
    return [
        Option("--speculative-algorithm", "EAGLE", "speculation.draft_layer"),
        Option("--speculative-num-steps", speculation.drafts, source),
        Option("--speculative-eagle-topk", 1, f"{source}: a chain"),
        verified,
    ]
