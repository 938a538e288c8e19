"""Hardware cards: an accelerator in its node, and the fabric that joins accelerators.

Every figure is written as `{value, source}`; a card without a source for a figure is refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from sim.foundation.errors import ScenarioError
from sim.foundation.units import DType
from sim.inputs.base import Strict
from sim.inputs.naming import Name
from sim.inputs.sourced import (
    FlopsPerS,
    Latency,
    LinkBytesPerS,
    MemoryBytes,
    MemoryBytesPerS,
    Multiprocessors,
    Share,
    TileRows,
    UsdPerHour,
)


class ServerCard(Strict):
    """One server: its accelerators, the link between them and its NICs."""

    gpus: Annotated[int, Field(ge=1, le=1024)]
    """Accelerators in one server."""
    scale_up_domain_gpus: Annotated[int, Field(ge=1, le=65536)]
    """Accelerators that reach each other over the scale-up link (8 in an HGX box, 72 in NVL72,
    768 dies in a CloudMatrix384)."""
    scale_up_bytes_per_s: LinkBytesPerS
    """Scale-up bandwidth of one accelerator in one direction (NVLink, HCCS, or PCIe), B/s."""
    in_network_collectives: bool
    """Whether the switch multicasts and reduces (NVLink SHARP): an all-gather then loads only the
    receiving direction of the link and a reduce-scatter only the sending one. Without it either
    loads both, and the two take turns."""
    nics: Annotated[int, Field(ge=1, le=1024)] | None = None
    """NICs of the server for the scale-out network; absent where the source names none."""
    nic_bytes_per_s: LinkBytesPerS | None = None
    """Line rate of one NIC in one direction, B/s."""
    source: str
    """Where the server's shape was read."""

    def nic_bytes_per_s_per_gpu(self) -> float | None:
        """Return the NIC line rate that falls to one accelerator, B/s; None without NICs."""
        if self.nics is None or self.nic_bytes_per_s is None:
            return None
        return self.nics * self.nic_bytes_per_s / self.gpus


def _with_bf16(peaks: dict[DType, FlopsPerS]) -> dict[DType, FlopsPerS]:
    """Check that BF16 has a peak, in which formats without one of their own are computed."""
    if "bf16" not in peaks:
        raise ValueError("bf16: missing; add this key")
    return peaks


class Accelerator(Strict):
    """One accelerator card: data-sheet peaks, price, kernel granularity, and its node."""

    kind: Literal["accelerator"]
    name: Name
    """Name of the card, and of its file."""
    vendor: str
    """Who makes it."""
    architecture: str
    """Generation of its compute units."""
    usd_per_hour: UsdPerHour | None = None
    """Rent of one card, USD per hour, unless a scenario states a price; without either no costs."""
    flops_per_s: Annotated[dict[DType, FlopsPerS], AfterValidator(_with_bf16)]
    """Dense peak per number format, FLOP/s (2 per multiply-add)."""
    hbm_bytes_per_s: MemoryBytesPerS
    """Bandwidth of the device memory, B/s."""
    hbm_bytes: MemoryBytes
    """Memory that the device reports (nvidia-smi), bytes; not the gigabytes of its data sheet."""
    sms: Multiprocessors | None = None
    """Streaming multiprocessors; absent: nothing can take some of them."""
    query_tile_rows: TileRows
    """Rows of the tensor-core tile to which attention pads the query heads of one KV head."""
    gemm_tile_rows: TileRows
    """Rows of the tensor-core tile to which a GEMM pads M."""
    default_efficiency: Share
    """Share of the roofline that an operation without calibration rows is taken to reach."""
    node: ServerCard
    """The server that it stands in."""

    def peak_flops_per_s(self, dtype: str) -> float:
        """Return the dense peak for `dtype`, FLOP/s.

        A card without units for a narrow format computes it in BF16 (weights are widened on
        the way in), as the Step-3 report counts A800 and 910B (table 4).
        """
        flops = {str(name): float(value) for name, value in self.flops_per_s.items()}
        return flops.get(dtype, flops["bf16"])

    def memory_per_link(self) -> float:
        """Return how many times the rate of the scale-up link the memory has."""
        return float(self.hbm_bytes_per_s / self.node.scale_up_bytes_per_s)

    def without_sms(self, taken: float) -> Accelerator:
        """Return the card with the compute peaks that are left when something takes SMs.

        A memory-bound kernel keeps its bandwidth: half of the SMs saturate the memory. Raises
        ScenarioError for more than half, and for a card that does not tell its SMs.
        """
        if self.sms is None:
            raise ScenarioError(
                f"software.communication_sms takes {taken:g} SMs, and {self.name} does not tell "
                "how many it has: add `sms` to its card"
            )
        left = 1 - taken / self.sms
        if left < 1 / 2:
            raise ScenarioError(
                f"software.communication_sms takes {taken:g} of the {self.sms:g} SMs of "
                f"{self.name}: at most half of them, beyond that memory bandwidth falls as well"
            )
        peaks = {
            name: FlopsPerS(peak * left, peak.source) for name, peak in self.flops_per_s.items()
        }
        return self.model_copy(update={"flops_per_s": peaks})

    def cost_flops_per_s(self) -> float:
        """Return the peak that prices a FLOP: FP8 if the card has it, else BF16 (table 5)."""
        return self.peak_flops_per_s("fp8")

    def usd_per_flop(self) -> float | None:
        price = self.usd_per_hour
        return None if price is None else price / 3600 / self.cost_flops_per_s()

    def usd_per_byte(self) -> float | None:
        price = self.usd_per_hour
        return None if price is None else price / 3600 / self.hbm_bytes_per_s


class Fabric(Strict):
    """What carries transfers between accelerators, as one sees it: α + bytes / goodput."""

    kind: Literal["fabric"]
    name: Name
    """Name of the card, and of its file."""
    medium: Literal["nic", "scale_up"]
    """nic: the scale-out network between servers; scale_up: the link inside one scale-up domain."""
    latency_us: Latency
    """Propagation and software latency of one message, from last byte out to usable, µs."""
    goodput: Share
    """Share of the line rate, of a NIC or of the scale-up link one way, that payload reaches."""
