"""TensorRT-LLM: flags of Dynamo's worker for attention data parallelism and wide EP.

Names of options: Dynamo 1.6.1, dynamo/trtllm/backend_args.py. `--trtllm.group.key value` writes a
key of TensorRT-LLM's arguments (1.3.0rc27, llm-api reference; Dynamo 1.6.1 runs 1.3.0rc29).
"""

from __future__ import annotations

from sim.deployments import compile_deployment
from sim.inputs.admission import Watermark
from sim.inputs.deployment import Ep
from sim.study.launch.all_to_all import all_to_all
from sim.study.launch.needs import Needs
from sim.study.launch.parts import EngineCommand, Option
from sim.study.launch.rank_group import RankGroup

# Tokens of a step unless told otherwise (--max-num-tokens).
_BATCHED_TOKENS = 8192

_KV = {"bf16": "auto", "fp8": "fp8", "nvfp4": "nvfp4"}


def command(needs: Needs, ep: Ep, group: RankGroup) -> EngineCommand:
    """Return the command of an EP group."""
    cannot = needs.cannot()
    options = [Option("--served-model-name", needs.scenario.model, "model")]
    options += _parallel(needs, ep, group, cannot)
    options += _experts(needs, ep, cannot)
    options += _sizes(needs)
    options += _memory(needs, cannot)
    options += _drafts(needs)
    return EngineCommand(("python3", "-m", "dynamo.trtllm"), options, cannot)


def _parallel(needs: Needs, ep: Ep, group: RankGroup, cannot: list[str]) -> list[Option]:
    options = [Option("--tensor-parallel-size", group.gpus, group.gpus_source)]
    if needs.experts():
        options.append(Option("--expert-parallel-size", group.gpus, group.gpus_source))
    if group.tp == 1:
        options.append(Option("--enable-attention-dp", None, group.tp_source))
    elif group.dp > 1:
        cannot.append(
            f"{group.tp_source} {group.tp}: TensorRT-LLM divides attention over all GPUs or none"
        )
    if group.dp > 1 and ep.lm_head_tp != 1:
        cannot.append(
            f"deployment.lm_head_tp {ep.lm_head_tp}: under attention data parallelism each GPU "
            "holds the whole LM head"
        )
    options.append(Option("--gpus-per-node", group.gpus_per_node, "node.gpus of the card"))
    return options


def _experts(needs: Needs, ep: Ep, cannot: list[str]) -> list[Option]:
    family, source = all_to_all(needs, ep)
    options = list[Option]()
    if family == "none":
        return []
    if family == "fused":
        options.append(Option("--trtllm.moe_config.backend", "MEGAMOE_DEEPGEMM", source))
    elif family != "one_sided":
        cannot.append(f"{source}: TensorRT-LLM chooses its all-to-all itself")
    if family != "fused":
        cannot.append(
            f"deployment.dispatch_dtype {ep.dispatch_dtype}, combine_dtype {ep.combine_dtype}: "
            "TensorRT-LLM's kernels of experts decide on the formats of an exchange"
        )
    if ep.redundant_experts or needs.balanced_by is not None:
        source = needs.balanced_by or "deployment.redundant_experts"
        experts = sorted(needs.experts())
        slots = [str(count + ep.redundant_experts) for count in experts]
        cannot.append(
            f"{source}: the load balancer is a file of its own (moe_config.load_balancer with "
            f"num_slots {' or '.join(slots)})"
        )
    if ep.overlap == "two_batch":
        cannot.append("deployment.overlap two_batch: TensorRT-LLM has no option for it")
    return options


def _sizes(needs: Needs) -> list[Option]:
    options = list[Option]()
    if needs.requests is not None and needs.captured is not None:
        requests, source = needs.requests
        drafted = ", speculation.drafts" if needs.positions > 1 else ""
        tokens = requests * needs.positions
        options.append(Option("--max-batch-size", requests, source))
        if tokens > _BATCHED_TOKENS:
            told = f"{source}{drafted}: tokens of a step"
            options.append(Option("--max-num-tokens", tokens, told))
        options += [
            Option("--trtllm.cuda_graph_config.max_batch_size", *needs.captured),
            Option("--trtllm.cuda_graph_config.enable_padding", True, "every batch in a graph"),
        ]
    options.append(Option("--max-seq-len", *needs.context()))
    return options


def _memory(needs: Needs, cannot: list[str]) -> list[Option]:
    stated = needs.scenario.memory
    memory = compile_deployment(needs.scenario).kv_memory()
    held = memory.weights_bytes + memory.reserve_bytes
    share = memory.kv_capacity_bytes() / (memory.accelerator.hbm_bytes - held)
    source = "memory.utilisation: KV as a share of what weights and buffers leave"
    fraction = int(float(share) * 1000) / 1000
    options = [Option("--free-gpu-memory-fraction", fraction, source)]
    options += needs.kv_option("--trtllm.kv_cache_config.dtype", _KV, "TensorRT-LLM", cannot)
    for name in ("--kv-block-size", "--trtllm.kv_cache_config.tokens_per_block"):
        options.append(Option(name, stated.kv_block_tokens, "memory.kv_block_tokens"))
    if needs.kv_tokens is not None:
        options.append(Option("--trtllm.kv_cache_config.max_tokens", *needs.kv_tokens))
    grows = isinstance(needs.scenario.admission.kv, Watermark)
    policy = "MAX_UTILIZATION" if grows else "GUARANTEED_NO_EVICT"
    name = "--trtllm.scheduler_config.capacity_scheduler_policy"
    options.append(Option(name, policy, "admission.kv"))
    return options


def _drafts(needs: Needs) -> list[Option]:
    speculation, name = needs.scenario.speculation, "--trtllm.speculative_config"
    if speculation is None:
        return []
    kind = "NGram" if speculation.draft_layer is None else "MTP"
    return [
        Option(f"{name}.decoding_type", kind, "speculation.draft_layer"),
        Option(f"{name}.max_draft_len", speculation.drafts, "speculation.drafts"),
    ]
