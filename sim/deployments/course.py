"""Course: the layers of a model as a step goes through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from sim.foundation.identity import kept_by_identity
from sim.inputs.model import Layer, ModelCard
from sim.inputs.speculation import Speculation


class Pass(NamedTuple):
    """A layer as a step goes through it."""

    layer: Layer
    positions: int = 1
    """Tokens of each request that go through it at once."""
    drafts_after: int = 0
    """Tokens of each request whose LM head comes before it: the layer drafts. 0: it does not."""


class Course(NamedTuple):
    """What a step goes through, in order, the last LM head left out."""

    passes: tuple[Pass, ...]
    """A drafting layer comes last, and several times."""
    kinds: tuple[Pass, ...]
    """Those that differ, in order of their first."""
    sequence: tuple[int, ...]
    """Places in `kinds` of `passes`."""
    uses: Mapping[Pass, int]
    """How often a step goes through each kind."""


@kept_by_identity
def course(model: ModelCard, speculation: Speculation | None) -> Course:
    """Return the course of a step of `model`."""
    through = passes(model, speculation)
    kinds = tuple(dict.fromkeys(through))
    number = {kind: place for place, kind in enumerate(kinds)}
    sequence = tuple(number[each] for each in through)
    return Course(through, kinds, sequence, Counter(through))


def passes(model: ModelCard, speculation: Speculation | None) -> tuple[Pass, ...]:
    """Return what a step of `model` goes through, in order, the last LM head left out.

    The drafting layer runs once a draft. The first time it takes all tokens that the model has
    verified, for their KV; after that one token, the draft before.
    """
    if speculation is None:
        return tuple(Pass(layer) for layer in model.layer_sequence)
    verified, drafting = speculation.positions, speculation.draft_layer
    through = [Pass(layer, verified) for layer in model.layer_sequence]
    if drafting is not None:
        through.append(Pass(drafting, verified, drafts_after=verified))
        through += [Pass(drafting, drafts_after=1)] * (speculation.drafts - 1)
    return tuple(through)
