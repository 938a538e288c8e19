"""A model imported from its `config.json`: the card, checked against what its name says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.explain import theory
from sim.inputs.huggingface.card import ReadCard, read_card
from sim.inputs.huggingface.names import StatedCounts, stated_counts
from sim.inputs.model import ModelCard, MoeFfn

KV_CONTEXT = 32_768
"""Tokens of a request over which windows are shared out where nobody says otherwise."""

# Names round: gpt-oss-120b has 116.8 billion parameters.
_DOUBTFUL = 0.05
_BILLION = 1e9

WITHOUT = "without embedding and LM head"
HEAD = "with LM head, without embedding"
WITH = "with embedding and LM head"
# How publishers count whose names state no active parameters; others count the LM head.
_COUNTED = (
    *(("minimax", WITHOUT), ("step3p5", WITHOUT), ("step3p7", WITH), ("qwen", WITH)),
    *(("llama", WITH), ("bailing", WITH)),
)


@dataclass(frozen=True)
class ImportedModel:
    """A model card, its counts, and what of the model it cannot express."""

    read: ReadCard
    kv_context: int
    """Tokens of a request over which windows are shared out."""

    @property
    def card(self) -> ModelCard:
        return self.read.card

    @property
    def text(self) -> str:
        """The card as YAML, every figure with the key that it comes from."""
        return self.read.text

    @property
    def not_expressible(self) -> tuple[str, ...]:
        return self.read.inexpressible

    @property
    def notes(self) -> tuple[str, ...]:
        """What the config hides or leaves open, as far as it was noticed."""
        off = _deviation(self.parameters, self.published.parameters)
        if off is None or abs(off) <= _DOUBTFUL:
            return self.read.notes
        doubt = f"parameters are {off:+.0%} off the name's: the config hides or says something else"
        return (*self.read.notes, doubt)

    @property
    def published(self) -> StatedCounts:
        """Parameters as the model's name states them."""
        return stated_counts(self.read.repository)

    @property
    def parameters(self) -> int:
        """Weights of the language model: embeddings and LM head in, drafting layers out."""
        return theory.total_params(self.card) + self.read.ngram_parameters

    @property
    def active_parameters(self) -> int:
        """Weights that a token multiplies with, counted by `active_convention`."""
        return self.active_by_convention()[self.active_convention]

    @property
    def active_convention(self) -> str:
        """How the publisher counts: as its family does, or as comes nearest to the name.

        Names round, so several ways may fit one; the family's stays unless the name denies it.
        """
        family = self.read.model_type
        usual = next((how for begin, how in _COUNTED if family.startswith(begin)), HEAD)
        stated, counts = self.published.active, self.active_by_convention()
        if stated is None or round(counts[usual] / _BILLION) == stated / _BILLION:
            return usual
        return min(counts, key=lambda each: abs(counts[each] - stated))

    def active_by_convention(self) -> dict[str, int]:
        head = theory.embedding_params(self.card)
        layers = theory.active_params(self.card) - head
        both = layers + head * (1 if self.card.tied else 2)
        return {HEAD: layers + head, WITHOUT: layers, WITH: both}

    def draft_parameters(self) -> int:
        """Return weights of the drafting layers, a layer and a projection each.

        Each is taken as the last layer where the card has none that drafts.
        """
        layer, hidden = self.card.draft_layer or self.card.layer_sequence[-1], self.card.hidden
        ffn = self.card.found_ffn(layer)
        router = ffn.router_weights(hidden) if isinstance(ffn, MoeFfn) else 0
        weights = self.card.attention[layer.attention].weights(hidden) + router
        weights += 0 if ffn is None else ffn.weights(hidden)
        return self.read.draft_layers * (weights + 2 * hidden**2)

    def kv_formats(self) -> list[str]:
        """Return the formats in which layers keep KV, as the card states them."""
        kinds = [kind for kind in self.card.attention.values() if kind.kept_elements()]
        return list(dict.fromkeys(kind.cache_dtype("card") for kind in kinds))

    def kv_bytes_per_token(self, kv: str = "card") -> float:
        """Return bytes kept for each token of a request of `kv_context` tokens.

        Windows are shared out over the context; constant states are `state_bytes`.
        """
        total = 0.0
        for layer, count in self.card.layer_counts.items():
            for window, n_bytes in self.card.attention[layer.attention].kept_bytes(kv).items():
                kept = self.kv_context if window is None else min(window, self.kv_context)
                total += count * n_bytes * kept / self.kv_context
        return total

    def state_bytes(self) -> float:
        """Return bytes of constant state of a request."""
        counts = self.card.layer_counts.items()
        return sum(n * self.card.attention[layer.attention].state_bytes() for layer, n in counts)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the card itself as plain values."""
        card, stated, checkpoint = self.card, self.published, self.card.checkpoint
        return {
            "name": card.name,
            "repository": self.read.repository,
            "model_type": self.read.model_type,
            "layers": len(card.layer_sequence),
            "parameters": self.parameters,
            "active_parameters": self.active_parameters,
            "active_convention": self.active_convention,
            "active_by_convention": self.active_by_convention(),
            "draft_layers": self.read.draft_layers,
            "draft_parameters": self.draft_parameters(),
            "ngram_parameters": self.read.ngram_parameters,
            "encoder_parameters": sum(each.parameters for each in (card.encoders or {}).values()),
            "published": {
                "parameters": stated.parameters,
                "parameters_deviation": _deviation(self.parameters, stated.parameters),
                "active_parameters": stated.active,
                "active_deviation": _deviation(self.active_parameters, stated.active),
            },
            "context": card.max_context_tokens,
            "kv_context": self.kv_context,
            "kv_format": "/".join(self.kv_formats()),
            "kv_bytes_per_token": self.kv_bytes_per_token(),
            "kv_bytes_per_token_by_format": {
                kv: self.kv_bytes_per_token(kv) for kv in ("bf16", "fp8")
            },
            "state_bytes_per_request": self.state_bytes(),
            "mixing_bytes_per_token": theory.mixing_bytes(card),
            "formats": {}
            if checkpoint is None
            else checkpoint.model_dump(exclude={"source"}, exclude_none=True),
            "not_expressible": list(self.not_expressible),
            "notes": list(self.notes),
            "unread_keys": list(self.read.unread),
        }


def _deviation(counted: float, stated: float | None) -> float | None:
    return None if stated is None else counted / stated - 1


def import_model(
    path: str | Path, name: str | None = None, kv_context: int = KV_CONTEXT, lossy: bool = False
) -> ImportedModel:
    """Return a model card made of a `config.json`, or of the directory that holds one.

    Nothing is fetched or written; `text` is the card. Raises ScenarioError with every mistake of
    the file, and InexpressibleError for what a card cannot express unless `lossy`.
    """
    return ImportedModel(read_card(path, name, lossy), kv_context)
