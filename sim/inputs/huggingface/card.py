"""A model card made of a config: its text, and what else the config tells."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.foundation.errors import InexpressibleError, ScenarioError
from sim.inputs.documents.document import parse
from sim.inputs.huggingface import text
from sim.inputs.huggingface.drafts import draft_layer, draft_layers
from sim.inputs.huggingface.encoders import encoders
from sim.inputs.huggingface.file import ConfigFile, Fields, Keyed, open_config
from sim.inputs.huggingface.formats import StoredFormats, stored_formats
from sim.inputs.huggingface.layers import stack
from sim.inputs.huggingface.names import card_name
from sim.inputs.model import ModelCard

_CONTEXT = (
    *("max_position_embeddings", "max_sequence_length", "model_max_length", "seq_length"),
    *("n_positions", "max_seq_len"),
)
# Families whose LM head is the embedding unless their config says otherwise.
_TIED = re.compile("gemma|cohere|command")


@dataclass(frozen=True)
class ReadCard:
    """A card and what was noted while it was read."""

    card: ModelCard
    text: str
    """The card as YAML, every figure with its key."""
    repository: str
    model_type: str
    draft_layers: int
    ngram_parameters: int
    """Weights of embeddings of n-grams, which no card has."""
    inexpressible: tuple[str, ...]
    notes: tuple[str, ...]
    unread: tuple[str, ...]
    """Keys that nothing here reads, and that sound as if they shaped the model."""


def read_card(path: str | Path, name: str | None = None, lossy: bool = False) -> ReadCard:
    """Return the card of the config at a path.

    Raises ScenarioError with every mistake of the file, and InexpressibleError for what a card
    cannot express unless `lossy`.
    """
    config, repository = open_config(path)
    found = _read(config, repository, name or card_name(repository))
    if found.inexpressible and not lossy:
        raise InexpressibleError(_told(found.inexpressible, str(path)))
    return found


def _told(inexpressible: tuple[str, ...], path: str) -> str:
    lines = [f"{path}: {each}" for each in _told_each(inexpressible)]
    return "\n".join([*lines, "add --lossy to write the card without it"])


def _told_each(inexpressible: Iterable[str]) -> list[str]:
    return [f"a card cannot express: {each}" for each in inexpressible]


def _read(config: ConfigFile, repository: str, name: str) -> ReadCard:
    origin = f"config.json of {repository}"
    layers = stack(config)
    hidden, vocab = config.hidden(), config.need("vocab_size", "padded_vocab_size")
    _note_what_no_card_has(config)
    formats = stored_formats(config, layers, repository)
    head: Fields = {
        "kind": "model",
        "name": name,
        "title": repository.rsplit("/", 1)[-1],
        "hidden": hidden,
        "vocab": vocab,
    }
    head |= _context(config) | _tied(config)
    streams = config.whole("hc_mult")
    if streams is not None and streams.value > 1:
        head["hyper_connections"] = streams
    drafts = draft_layers(config)
    drafting = draft_layer(config, layers, drafts)
    seen = encoders(config, str(_plain_dtype(formats)))
    named = config.document.get(("architectures",))
    if not seen and isinstance(named, list) and "ConditionalGeneration" in str(named):
        config.note(f"{named[0]}: states no encoder of images or sound; none is on the card")
    if config.problems:  # missing keys are often those of a model that no card can state
        raise ScenarioError([*config.problems, *_told_each(config.inexpressible)])
    lines = [
        *text.comments(_heading(origin, drafts)),
        *text.comments(f"Left out: {each}." for each in config.inexpressible),
        *text.mapping(head, 0),
        f"source: {text.written(text.source(origin, head))}",
        *_parts("attention", layers.attention, origin),
        *_parts("ffn", layers.ffn, origin),
        *text.layers(layers.order),
        *_drafting(drafting, origin, drafts),
        *_parts("encoders", seen, origin),
        *_checkpoint(formats, origin),
    ]
    written = "\n".join(lines) + "\n"
    try:
        card = parse(written, f"the card of {repository}").validate(ModelCard)
    except ScenarioError as error:
        raise ScenarioError(
            [f"{config.document.name}: {each}" for each in error.problems]
        ) from None
    return ReadCard(
        card,
        written,
        repository,
        config.model_type,
        0 if drafts is None else drafts.value,
        _ngram_parameters(config, hidden.value, vocab.value),
        tuple(config.inexpressible),
        tuple(config.notes),
        tuple(unread_keys(config)),
    )


def _heading(origin: str, drafts: Keyed | None) -> Iterator[str]:
    yield f"By afdsim models import from the {origin}. Behind each figure: its key."
    if drafts is not None and drafts.value:
        count = f"{drafts.origin}: {drafts.value} drafting layer(s)"
        yield f"{count}, which a scenario's speculation adds."


def _parts(field: str, parts: dict[str, Fields], origin: str) -> Iterator[str]:
    if parts or field == "ffn":
        yield f"{field}:" if parts else f"{field}: {{}}"
    for name, fields in parts.items():
        yield f"  {name}:"
        yield from text.mapping(fields, 4)
        yield f"    source: {text.written(text.source(origin, fields))}"


def _drafting(layer: Fields | None, origin: str, count: Keyed | None) -> Iterator[str]:
    if layer is not None:
        yield "draft_layer:"
        yield from text.mapping(layer, 2)
        yield f"  source: {text.written(text.source(origin, {'count': count} | layer))}"


def _checkpoint(formats: StoredFormats, origin: str) -> Iterator[str]:
    if not formats.parts:
        return
    yield "checkpoint:"
    fields: Fields = dict(formats.parts)
    if "dense" not in fields:  # neither a dense FFN nor a shared expert
        like = "experts" if "experts" in fields else "attention"
        fields["dense"] = Keyed(fields[like].value, f"no dense FFN: as {like}")
    if formats.kv is not None:
        fields["kv"] = formats.kv
    yield from text.mapping(fields, 2)
    yield f"  source: {text.written(text.source(origin, fields))}"


def _plain_dtype(formats: StoredFormats) -> Any:
    head = formats.parts.get("lm_head")
    return "bf16" if head is None else head.value


def _context(config: ConfigFile) -> Fields:
    """Return the longest context: scaled rotations may begin from a shorter one."""
    found = config.whole(*_CONTEXT)
    if found is None:
        return {}
    for section in ("rope_scaling", "rope_parameters"):
        factor = config.get(f"{section}.factor")
        first = config.get(f"{section}.original_max_position_embeddings")
        if first == found.value and isinstance(factor, int | float) and 1 < factor < 10**4:
            keys = (*found.keys, section)
            return {
                "max_context_tokens": Keyed(
                    round(found.value * factor), f"{found.origin} × {section}.factor", keys
                )
            }
    return {"max_context_tokens": found}


def _tied(config: ConfigFile) -> Fields:
    tied = config.flag("tie_word_embeddings")
    if tied is None and _TIED.search(config.model_type):
        return {"tied": Keyed(value=True, origin=f"default of {config.model_type}")}
    return {"tied": tied} if tied is not None and tied.value else {}


def _ngram_parameters(config: ConfigFile, hidden: int, vocab: int) -> int:
    """Return weights of LongCat's tables: hashed n-grams, a hidden size for each row of all."""
    key = config.first(("ngram_vocab_size_ratio", "oe_vocab_size_ratio"))
    ratio = None if key is None else config.get(key)
    if not isinstance(ratio, int | float) or not 0 < ratio < 10**4:
        return 0
    return round(ratio * vocab) * hidden + hidden**2


def _note_what_no_card_has(config: ConfigFile) -> None:
    """Note keys that shape a model in a way that no card can state."""
    for key, what in (
        ("num_kv_shared_layers", "layers that read the KV of layers before them"),
        ("hidden_size_per_layer_input", "embeddings of each layer"),
        ("altup_num_inputs", "alternating updates"),
        ("attn_res_block_size", "attention over the results of blocks of layers"),
        ("emb_neighbor_num", "embeddings of n-grams, and their weights"),
        ("oe_neighbor_num", "embeddings of n-grams, and their weights"),
        ("engram_layers", "embeddings of n-grams, and their weights"),
        ("index_kpool", "an index of pools of keys"),
        ("cross_attention_layers", "layers that attend to what an encoder made"),
        ("block_configs", "layers that each have sizes of their own"),
        ("parallel_attn_mlp_res", "a dense FFN beside the experts of a layer"),
        ("lru_width", "recurrent blocks of RecurrentGemma"),
    ):
        value = config.get(key)
        if value not in (None, 0, False, []):
            config.cannot(f"{key}: {what}")
    share = config.get("cla_share_factor")
    if config.get("use_cla") is True and isinstance(share, int) and share > 1:
        config.cannot("use_cla: layers that read the KV of layers before them")
    if config.get("is_encoder_decoder") is True:
        config.cannot("is_encoder_decoder: an encoder of text, and attention to its result")
    if _reads_alone(config):
        config.cannot(f"{config.model_type}: an encoder, which makes no tokens")
    if config.model_type.startswith("rwkv"):
        config.cannot(f"{config.model_type}: states of RWKV, which is no attention")
    if config.model_type.startswith("falcon_h1"):
        config.cannot("falcon_h1: attention and Mamba-2 side by side in a layer")
    mamba = config.first(("mamba_d_state", "state_size"))
    if mamba and config.first(("mamba_n_heads", "mamba_num_heads")) is None:
        config.cannot(f"{mamba}: Mamba without heads (Mamba-1)")


def _reads_alone(config: ConfigFile) -> bool:
    """Return whether a model fills gaps of a text instead of writing on: BERT and its kin."""
    named = str(config.document.get(("architectures",)))
    return "bert" in config.model_type.lower() or "ForMaskedLM" in named


# Words in the names of keys that shape a model, and of those that never do.
_SHAPES = re.compile(
    r"layer|attn|attention|expert|moe|mlp|ffn|head|rank|window|sparse|state|conv|index|compress|"
    r"shar|block|proj|dim|size|latent|residual|gram|hidden|memory|kv_|mamba|recurr"
)
_NEVER = re.compile(
    r"dropout|rope|rotary|norm|eps|token|_id$|^id|scal|coef|loss|router|bias|init|act|dtype|"
    r"output_|return_|use_cache|vision|audio|image|video|auto_map|chunk|group|limit|theta|mscale|"
    r"_type$|architectures|quant|prun|beam|penalt|aux|mtp|nextn|method|func|std|float|fp32|"
    r"tie_|pretrain|ep_size|position|mup|^_|label|cross_attention|decoder_start|bidirectional|"
    r"initializer|sinkhorn|hash|time_step|expand|logit|stochastic|gradient|transformers|"
    r"spatial|temporal|interleave$|softcap|sink|vocab_size_per|qk_head_dim|use_"
)


# Keys that say again what others say, for readers that ask otherwise.
_REPEATED = {
    *("num_key_value_heads", "head_dim", "moe_layer_freq", "full_attention_interval"),
    *("index_topk_freq", "index_skip_topk_offset", "index_topk_pattern", "max_window_layers"),
    *("sliding_window", "sliding_window_size", "intermediate_size", "first_k_dense_replace"),
    *("n_kv_heads", "sliding_window_pattern", "multi_query_attention"),
    *("decoder_sparse_step", "expand", "attention_chunk_size", "intermediate_size_mlp"),
}


def unread_keys(config: ConfigFile) -> Iterator[str]:
    """Yield keys of the language model that were not asked for and sound as if they mattered."""
    asked = config.asked | {key.partition(".")[0] for key in config.asked}
    section = config.document.get(config.text)
    for key, value in section.items():
        if key in asked | _REPEATED or value in (None, False, 0, "", [], {}):
            continue
        if _SHAPES.search(key) and not _NEVER.search(key):
            yield key
