"""Words: what the free texts of an operating point say, each read in one place.

A text that cannot be read raises `Unclear`, which the row tells as the reason why it is not
predicted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sim.inputs import cards

# Names that publications give to models whose card has another name, in small letters. A model
# whose architecture is another one (V3.2, V4) is none of these.
_MODELS = (
    (r"deepseek-(v3|r1)(-0324|-0528)?(/r1)?( \(v3 architecture\))?", "deepseek-v3"),
    (r"kimi-k2(\.5)?(-instruct|-thinking)?(-0905)?", "kimi-k2"),
    (r"qwen3-235b-a22b(-instruct|-thinking)?(-2507)?", "qwen3-235b-a22b"),
    (r"step-?3", "step3"),
)
_FORMAT_ENDING = r"(-(fp8|fp4|nvfp4|mxfp4|bf16|int4|int8|v2))+$"
# Cards that stand in where a card is not known, and why they may.
_STAND_INS = {
    "gb300": ("gb200", "the same memory bandwidth, FP8 peak and NVLink"),
    "b300": ("b200", "the same memory bandwidth, FP8 peak and NVLink"),
}
# What publications call the dies of CloudMatrix384 and Atlas A3.
_DIES = {"ascend a3 die": "ascend-910c", "910c die": "ascend-910c", "910c": "ascend-910c"}
# Step-3's report says «Hopper», «latest Hopper GPUs»; both of its points come out with H200.
_HOPPER = "h200-sxm"
HOPPERS = ("h800", "h100-sxm", "h200-sxm")

# The software profile of what publications call their engine.
_FRAMEWORKS = (
    (r"(tensorrt-llm|trt-?llm)\b.*", "trtllm"),
    (r"sglang\b(?!.*afd).*", "sglang"),
    (r"vllm(?!.*ascend)\b.*", "vllm"),
    (r"vllm-ascend\b.*", "vllm-ascend"),
    (r"deepseek", "deepseek"),
    (r"stepfun", "step3"),
    (r"fastafd\b.*", "fastafd"),
)

# Kernels of routed experts by what TensorRT-LLM calls the backend. TRTLLM's kernels of FP8 were
# measured as FlashInfer calls them.
_MOE_BACKENDS = {
    "cutlass": ("trtllm_wide_ep", "trtllm_cutlass"),
    "trtllm": ("trtllm_moe", "sglang_flashinfer_trtllm", "vllm_flashinfer_trtllm"),
    "deepgemm": ("trtllm_deepgemm",),
    "cutedsl": ("trtllm_cutedsl", "trtllm_wide_ep", "trtllm_cutlass"),
}

_FORMATS = ("bf16", "fp8", "int8", "nvfp4", "mxfp4", "int4")


class Unclear(Exception):  # noqa: N818  (no error: a row that is told instead of predicted)
    """Why a row cannot be made a scenario."""


@dataclass(frozen=True)
class Drafts:
    """Tokens drafted ahead, as a row tells them."""

    count: int
    p: float
    """Probability that a draft is accepted, the same for each."""


def model(text: str) -> str:
    """Return the model card that a name stands for."""
    name = re.sub(_FORMAT_ENDING, "", text.strip().lower())
    known = cards.names(cards.MODELS)
    if name in known:
        return name
    for pattern, card in _MODELS:
        if re.fullmatch(pattern, name) and card in known:
            return card
    raise Unclear(f"model: there is no model card of {text or 'an unnamed model'}")


def accelerator(text: str, assumptions: list[str]) -> str:
    """Return the hardware card that a name stands for."""
    name = _DIES.get(text.strip().lower(), text.strip().lower())
    known = cards.names(cards.ACCELERATORS)
    first = name.split()[0] if name else ""
    for card in (name, f"{name}-sxm", first, f"{first}-sxm"):
        if card in known:
            return card
    if name in _STAND_INS:
        card, why = _STAND_INS[name]
        assumptions.append(f"hardware: there is no card of {name}; {card} stands in: {why}")
        return card
    if name.startswith("hopper"):
        assumptions.append(f"hardware: the card is inferred: «{text}» is taken as {_HOPPER}")
        return _HOPPER
    raise Unclear(f"hardware: there is no card of {text or 'unnamed hardware'}")


def possible_cards(text: str) -> tuple[str, ...]:
    """Return the cards that a name leaves open; none where it names its card."""
    return HOPPERS if text.strip().lower().startswith("hopper") else ()


def model_in(run: str) -> str:
    """Return the model card of the first model that a description of a run names."""
    for name in re.findall(r"[a-z][\w.]*-[\w.-]*\w", run.lower()):
        for text in (name, f"{name}-a22b"):
            try:
                return model(text)
            except Unclear:
                continue
    raise Unclear(f"model: there is no model card of what «{run}» ran")


def accelerator_in(run: str, assumptions: list[str]) -> str:
    """Return the hardware card that a description of a run names."""
    found = re.search(r"\b(g?[abh]\d{2,3}|910c|950pr)\b", run.lower())
    if found is None:
        raise Unclear(f"hardware: «{run}» names no card")
    return accelerator(found[1], assumptions)


def framework_in(run: str, fused: bool) -> str:
    """Return the software profile whose kernels a description of a run names."""
    text = run.lower()
    named = {"tensorrt-llm": "trtllm", "nvlinkonesided": "trtllm", "sglang": "sglang"}
    for word, profile in named.items():
        if word in text:
            return profile
    return "fastafd" if fused or re.search(r"\d+a\d+f", text) else "vllm"


def first_number(text: str) -> float | None:
    """Return the first number in `16 tokens per F rank`, `128/rank`, `b64`."""
    found = re.search(r"\d+(\.\d+)?", text)
    return float(found[0]) if found else None


def framework(text: str) -> str | None:
    """Return the name of the software profile; None where the framework is unknown."""
    name = text.strip().lower()
    if not name:
        return None
    for pattern, profile in _FRAMEWORKS:
        if re.fullmatch(pattern, name):
            return profile
    if name in cards.names(cards.SOFTWARE):
        return name
    raise Unclear(f"framework: there is no software profile of {text}")


def number_format(text: str) -> str | None:
    """Return the number format that a text begins with; None where it is unknown."""
    words = re.findall(r"[a-z]+\d+", text.lower())
    found = [word for word in words if word in _FORMATS]
    return found[0] if found else None


def ways(text: str, letters: str) -> int | None:
    """Return n of `dp16` or `ep16` in a text; None where it says no number."""
    found = re.search(rf"\b{letters}(\d+)\b(?!\.\.)", text.lower())
    return int(found[1]) if found else None


def gpus_of_instance(text: str) -> int | None:
    """Return the GPUs of an FFN instance in `ep over FFN instances of 8 GPUs`; None if untold."""
    found = re.search(r"instances of (\d+)", text.lower())
    return int(found[1]) if found else None


def redundant_experts(text: str) -> int | None:
    """Return the expert copies beyond the first; None where they are unknown."""
    if not text.strip():
        return None
    if re.fullmatch(r"\d+", text.strip()):
        return int(text)
    raise Unclear(f"redundant_experts: '{text}' is no number of copies of routed experts")


def placed_by_load(routing: str, redundant: str) -> bool:
    """Return whether EPLB has placed copies of experts by the statistics of this traffic.

    Servers of random tokens hold copies too, but InferenceX's recipes neither enable EPLB nor give
    it statistics (NVIDIA/srt-slurm, recipes/gb200-fp8 and gb300-fp8, at c88ef731).
    """
    words = routing.lower()
    copies = bool(redundant_experts(redundant))
    return "random" not in words and "no eplb" not in words and (copies or "eplb" in words)


def of_one_text(source: str) -> bool:
    """Return whether all prompts of a publication are windows of one text.

    FastAFD's are 512 windows of a novel, repeated (prompts_512x8192_seed20260527.txt at 3c716194).
    Qwen3's experts were balanced over batches of all kinds of text, which lets those of one kind
    differ (Qiu et al., ACL 2025, 249: global-batch loss, "also used in Qwen3-MoEs").
    """
    return "fastafd" in source.lower()


def forced_experts(source: str, ffn_ranks: int) -> int | None:
    """Return the experts that forced routing asks for; None: all.

    afd-plugin's recipe lets 16 FFN dies stand for 64: tokens go to four experts of each
    (force_load_balance_topn_per_rank, recipe/npu/CAMP2pAFDConnector/deepseek_v3_2 @2e4378f).
    """
    return 4 * ffn_ranks if "afd-plugin" in source.lower() else None


def of_whole_benchmark(source: str) -> bool:
    """Return whether tokens per second are those of a benchmark up to its last request.

    afd-plugin's send six requests of 512 to 1,536 tokens a slot; served one after the other as
    slots get free, they fill 86 to 87 % of the slots.
    """
    return "afd-plugin" in source.lower()


def moe_backend(note: str) -> tuple[str, ...]:
    """Return the kernels, best first, of a note such as `MoE backend CUTLASS`; none if untold."""
    found = re.search(r"moe backend (\w+)", note.lower())
    return _MOE_BACKENDS.get(found[1], ()) if found else ()


def disaggregated(source: str) -> bool:
    """Return whether prefill ran on servers of its own: `disagg`, or a layout of 2P x 1D."""
    return bool(re.search(r"disagg|\b\d+p ?x|\b\d+p\d+d\b", source.lower()))


def mean_length(note: str) -> float:
    """Return the mean of a length over the longest one: of `lengths uniform in 0.8..1`, 0.9."""
    found = re.search(r"lengths uniform in (\d(?:\.\d+)?)\.\.1\b", note.lower())
    return (float(found[1]) + 1) / 2 if found else 1.0


def micro_batches(text: str) -> int | None:
    """Return the micro-batches in flight; None where they are unknown."""
    words = text.lower()
    if found := re.search(r"(\d+) (micro-?|u)batch", words):
        return int(found[1])
    if re.search(r"two[- ]batch|\btbo\b|\bdbo\b", words):
        return 1 if re.search(r"\bno (two|tbo|dbo)", words) else 2
    return 1 if words.strip() else None


def drafts(text: str) -> Drafts | None:
    """Return the drafts of a row; None where it has none or does not tell."""
    words = text.lower()
    if not words or words.startswith(("off", "unknown", "none")):
        return None
    count = re.search(r"(\d+) drafts?\b", words)
    if count:
        number = int(count[1])
        if share := re.search(r"(\d+(\.\d+)?) ?% accepted", words):
            return Drafts(number, float(share[1]) / 100)
        if emitted := re.search(r"(\d+\.\d+) accepted", words):
            return Drafts(number, _acceptance(number, float(emitted[1])))
    raise Unclear(f"mtp: '{text}' does not say how many drafts are accepted")


def _acceptance(count: int, emitted: float) -> float:
    """Return the p of which 1 + p + … + p^count tokens are emitted a step."""
    if not 1 <= emitted <= count + 1:
        raise Unclear(f"mtp: {count} drafts cannot emit {emitted:g} tokens a step")
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if sum(middle**n for n in range(count + 1)) < emitted:
            low = middle
        else:
            high = middle
    return round(high, 4)


def tokens(text: str) -> int | None:
    """Return the first whole number of tokens in a text such as `16 (15 timed steps)`."""
    found = re.fullmatch(r"(\d+)\b(?![k.-]).*", text.strip().lower())
    return int(found[1]) if found else None
