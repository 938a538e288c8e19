"""A model's `config.json`: found, read, and asked for figures by the keys that families use.

Every figure comes back with its key. What is wrong is collected, so that all of it is told at once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sim.foundation.errors import ScenarioError
from sim.foundation.printable import excerpt, printable
from sim.foundation.reading import lines
from sim.inputs.documents.document import MOST_BYTES, Document, Loc, parse
from sim.inputs.model import MOST_LAYERS

CONFIG = "config.json"
# Mistral's name for it, with keys of its own.
PARAMS = "params.json"
# ModelOpt writes the formats of a checkpoint here, and not always into the config as well.
QUANTIZATION = "hf_quant_config.json"
_LARGEST = 10**9
_MODALITIES = 3
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
# Sizes that configs of a family leave out, as the defaults of its class in transformers.
_LEFT_OUT = {
    "gemma3_text": {
        "vocab_size": 262_208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131_072,
    },
}
# Parts of a multimodal config that are no language model, whatever keys they share with one.
_NO_TEXT = re.compile("vision|audio|visual|image|video|talker|code2wav|speech|token2wav")


class Keyed(NamedTuple):
    """A figure of a card, and the key or the reason that it comes from."""

    value: Any
    origin: str
    keys: tuple[str, ...] = ()


Fields = dict[str, Any]
"""A part of a card: figures with their keys, or such parts, by field."""


def assumed(value: Any, why: str) -> Keyed:
    """Return a figure that no key states."""
    return Keyed(value, f"not in the config: {why}")


class ConfigFile:
    """The language model's part of a config, what stands around it, and mistakes found so far."""

    def __init__(self, document: Document, quantization: Document | None = None) -> None:
        self.document = document
        self.quantization = quantization
        self.text = _language_model(document.data)
        self.problems = list(document.problems)
        self.inexpressible: list[str] = []
        self.notes: list[str] = []
        self.asked: set[str] = set()

    def at(self, key: str) -> Loc:
        """Return the place of a dotted key: in the language model's part, else around it."""
        parts = tuple(key.split("."))
        inner = (*self.text, *parts)
        return parts if self.text and self.document.get(inner) is None else inner

    def get(self, key: str) -> Any:
        """Return the value of a dotted key; None where it is absent or null."""
        self.asked.add(key)
        return self.document.get(self.at(key))

    def problem(self, key: str, message: str) -> None:
        self._add(self.document.problem(self.at(key), message))

    def _add(self, problem: str) -> None:
        if problem not in self.problems:  # layers ask for the same keys
            self.problems.append(problem)

    def cannot(self, what: str) -> None:
        """Note what a card cannot express."""
        if printable(what) not in self.inexpressible:
            self.inexpressible.append(printable(what))

    def note(self, what: str) -> None:
        if printable(what) not in self.notes:
            self.notes.append(printable(what))

    def first(self, keys: Sequence[str]) -> str | None:
        """Return the first of `keys` that has a value."""
        self.asked.update(keys)
        return next((key for key in keys if self.get(key) is not None), None)

    def whole(self, *keys: str, layer: int | None = None, least: int = 1) -> Keyed | None:
        """Return the whole number of the first key that has one; None without any.

        A list states a number for each layer, of which the one of `layer` counts; a short one
        states a number for text first (ERNIE's of text and images).
        """
        key = self.first(keys)
        if key is None:
            return self._left_out(keys)
        value = self.get(key)
        if isinstance(value, list) and layer is not None and value:
            value = value[min(layer, len(value) - 1) if len(value) > _MODALITIES else 0]
        if isinstance(value, bool) or not isinstance(value, int):
            self.problem(key, f"should be a whole number (got {excerpt(repr(value))})")
        elif not least <= value <= _LARGEST:
            self.problem(key, f"should be from {least} to {_LARGEST:,} (got {value})")
        else:
            return Keyed(value, key, (key,))
        return Keyed(max(least, 1), key, (key,))

    def _left_out(self, keys: Sequence[str]) -> Keyed | None:
        """Return what the family's own code takes where a config leaves a key out."""
        defaults = _LEFT_OUT.get(self.model_type, {})
        value = next((defaults[key] for key in keys if key in defaults), None)
        return None if value is None else assumed(value, f"default of {self.model_type}")

    def need(self, *keys: str, layer: int | None = None, least: int = 1) -> Keyed:
        """Return the whole number of the first key that has one; without any, note the mistake."""
        found = self.whole(*keys, layer=layer, least=least)
        if found is not None:
            return found
        also = f" (or {', '.join(keys[1:])})" if keys[1:] else ""
        message = f"missing: {keys[0]}{also}; take the config.json of the model's repository"
        self._add(self.document.problem(self.text, message))
        return Keyed(1, keys[0], (keys[0],))

    def flag(self, *keys: str) -> Keyed | None:
        """Return true or false as the first key that has a value says; None without any."""
        key = self.first(keys)
        if key is None:
            return None
        value = self.get(key)
        if not isinstance(value, bool):
            self.problem(key, f"should be true or false (got {excerpt(repr(value))})")
        return Keyed(value is True, key, (key,))

    def each(self, key: str, layers: int) -> list[Any] | None:
        """Return what a list says of each layer; None without one.

        Lists may go on with layers that draft.
        """
        value = self.get(key)
        if not isinstance(value, list):
            if value is not None:
                self.problem(key, f"should be a list (got {excerpt(repr(value))})")
            return None
        if len(value) < layers:
            self.problem(key, f"has {len(value)} items for {layers} layers; give each layer one")
            return None
        return value[:layers]

    @property
    def model_type(self) -> str:
        """The family by its own name; empty without one."""
        inner = self.document.get((*self.text, "model_type"))
        found = inner or self.document.get(("model_type",))
        return found if isinstance(found, str) else ""

    def layers(self) -> int:
        """Return how many layers there are; 1 where that is a mistake."""
        found = self.need(*_LAYERS)
        if found.value > MOST_LAYERS:
            self.problem(found.origin, f"should be at most {MOST_LAYERS:,} (got {found.value:,})")
            return 1
        return int(found.value)

    def hidden(self) -> Keyed:
        return self.need(*_HIDDEN)


def open_config(path: str | Path) -> tuple[ConfigFile, str]:
    """Return the config at a path, a file or a directory that holds one, and its model's name.

    Raises ScenarioError with a remedy if there is none, or if it is not JSON.
    """
    place = Path(path)
    try:
        is_folder = place.is_dir()
    except (OSError, ValueError):
        is_folder = False
    names = [name for name in (CONFIG, PARAMS) if is_folder and (place / name).is_file()]
    if is_folder and not names:
        raise ScenarioError(
            f"{excerpt(str(place), 200)}: has no {CONFIG}; give the directory of a model's "
            "repository, or the file"
        )
    file = place / names[0] if is_folder else place
    beside = file.parent / QUANTIZATION
    quantization = _read(beside) if file.name == CONFIG and beside.is_file() else None
    return ConfigFile(_read(file), quantization), _repository(file)


def _read(path: Path) -> Document:
    """Return a JSON file with the place of every value."""
    name = excerpt(str(path), 200)
    remedy = f"give a model's {CONFIG}, not its weights or tokens"
    text = "\n".join(lines(path, MOST_BYTES, ScenarioError, remedy))
    if not text.strip():
        raise ScenarioError(f"{name}: the file is empty; take it from the model's repository")
    if text.startswith("version https://git-lfs"):
        raise ScenarioError(f"{name}:1: a Git LFS pointer; fetch the file it stands for")
    if text.lstrip().startswith("<"):
        raise ScenarioError(f"{name}:1: a web page; download the raw file")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno}:{error.colno}"
        raise ScenarioError(f"{place}: not JSON: {error.msg}; compare with the source") from None
    except (RecursionError, ValueError):
        raise ScenarioError(f"{name}: nested too deep, or a number too long") from None
    if not isinstance(data, dict):
        raise ScenarioError(f"{name}:1:1: should be an object with a model's figures")
    # JSON is YAML but for tabs, which stand between values alone.
    return parse(text.replace("\t", " "), name)


def _language_model(data: Any, at: Loc = ()) -> Loc:
    """Return the place of the language model: the outermost part with layers and a width."""
    if any(key in data for key in _LAYERS) and any(key in data for key in _HIDDEN):
        return at
    inside = [
        _language_model(value, (*at, key))
        for key, value in data.items()
        if isinstance(value, dict) and len(at) < 3 and not _NO_TEXT.search(key)
    ]
    return next((found for found in inside if found), ())


def _repository(file: Path) -> str:
    """Return the model that a file is of, as far as its path tells: OWNER/NAME, or NAME."""
    resolved = file.absolute()
    if file.name not in (CONFIG, PARAMS):
        return file.stem.removesuffix("_config").replace("--", "/", 1)
    for folder in resolved.parents:  # models--OWNER--NAME/snapshots/COMMIT/config.json
        if folder.name.startswith("models--"):
            return folder.name.removeprefix("models--").replace("--", "/", 1)
    return resolved.parent.name.replace("--", "/", 1)
