"""Part files: single kernels of attention blocks that a framework also runs whole.

No run looks them up, as blocks contain them; they tell how well the roofline of a core holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sim.calibration.measurements import DTYPES, Measurement, MeasurementLine, columns
from sim.kernels import cores

# Index heads and their width; width of an entry, its rotary part and window: DeepSeek-V4's.
_INDEX = (64.0, 128.0)
_ENTRIES = (512.0, 64.0, 128.0)


def _part(row: MeasurementLine) -> Iterator[Measurement]:
    """Read the core of HCA and the scores of CSA's indexer; parts of other models are not."""
    name, ratio = row.text("op"), float(row.count("compress_ratio"))
    sizes: tuple[float, ...]
    if name == "dsv4_hca_attn":
        op, sizes = "attention_hca", (float(row.count("n_q_heads")), *_ENTRIES, ratio)
    elif name == "dsv4_paged_mqa_logits":
        op, sizes = "index_logits", (*_INDEX, ratio)
    else:
        return
    kv = row.one_of("kv_dtype", DTYPES)
    yield row.measurement(
        op,
        f"{row.text('framework')}_alone",
        dtype=DTYPES[kv],
        label=kv,
        fixed=tuple(zip(cores.CORES[op].sizes, sizes, strict=True)),
        at=tuple((axis, float(row.count(axis))) for axis in ("batch", "kv_len")),
        regime="alone",
    )


PART_FORMS: dict[tuple[str, ...], Callable[[MeasurementLine], Iterator[Measurement]]] = {
    columns(
        "gpu op model n_q_heads compress_ratio kv_dtype batch kv_len latency_us framework kernel"
        " source"
    ): _part,
}
