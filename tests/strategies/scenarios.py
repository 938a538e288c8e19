"""Settings of whole scenarios; traces and counts are written to the working directory."""

from __future__ import annotations

import hashlib
from itertools import accumulate
from pathlib import Path
from typing import get_args

from hypothesis import strategies as st

from sim.foundation.units import WeightFormat
from sim.inputs import cards
from sim.inputs.admission import Balancing
from sim.inputs.scenario import Part

PROFILES = cards.names(cards.SOFTWARE)
AFD = "step3-2a2f"
EP = "dsv3-ep128"


@st.composite
def lengths(draw: st.DrawFn) -> str:
    prompt = draw(st.sampled_from((
        "{kind: fixed, tokens: 200}",
        "{kind: uniform, low: 1, high: 3000}",
        "{kind: lognormal, mean: 2000, cv: 1.5, max_tokens: 9000}",
    )))  # fmt: skip
    output = draw(st.sampled_from((
        "{kind: fixed, tokens: 1}",
        "{kind: fixed, tokens: 9}",
        "{kind: geometric, mean: 12, max_tokens: 60}",
    )))  # fmt: skip
    return f"workload.lengths={{kind: drawn, prompt: {prompt}, output: {output}}}"


@st.composite
def arrivals(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        concurrency = draw(st.sampled_from((1, 2, 5, 40, 400)))
        return f"workload.arrivals={{kind: closed, concurrency: {concurrency}}}"
    rate = draw(st.sampled_from((1, 30, 1000, 100_000)))
    law = draw(st.sampled_from((
        "kind: poisson",
        "kind: gamma, cv: 0.4",
        "kind: gamma, cv: 4",
        "kind: bursts, burst_ratio: 9, calm_s: 0.2, burst_s: 0.05",
        "kind: diurnal, profile: [1, 5, 0], period_s: 0.5, begin_s: 0.1",
    )))  # fmt: skip
    requests = draw(st.integers(1, 60))
    return f"workload.arrivals={{{law}, requests_per_s: {rate}, requests: {requests}}}"


@st.composite
def trace(draw: st.DrawFn) -> str:
    """Draw a trace and return the workload that replays it."""
    gaps_ms = draw(st.lists(st.sampled_from((0, 0, 3, 40, 2000)), min_size=1, max_size=40))
    rows = [
        f'{{"timestamp": {at}, "input_length": {draw(st.integers(1, 9000))}, '
        f'"output_length": {draw(st.integers(1, 40))}}}\n'
        for at in accumulate(gaps_ms)
    ]
    text = "".join(rows)
    path = Path(f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.jsonl")
    path.write_text(text)
    scale = draw(st.sampled_from((1, 7.3)))
    clip = draw(st.sampled_from(("null", "4000")))
    more = f"time_unit: ms, rate_scale: {scale}, clip_context: {clip}"
    return f"workload={{arrivals: {{kind: trace, path: {path}, {more}}}}}"


@st.composite
def admissions(draw: st.DrawFn) -> str:
    """Draw how requests are let in."""
    gpu = draw(st.sampled_from(get_args(Balancing)))
    back = draw(st.sampled_from((
        "kind: recompute, tokens_per_s: {value: 20000, source: drawn}",
        "kind: swap, bytes_per_s: {value: 2.0e+10, source: drawn}",
    )))  # fmt: skip
    share = draw(st.sampled_from((0.5, 0.99)))
    kv = draw(st.sampled_from((
        "{kind: reserve}",
        f"{{kind: watermark, share: {share}, preemption: {{{back}}}}}",
    )))  # fmt: skip
    nic = "{nic_share: {value: 0.01, source: drawn}, latency_us: {value: 300, source: drawn}}"
    transfer = draw(st.sampled_from(("null", nic)))
    split = draw(st.sampled_from(("even", "rows")))
    idle = draw(st.sampled_from(("null", sourced(1), sourced(0.5))))
    return (
        f"admission={{gpu: {gpu}, split: {split}, kv: {kv}, kv_transfer: {transfer}, "
        f"idle_step_share: {idle}}}"
    )


@st.composite
def afd(draw: st.DrawFn) -> tuple[str, list[str]]:
    side, ffn = "deployment.attention", "deployment.ffn"
    accelerator = draw(st.sampled_from(("h800", "h20")))
    # Over the scale-up link all GPUs are of a kind, in one domain of 8; only FFN GPUs share work.
    fabric = draw(st.sampled_from(("rdma", "nvlink")))
    linked = fabric == "nvlink"
    each = draw(st.sampled_from((1, 4) if linked else (1, 8)))
    most = {1: (1, 2, 4), 4: (1,), 8: (1, 2)}[each]
    # o_proj_tp, lm_head_tp and tp: GPUs share an output projection, or requests.
    shared = st.sampled_from(((1, 1, 1), (1, 4, 1), (4, 1, 1), (4, 4, 1), (1, 4, 2), (1, 4, 4)))
    alone = st.sampled_from(((1, 1, 1), (1, 4, 1)))
    o_proj_tp, lm_head_tp, tp = draw(alone if linked else shared)
    return "step3-2a2f", [
        f"model={draw(st.sampled_from(('step3', 'minimax-m1')))}",
        f"deployment.fabric={fabric}",
        f"{side}.accelerator={accelerator}",
        f"{side}.instances={1 if linked else draw(st.integers(1, 2))}",
        f"{side}.o_proj_tp={o_proj_tp}",
        f"{side}.lm_head_tp={lm_head_tp}",
        f"{side}.tp={tp}",
        f"{side}.gpus_per_instance=4",
        f"{ffn}.accelerator={accelerator if linked else 'h800'}",
        f"{ffn}.gpus_per_instance={each}",
        f"{ffn}.instances={draw(st.sampled_from(most))}",
        f"{ffn}.parallelism={draw(st.sampled_from(('tp', 'ep', 'tp_ep')))}",
        f"deployment.micro_batches={draw(st.integers(1, 8))}",
        f"deployment.a2f={draw(st.sampled_from(('broadcast', 'routed')))}",
        f"deployment.duplex={draw(st.sampled_from(('full', 'half')))}",
        f"software={draw(st.sampled_from(PROFILES))}",
        f"software.host_gap_us_per_step={{value: {draw(st.integers(0, 2000))}, source: drawn}}",
    ]


@st.composite
def ep(draw: st.DrawFn) -> tuple[str, list[str]]:
    gpus = draw(st.sampled_from((8, 16)))
    exchange = draw(st.sampled_from(("all_to_all", "gather"))) if gpus == 8 else "all_to_all"
    return "dsv3-ep128", [
        f"deployment.gpus={gpus}",
        f"deployment.exchange={exchange}",
        f"deployment.attention_tp={draw(st.sampled_from((1, 1, 2, 8)))}",
        f"deployment.overlap={draw(st.sampled_from(('none', 'two_batch')))}",
        f"deployment.redundant_experts={draw(st.sampled_from((0, 16, 32)))}",
        f"software={draw(st.sampled_from(PROFILES))}",
        f"software.host_gap_us_per_step={{value: {draw(st.integers(0, 2000))}, source: drawn}}",
    ]


def sourced(value: float) -> str:
    return f"{{value: {value}, source: drawn}}"


@st.composite
def noise(draw: st.DrawFn, sides: tuple[str, ...]) -> str:
    """Draw all that may disturb a run, or some of it, or nothing."""
    if draw(st.booleans()):
        return "noise=null"

    def place() -> str:
        server = draw(st.sampled_from(("gpu", "nic", "nvlink", "network")))
        return f"server: {server}, side: {draw(st.sampled_from(sides))}"

    laws = (
        f"{{kind: lognormal, cv: {sourced(0.2)}}}",
        f"{{kind: gamma, cv: {sourced(1)}}}",
        f"{{kind: uniform, spread: {sourced(1)}}}",
        "{kind: empirical, factors: [0.9, 1, 1.3], source: drawn}",
    )
    tails = (
        "null",
        f"{{kind: exponential, mean_us: {sourced(200)}}}",
        f"{{kind: lognormal, mean_us: {sourced(200)}, cv: {sourced(2)}}}",
    )
    some = st.integers(0, 2)
    tasks = [f"{{{place()}, law: {draw(st.sampled_from(laws))}}}" for _ in range(draw(some))]
    stalls = [
        f"{{{place()}, rate_per_s: {sourced(draw(st.sampled_from((1, 1000))))}, "
        f"duration: {draw(st.sampled_from(('fixed', 'exponential')))}, "
        f"mean_us: {sourced(100)}, way: {draw(st.sampled_from(('both', 'in', 'out')))}}}"
        for _ in range(draw(some))
    ]
    slow = [
        f"{{{place()}, share: {sourced(0.3)}, factor: {sourced(1.5)}}}" for _ in range(draw(some))
    ]
    sections = (tasks, "tasks"), (stalls, "stalls"), (slow, "slow")
    lists = [f"{name}: [{', '.join(entries)}]" for entries, name in sections]
    return f"noise={{{', '.join(lists)}, host: {draw(st.sampled_from(tails))}}}"


@st.composite
def routing(draw: st.DrawFn) -> str:
    """Draw a routing, expected or drawn step by step with any placement."""
    kind = draw(
        st.sampled_from(
            (
                "kind: balanced",
                "kind: uniform",
                "kind: power_law, alpha: 0.6",
                "kind: dirichlet, concentration: 0.5",
            )
        )
    )
    if draw(st.booleans()):
        placed = ", eplb: true" if "law" in kind and draw(st.booleans()) else ""
        return f"routing={{{kind}{placed}}}"
    eplb = f"every_steps: {draw(st.integers(1, 5))}, window_steps: {draw(st.integers(1, 5))}"
    placements = (
        "{kind: contiguous}",
        "{kind: round_robin}",
        f"{{kind: eplb, {eplb}, hierarchical: {draw(st.sampled_from(('true', 'false')))}}}",
    )
    groups = draw(st.sampled_from(("null", "{count: 8, chosen: 4}")))
    drift = draw(st.sampled_from(("null", "{every_steps: 3, share: 0.3}")))
    placement = draw(st.sampled_from(placements))
    return (
        f"routing={{{kind}, per_step: {{placement: {placement}, groups: {groups}, "
        f"drift: {drift}}}}}"
    )


@st.composite
def precision(draw: st.DrawFn) -> str:
    """Draw number formats, one for all parts or by part."""
    weights = st.sampled_from(get_args(WeightFormat))
    kv = draw(st.sampled_from(("card", "bf16", "fp8", "int8", "nvfp4")))
    parts = {part: draw(st.one_of(st.none(), weights)) for part in get_args(Part)}
    named = "".join(f"{part}: {of}, " for part, of in parts.items() if of is not None)
    return f"precision={{gemm: {draw(weights)}, {named}kv: {kv}, lm_head: bf16}}"


@st.composite
def speculation(draw: st.DrawFn, model: str) -> str:
    """Draw drafts by a layer of the model or by none, accepted by any law, or no drafts."""
    if draw(st.booleans()):
        return "speculation=null"
    drafts = draw(st.integers(1, 3))
    layers = {
        "deepseek-v3": ("{attention: mla, ffn: moe}", "{attention: mla, ffn: dense}"),
        "step3": ("{attention: mfa, ffn: moe}",),
        "minimax-m1": ("{attention: lightning, ffn: moe}", "{attention: full, ffn: moe}"),
    }
    layer = draw(st.sampled_from(("null", *layers[model])))
    counts = draw(st.lists(st.integers(0, drafts), min_size=1, max_size=9))
    path = Path(f"accepted-{'-'.join(map(str, counts))}.csv")
    path.write_text("\n".join(["accepted", *map(str, counts)]) + "\n")
    p = draw(st.lists(st.sampled_from((0, 0.3, 0.9, 1)), min_size=drafts, max_size=drafts))
    law = draw(st.sampled_from((
        f"{{kind: constant, p: {sourced(p[0])}}}",
        f"{{kind: by_position, p: [{', '.join(map(sourced, p))}]}}",
        f"{{kind: trace, path: {path}, source: drawn}}",
    )))  # fmt: skip
    return f"speculation={{drafts: {drafts}, draft_layer: {layer}, acceptance: {law}}}"


# What engines say of themselves: KV for a few long requests, and a few requests.
STATED = (
    *("memory.kv_tokens=10000", "memory.kv_blocks=400"),
    *("memory.max_running_requests=1", "memory.max_running_requests=5"),
)


@st.composite
def settings_of_runs(draw: st.DrawFn) -> tuple[str, list[str], float | None]:
    """Draw scenarios, and bytes of KV that their GPUs have where it is less than their memory."""
    name, settings = draw(st.one_of(afd(), ep()))
    sides = ("all", "attention", "ffn") if name == AFD else ("all",)
    steps = f"simulation.max_steps={draw(st.integers(20, 25))}"
    seed = f"simulation.seed={draw(st.integers(0, 99))}"
    model = settings[0].removeprefix("model=") if name == AFD else "deepseek-v3"
    effects = [draw(noise(sides)), draw(routing()), draw(speculation(model))]
    effects += draw(st.lists(precision(), max_size=1))
    plain = st.tuples(arrivals(), lengths())
    workload = draw(st.one_of(plain, trace().map(lambda one: (one,))))
    scarce = draw(st.sampled_from((None, None, 30e6, 100e6)))
    settings += draw(st.lists(st.sampled_from(STATED), max_size=2, unique_by=lambda one: one[:10]))
    return name, [*settings, *workload, draw(admissions()), *effects, steps, seed], scarce
