"""What every kind of attention tells: what it projects, keeps and computes for a decoded token."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, NamedTuple, Self

from pydantic import Field

from sim.foundation.units import DTYPE_BYTES
from sim.inputs.base import Strict

# Ranges that no model comes near the end of: what lies outside is a slip of the pen.
Width = Annotated[int, Field(ge=1, le=1_000_000)]
Heads = Annotated[int, Field(ge=1, le=65_536)]
Tokens = Annotated[int, Field(ge=1, le=10**9)]

Window = int | None
"""Context tokens of a request, the latest ones; None: all."""


class Projection(NamedTuple):
    """A linear layer: `groups` independent (k → n) products of the same rows."""

    n: int
    k: int
    groups: int = 1

    def weights(self) -> int:
        """Return weight elements."""
        return self.groups * self.n * self.k


class AttentionCore(NamedTuple):
    """What stands between the projections, as kernels know it."""

    op: str
    """Operation in `sim/kernels/cores.py`."""
    sizes: tuple[float, ...]
    """Its sizes, in the order of that operation."""
    window: Window = None
    """What it reads of a request's context."""


class AttentionKind(Strict):
    """What every kind of attention tells; without more, a layer keeps all of its context."""

    measured_whole: ClassVar[bool] = False
    """Whether calibration takes blocks that were measured whole, norms, rope and cache writes
    included: the core's curve then has all that the projections leave of them."""

    @abstractmethod
    def before_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the projections before the core."""

    @abstractmethod
    def after_core(self, hidden: int) -> tuple[Projection, ...]:
        """Return the projections after the core, the output's last."""

    @abstractmethod
    def core(self, positions: int) -> AttentionCore:
        """Return the core for requests of `positions` tokens that attend to one context."""

    @abstractmethod
    def core_flops(self, ctx: float) -> float:
        """Return FLOPs of the core for one decoded token, as the Step-3 report counts them."""

    @abstractmethod
    def cache_dtype(self, kv: str) -> str:
        """Return the format of what is kept; `kv` is the scenario's, or `card`."""

    @property
    @abstractmethod
    def core_heads(self) -> int:
        """Heads of the core: of queries, or of a state."""

    @abstractmethod
    def kept_elements(self) -> dict[Window, float]:
        """Return elements kept per context token, by the window that they are kept for."""

    def state_bytes(self) -> float:
        """Return bytes of constant state per request."""
        return 0.0

    def draft_state_bytes(self) -> float:
        """Return bytes of further state that each draft takes which a step verifies."""
        return 0.0

    def kept_bytes(self, kv: str) -> dict[Window, float]:
        """Return bytes kept per context token, by the window that they are kept for."""
        width = DTYPE_BYTES[self.cache_dtype(kv)]
        return {window: elements * width for window, elements in self.kept_elements().items()}

    def attended_tokens(self, ctx: float) -> float:
        """Return the context tokens that the core reads for one decoded token."""
        window = self.core(1).window
        return ctx if window is None else min(ctx, window)

    def read_bytes(self, kv: str, ctx: float) -> float:
        """Return bytes read for one decoded token, without a state."""
        return sum(self.kept_bytes(kv).values()) * self.attended_tokens(ctx)

    @abstractmethod
    def cut(self, ways: int) -> Self:
        """Return what each of `ways` GPUs has whose heads are shared out over them.

        Raises ValueError if they do not divide.
        """

    def weights(self, hidden: int) -> int:
        """Return weight elements of a layer, all projections together."""
        both = (*self.before_core(hidden), *self.after_core(hidden))
        return sum(projection.weights() for projection in both)


def share(heads: int, ways: int, what: str) -> int:
    """Return the heads of each of `ways` GPUs. Raises ValueError if they do not divide."""
    if heads % ways:
        raise ValueError(f"{heads} {what} do not divide over {ways} GPUs")
    return heads // ways
