"""What a published checkpoint brings besides shapes: formats by part, and encoders."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.foundation.units import DTYPE_BYTES, DType, WeightFormat
from sim.inputs.base import Strict


class Checkpoint(Strict):
    """Formats in which a published checkpoint stores the parts of a model.

    They are no default: a scenario's `precision` says what runs, and `afdsim new NAME --model CARD`
    writes these there.
    """

    attention: WeightFormat
    """Format of projections."""
    o_proj: WeightFormat
    """Format of output projections."""
    dense: WeightFormat
    """Format of dense FFNs and shared experts."""
    experts: WeightFormat | None = None
    """Format of routed experts; absent without any."""
    lm_head: DType
    """Format of embedding, router and LM head."""
    kv: Literal["fp8", "int8", "nvfp4"] | None = None
    """Format of KV that the checkpoint brings scales for; absent: none."""
    source: str
    """Where the formats were read."""

    def precision(self) -> dict[str, str]:
        """Return the formats as a scenario's `precision`; KV as the card's attention says."""
        gemm = self.experts or self.dense
        others = {
            "attention": (self.attention, gemm),
            "o_proj": (self.o_proj, self.attention),
            "dense": (self.dense, gemm),
        }
        own = {part: dtype for part, (dtype, default) in others.items() if dtype != default}
        return {"gemm": gemm, **own, "kv": "card", "lm_head": self.lm_head}


class Encoder(Strict):
    """What reads images or sound: an attention GPU holds it whole, and decoding leaves it idle."""

    parameters: Annotated[int, Field(ge=1, le=10**12)]
    """Weights, elements."""
    dtype: WeightFormat
    """Format of its weights."""
    source: str
    """Where its figures were read."""

    def bytes_held(self) -> float:
        return self.parameters * DTYPE_BYTES[self.dtype]
