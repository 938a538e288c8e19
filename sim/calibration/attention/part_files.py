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
# Index heads and their width, keys of a token; latent, its rotary part and what is chosen: GLM-5's.
_GLM_INDEX = (32.0, 128.0, 1.0)
_GLM_LATENT = (512.0, 64.0)
_GLM_CHOICE = (0.0, 128.0, 2048.0, 1.0)


def _part(row: MeasurementLine) -> Iterator[Measurement]:
    """Read cores and the scores of indexers; what chooses the best scores is not."""
    name, heads = row.text("op"), float(row.count("n_q_heads"))
    sizes: tuple[float, ...]
    # GLM-5's keys were scored as they lie, not through a table of pages: another kernel.
    others = (("keys", "flat"),) if name == "glm5_mqa_logits" else ()
    if name == "dsv4_hca_attn":
        op, sizes = "attention_hca", (heads, *_ENTRIES, float(row.count("compress_ratio")))
    elif name == "dsv4_paged_mqa_logits":
        op, sizes = "index_logits", (*_INDEX, float(row.count("compress_ratio")))
    elif name == "glm5_dsa_attn":
        op, sizes = "attention_dsa", (heads, *_GLM_LATENT, *_GLM_CHOICE)
    elif name == "glm5_mqa_logits":
        op, sizes = "index_logits", _GLM_INDEX
    else:
        return
    kv = row.one_of("kv_dtype", DTYPES)
    yield row.measurement(
        op,
        f"{row.text('framework')}_alone",
        dtype=DTYPES[kv],
        label=kv,
        fixed=(*zip(cores.CORES[op].sizes, sizes, strict=True), *others),
        at=tuple((axis, float(row.count(axis))) for axis in ("batch", "kv_len")),
        regime="alone",
    )


PART_FORMS: dict[tuple[str, ...], Callable[[MeasurementLine], Iterator[Measurement]]] = {
    columns(
        "gpu op model n_q_heads compress_ratio kv_dtype batch kv_len latency_us framework kernel"
        " source"
    ): _part,
}
