"""Launch files: engines know every option, values are of the right kind, odd names stay names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sim.foundation.errors import InfeasibleError, ScenarioError
from sim.inputs import cards
from sim.inputs.scenario import Scenario, load
from sim.study.launch.launch_file import ENGINES, launch_file
from tests.study.launched import KNOWN, Called, called, check, known_to, read, worker_of

NAMES = cards.names(cards.SCENARIOS)
PAIRS = [
    (name, engine)
    for name in NAMES
    for engine in ENGINES
    if (load(name).deployment.kind == "afd") == (engine == "afd-plugin")
]
AFD = [name for name in NAMES if load(name).deployment.kind == "afd"]
EP = [name for name in NAMES if name not in AFD]


def options_of(scenario: Scenario, engine: str, place: Path, **variables: str) -> Called:
    """Return the options that an engine is started with."""
    text = launch_file(scenario, engine).text
    if engine == "dynamo":
        return read(worker_of(text)["args"])[1]
    return called(text, place, **variables)[1]


@pytest.mark.parametrize(("name", "engine"), PAIRS)
def test_an_engine_knows_every_option(name: str, engine: str, tmp_path: Path) -> None:
    file = launch_file(load(name), engine)
    if engine == "dynamo":
        main = worker_of(file.text)
        known = known_to(main["engine"]) | KNOWN["dynamo"]["options"]
        known |= KNOWN["sglang"]["before"] if main["engine"] == "sglang" else {}
        known.pop("--attn-dp-size", None)
        calls = [read(main["args"])[1]]
        variables = KNOWN["dynamo"]["variables"] | KNOWN[main["engine"]]["variables"]
        for each in main["env"]:
            check(each["name"], each["value"], variables)
    else:
        roles = ("attention", "ffn") if engine == "afd-plugin" else ("",)
        known = known_to(engine)
        nodes = ("0", "1") if "NODE_RANK" in file.text else ("0",)
        calls = [
            called(file.text, tmp_path, ROLE=role, NODE_RANK=node)[1]
            for role in roles
            for node in nodes
        ]
        for variable, value in re.findall(r"export (\w+)=(\S+)", file.text):
            check(variable, value, KNOWN[engine]["variables"])
    for options in calls:
        for option, value in options.items():
            check(option, value, known)


KEY = re.compile(
    r"\b(?:deployment|memory|workload|speculation|routing|precision|software|admission)(?:\.\w+)+"
)


@pytest.mark.parametrize(("name", "engine"), PAIRS)
def test_each_option_names_a_key_of_the_scenario_or_a_reason(name: str, engine: str) -> None:
    scenario = load(name)
    text = launch_file(scenario, engine).text
    lines = [line for line in text.splitlines() if re.match(r" +(?:- )?\"?--", line)]
    assert len(lines) > 8
    keys = scenario.model_dump()
    for line in lines:
        if "--model" in line and engine == "dynamo":
            continue
        _, sign, source = line.partition("  # ")
        assert sign
        assert source.strip()
        for path in KEY.findall(source):
            place: Any = keys
            for part in path.split("."):
                place = place[part]


@pytest.mark.parametrize("name", EP)
def test_sglang_counts_the_requests_of_all_ranks(name: str, tmp_path: Path) -> None:
    scenario = load(name)
    ranks = scenario.deployment.attention_gpus().ranks
    ours = options_of(scenario, "vllm", tmp_path).get("--max-num-seqs")
    theirs = options_of(scenario, "sglang", tmp_path).get("--max-running-requests")
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert int(theirs) == ranks * int(ours)


# By hand, from the files in scenarios/. 8 GPUs of 64 requests; 7,373 + 922 tokens; FP8 KV. An H200
# reports 150,754,820,096 bytes (its card), of which 4 GB are reserved and 4 GB hold graphs:
# 0.9 - 8e9 / 150,754,820,096 = 0.8469.
DSV3_EP8 = {
    "vllm": {
        "--served-model-name": "deepseek-v3",
        "--tensor-parallel-size": "1",
        "--data-parallel-size": "8",
        "--enable-expert-parallel": None,
        "--all2all-backend": "flashinfer_nvlink_one_sided",
        "--max-num-seqs": "64",
        "--max-cudagraph-capture-size": "64",
        "--max-model-len": "8295",
        "--gpu-memory-utilization": "0.9",
        "--kv-cache-dtype": "fp8",
        "--block-size": "64",
    },
    "sglang": {
        "--model-path": "my model",
        "--served-model-name": "deepseek-v3",
        "--tp-size": "8",
        "--attn-dp-size": "8",
        "--ep-size": "8",
        "--moe-dense-tp-size": "1",
        "--enable-dp-lm-head": None,
        "--moe-a2a-backend": "flashinfer",
        "--max-running-requests": "512",
        "--cuda-graph-max-bs-decode": "64",
        "--context-length": "8295",
        "--load-balance-method": "total_tokens",
        "--mem-fraction-static": "0.846",
        "--kv-cache-dtype": "fp8_e4m3",
        "--page-size": "64",
    },
    "dynamo": {
        "--model-path": "$(MODEL)",
        "--served-model-name": "deepseek-v3",
        "--tensor-parallel-size": "8",
        "--expert-parallel-size": "8",
        "--enable-attention-dp": None,
        "--gpus-per-node": "8",
        "--max-batch-size": "64",
        "--trtllm.cuda_graph_config.max_batch_size": "64",
        "--trtllm.cuda_graph_config.enable_padding": "true",
        "--max-seq-len": "8295",
        "--trtllm.kv_cache_config.dtype": "fp8",
        "--kv-block-size": "64",
        "--trtllm.kv_cache_config.tokens_per_block": "64",
        "--trtllm.scheduler_config.capacity_scheduler_policy": "GUARANTEED_NO_EVICT",
    },
}

# Two nodes of 8; 2 requests a GPU bring 3 tokens each; 65,536 + 4,096 tokens; BF16 KV; EPLB.
DSV3_EP16_MTP = {
    "vllm": {
        "--served-model-name": "deepseek-v3",
        "--tensor-parallel-size": "1",
        "--data-parallel-size": "16",
        "--enable-expert-parallel": None,
        "--data-parallel-size-local": "8",
        "--data-parallel-address": "10.0.0.1",
        "--data-parallel-rpc-port": "13345",
        "--headless": None,
        "--data-parallel-start-rank": "8",
        "--all2all-backend": "deepep_low_latency",
        "--moe-backend": "deep_gemm",
        "--enable-eplb": None,
        "--eplb-config.num_redundant_experts": "0",
        "--max-num-seqs": "2",
        "--max-cudagraph-capture-size": "6",
        "--max-model-len": "69632",
        "--gpu-memory-utilization": "0.9",
        "--kv-cache-dtype": "bfloat16",
        "--block-size": "64",
        "--speculative-config.method": "mtp",
        "--speculative-config.num_speculative_tokens": "2",
    },
    "sglang": {
        "--model-path": "my model",
        "--served-model-name": "deepseek-v3",
        "--tp-size": "16",
        "--attn-dp-size": "16",
        "--ep-size": "16",
        "--nnodes": "2",
        "--node-rank": "1",
        "--dist-init-addr": "10.0.0.1:20000",
        "--moe-dense-tp-size": "1",
        "--enable-dp-lm-head": None,
        "--moe-a2a-backend": "deepep",
        "--deepep-mode": "auto",
        "--deepep-dispatcher-output-dtype": "fp8",
        "--moe-runner-backend": "deep_gemm",
        "--enable-eplb": None,
        "--max-running-requests": "32",
        "--cuda-graph-max-bs-decode": "2",
        "--context-length": "69632",
        "--load-balance-method": "total_tokens",
        "--mem-fraction-static": "0.846",
        "--kv-cache-dtype": "bf16",
        "--page-size": "64",
        "--speculative-algorithm": "EAGLE",
        "--speculative-num-steps": "2",
        "--speculative-eagle-topk": "1",
        "--speculative-num-draft-tokens": "3",
    },
}

# 8A4F: 64 attention and 32 FFN GPUs in nodes of 8; 5,184 / 64 = 81 requests a GPU, whose tokens are
# 162 on each FFN GPU; 3,584 + 1,024 tokens.
BOTH_SIDES = {
    "--served-model-name": "deepseek-v3",
    "--tensor-parallel-size": "1",
    "--enable-expert-parallel": None,
    "--data-parallel-size-local": "8",
    "--data-parallel-address": "10.0.0.1",
    "--data-parallel-rpc-port": "13345",
    "--headless": None,
    "--data-parallel-start-rank": "24",
    "--max-model-len": "4608",
    "--gpu-memory-utilization": "0.9",
    "--compilation-config.cudagraph_mode": "FULL_DECODE_ONLY",
    "--enable-dbo": None,
    "--dbo-decode-token-threshold": "2",
    "--ubatch-size": "2",
    "--additional-config.afd.connector": "P2pNcclAFDConnector",
    "--additional-config.afd.host": "10.0.0.2",
    "--additional-config.afd.port": "6239",
    "--additional-config.afd.num_attention_ranks": "64",
    "--additional-config.afd.num_ffn_ranks": "32",
    "--additional-config.afd.compute_gate_on_attention": "true",
}
DSV3_AFD = {
    "attention": {
        "--data-parallel-size": "64",
        "--max-num-seqs": "81",
        "--max-num-batched-tokens": "81",
        "--max-cudagraph-capture-size": "81",
        "--kv-cache-dtype": "bfloat16",
        "--block-size": "64",
        "--additional-config.afd.role": "attention",
    },
    "ffn": {
        "--data-parallel-size": "32",
        "--max-num-seqs": "162",
        "--max-num-batched-tokens": "162",
        "--max-cudagraph-capture-size": "162",
        "--additional-config.afd.role": "ffn",
    },
}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_deepseek_on_one_node_as_by_hand(engine: str, tmp_path: Path) -> None:
    assert options_of(load("dsv3-ep8-h200"), engine, tmp_path) == DSV3_EP8[engine]


def test_deepseek_on_one_node_under_dynamo_as_by_hand(tmp_path: Path) -> None:
    found = options_of(load("dsv3-ep8-h200"), "dynamo", tmp_path)
    share = float(found.pop("--free-gpu-memory-fraction") or "")
    assert found == DSV3_EP8["dynamo"]
    # 671e9 parameters less the embedding stand in FP8 on 8 GPUs, attention on each of them: 95 GB
    # or so a GPU, which leave (0.9 · 150.8 − 8 − 95) of (150.8 − 8 − 95) GB.
    assert share == pytest.approx(0.67, abs=0.05)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_deepseek_with_drafts_on_two_nodes_as_by_hand(engine: str, tmp_path: Path) -> None:
    found = options_of(load("dsv3-ep16-h200-mtp"), engine, tmp_path, NODE_RANK="1")
    assert found == DSV3_EP16_MTP[engine]


def test_deepseek_with_drafts_on_two_nodes_under_dynamo() -> None:
    main = worker_of(launch_file(load("dsv3-ep16-h200-mtp"), "dynamo").text)
    assert main["worker"]["multinode"] == {"nodeCount": 2}
    assert main["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert main["command"] == ["python3", "-m", "dynamo.sglang"]
    found, wanted = read(main["args"])[1], dict(DSV3_EP16_MTP["sglang"])
    # The operator joins the nodes; SGLang 0.5.21 has an older spelling.
    for option in ("--nnodes", "--node-rank", "--dist-init-addr", "--attn-dp-size"):
        del wanted[option]
    older = {"--dp-size": "16", "--enable-dp-attention": None}
    assert found == wanted | older | {"--model-path": "$(MODEL)"}


@pytest.mark.parametrize("role", ["attention", "ffn"])
def test_deepseek_under_afd_as_by_hand(role: str, tmp_path: Path) -> None:
    scenario = load("dsv3-afd")
    found = options_of(scenario, "afd-plugin", tmp_path, ROLE=role, NODE_RANK="3")
    assert found == BOTH_SIDES | DSV3_AFD[role]


def test_afd_plugin_on_ascend_takes_its_connector(tmp_path: Path) -> None:
    """As its recipe: 48A16F on dies in nodes of 16, which route on the FFN side."""
    sides = {"accelerator": "ascend-910c", "gpus_per_instance": 16}
    ffn = {"parallelism": "ep", "moe_kernel": "fused", "collectives": "all_to_all"}
    settings = {
        "model": "deepseek-v3.2",
        "deployment.attention": sides | {"instances": 3, "o_proj_tp": 1, "lm_head_tp": 1},
        "deployment.ffn": sides | ffn | {"instances": 1},
        "deployment.micro_batches": 2,
        "deployment.a2f_dtype": "bf16",
        "deployment.fabric": "unified-bus",
        "deployment.transfers": "in_stream",
        "precision": {"gemm": "int8", "kv": "bf16", "lm_head": "bf16"},
        "software": "vllm-ascend",
        "workload.arrivals": {"kind": "closed", "concurrency": 48 * 28},
    }
    scenario = load("dsv2-lite-afd").with_settings(settings)
    file = launch_file(scenario, "afd-plugin")
    assert "VLLM_USE_V2_MODEL_RUNNER" not in file.text
    assert [each for each in file.cannot if each.startswith("deployment")] == []
    found = options_of(scenario, "afd-plugin", tmp_path, ROLE="ffn")
    key = "--additional-config.afd"
    wanted = {
        f"{key}.connector": "CAMP2pAFDConnector",
        f"{key}.num_attention_ranks": "48",
        f"{key}.num_ffn_ranks": "16",
        f"{key}.compute_gate_on_attention": "false",
        "--max-num-seqs": str(48 * 28 // 16),
        "--quantization": "ascend",
        "--ubatch-size": "2",
    }
    assert found | wanted == found
    for option, value in found.items():
        check(option, value, known_to("afd-plugin"))


def test_what_afd_plugin_lacks_is_told() -> None:
    told = "\n".join(launch_file(load("step3-2a2f"), "afd-plugin").cannot)
    for part in ("model step3", "micro_batches 3", "parallelism tp_ep", "a2f broadcast", "fp8"):
        assert part in told


# Settings of a scenario, and the options that they set, by engine.
SET: list[tuple[dict[str, Any], str, Called]] = [
    ({"memory.max_running_requests": 96}, "vllm", {"--max-num-seqs": "96"}),
    ({"memory.max_running_requests": 96}, "sglang", {"--max-running-requests": "768"}),
    ({"memory.kv_tokens": 640_000}, "vllm", {"--num-gpu-blocks-override": "10000"}),
    ({"memory.kv_tokens": 640_000}, "sglang", {"--max-total-tokens": "640000"}),
    ({"memory.kv_blocks": 100}, "sglang", {"--max-total-tokens": "6400"}),
    ({"precision.kv": "bf16"}, "vllm", {"--kv-cache-dtype": "bfloat16"}),
    ({"precision.kv": "nvfp4"}, "sglang", {"--kv-cache-dtype": "nvfp4"}),
    ({"deployment.exchange": "gather"}, "vllm", {"--all2all-backend": "allgather_reducescatter"}),
    ({"deployment.exchange": "gather"}, "sglang", {"--moe-a2a-backend": "none"}),
    ({"admission.gpu": "least_requests"}, "sglang", {"--load-balance-method": "total_requests"}),
    ({"deployment.redundant_experts": 8}, "sglang", {"--ep-num-redundant-experts": "8"}),
    (
        {"deployment.redundant_experts": 8},
        "vllm",
        {"--enable-eplb": None, "--eplb-config.num_redundant_experts": "8"},
    ),
    (
        {"deployment.moe_kernel": "masked", "deployment.overlap": "two_batch"},
        "vllm",
        {"--all2all-backend": "deepep_low_latency", "--enable-dbo": None},
    ),
    ({"deployment.overlap": "two_batch"}, "sglang", {"--enable-two-batch-overlap": None}),
    (
        {"deployment.attention_tp": 2, "deployment.lm_head_tp": 2},
        "vllm",
        {"--tensor-parallel-size": "2", "--data-parallel-size": "4", "--max-num-seqs": "128"},
    ),
    (
        {"deployment.attention_tp": 8, "deployment.lm_head_tp": 8},
        "sglang",
        {"--tp-size": "8", "--max-running-requests": "512", "--cuda-graph-max-bs-decode": "512"},
    ),
    (
        {"workload.arrivals.requests_per_gpu": 4096},
        "vllm",
        # The software profile's largest graph is 1,024.
        {"--max-num-seqs": "4096", "--max-cudagraph-capture-size": "1024"},
    ),
    (
        {
            "routing.per_step": {
                "placement": {
                    "kind": "eplb",
                    "every_steps": 500,
                    "window_steps": 100,
                    "hierarchical": False,
                }
            }
        },
        "vllm",
        {"--eplb-config.step_interval": "500", "--eplb-config.window_size": "100"},
    ),
    (
        {
            "speculation": {
                "drafts": 3,
                "draft_layer": None,
                "acceptance": {"kind": "constant", "p": {"value": 0.5, "source": "a guess"}},
            }
        },
        "sglang",
        {"--speculative-algorithm": "NGRAM", "--speculative-num-draft-tokens": "4"},
    ),
    (
        {
            "admission.kv": {
                "kind": "watermark",
                "share": 0.75,
                "preemption": {
                    "kind": "recompute",
                    "tokens_per_s": {"value": 1e4, "source": "a guess"},
                },
            }
        },
        "vllm",
        {"--watermark": "0.25"},
    ),
]


@pytest.mark.parametrize(("settings", "engine", "wanted"), SET)
def test_a_setting_sets_its_option(
    settings: dict[str, Any], engine: str, wanted: Called, tmp_path: Path
) -> None:
    scenario = load("dsv3-ep8-h200").with_settings(settings)
    found = options_of(scenario, engine, tmp_path)
    assert found | wanted == found
    for option, value in found.items():
        check(option, value, known_to(engine))


@pytest.mark.parametrize(("node", "ranks"), [("0", "8"), ("1", "4")])
def test_the_last_node_may_hold_fewer_ranks(node: str, ranks: str, tmp_path: Path) -> None:
    settings = {"deployment.gpus": 12, "deployment.redundant_experts": 8}
    scenario = load("dsv3-ep8-h200").with_settings(settings)
    found = options_of(scenario, "vllm", tmp_path, NODE_RANK=node)
    assert found["--data-parallel-size-local"] == ranks
    assert found.get("--data-parallel-start-rank") == (None if node == "0" else "8")


@pytest.mark.parametrize("gpus", [16, 32])
def test_a_rank_may_have_gpus_on_two_nodes(gpus: int, tmp_path: Path) -> None:
    settings = {
        "deployment.gpus": gpus,
        "deployment.attention_tp": 16,
        "deployment.lm_head_tp": 16,
    }
    scenario = load("dsv3-ep8-h200").with_settings(settings)
    found = options_of(scenario, "vllm", tmp_path, NODE_RANK="1")
    assert found["--nnodes"] == str(gpus // 8)
    assert found["--node-rank"] == "1"
    assert found["--master-addr"] == "10.0.0.1"
    told = [each for each in launch_file(scenario, "vllm").cannot if "several nodes" in each]
    assert len(told) == (gpus == 32)


@pytest.mark.parametrize("name", AFD)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "dynamo"])
def test_engines_without_afd_refuse_it(name: str, engine: str) -> None:
    with pytest.raises(InfeasibleError, match="take afd-plugin"):
        launch_file(load(name), engine)


@pytest.mark.parametrize("name", EP)
def test_afd_plugin_refuses_ep(name: str) -> None:
    with pytest.raises(InfeasibleError, match="take vllm"):
        launch_file(load(name), "afd-plugin")


def test_an_unknown_engine_is_refused_with_those_known() -> None:
    with pytest.raises(ScenarioError, match="did you mean 'sglang'"):
        launch_file(load("dsv3-ep8-h200"), "slang")


ODD = 'it\'s $(touch pwned) `touch pwned` #1; "é" \\ & * $MODEL'


@pytest.mark.parametrize("engine", ["vllm", "sglang", "dynamo"])
def test_odd_names_stay_names(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    card = cards.find(cards.MODELS, "deepseek-v3", "model")
    shutil.copy(card, tmp_path / f"{ODD}.yaml")
    settings = {"name": ODD, "model": f"./{ODD}.yaml"}
    scenario = load("dsv3-ep8-h200").with_settings(settings)
    file = launch_file(scenario, engine)
    assert "/" not in file.name
    if engine == "dynamo":
        main = worker_of(file.text)
        served = main["args"][main["args"].index("--served-model-name") + 1]
        assert served.replace("$$(", "$(") == f"./{ODD}.yaml"
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", main["graph"]["metadata"]["name"])
    else:
        place = tmp_path / "empty"
        place.mkdir()
        assert called(file.text, place)[1]["--served-model-name"] == f"./{ODD}.yaml"
        assert sorted(path.name for path in place.iterdir()) == ["programs", "script"]


def test_a_script_asks_for_what_the_scenario_does_not_hold(tmp_path: Path) -> None:
    text = launch_file(load("dsv3-ep16-h200-mtp"), "vllm").text
    (tmp_path / "script").write_text(text)
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    done = subprocess.run([bash, "script"], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "MODEL" in done.stderr


def test_what_is_told_stands_in_the_file() -> None:
    for name, engine in PAIRS:
        file = launch_file(load(name), engine)
        assert all(f"# - {sentence}\n" in file.text for sentence in file.cannot)
        assert json.loads(json.dumps(vars(file)))["name"] == file.name


def test_afd_plugin_knows_a_model_by_the_name_of_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(cards.packaged(cards.MODELS) / "deepseek-v3.yaml", "mine.yaml")
    scenario = load("dsv3-afd").with_settings({"model": "./mine.yaml"})
    assert not any("wrappers" in told for told in launch_file(scenario, "afd-plugin").cannot)
