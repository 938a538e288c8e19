"""State layers: cores of attention with a state, whose kernels were measured one by one.

A framework runs a convolution and the recurrence behind it, or one kernel that does both (and the
norm of the output). Where a framework has both ways, it is taken to run the one kernel; of several
versions of a kernel the last one read counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from sim.calibration.measurements import Measurement, MeasurementLine, columns

COLUMNS = columns(
    "gpu op phase kernel n_k_heads n_v_heads head_k_dim head_v_dim batch tokens_per_seq latency_us"
    " framework version source"
)
_OPS = ("gdn", "kda", "mamba2")

# States that a framework keeps in BF16; others are FP32 (time of a pass over them).
_BF16 = frozenset({("trtllm", "gdn"), ("trtllm", "mamba2")})

_CONVOLUTION, _RECURRENCE, _BOTH = "convolution", "recurrence", "both"
_PARTS = {
    "causal_conv1d": _CONVOLUTION,
    "fused_kda_decode": _BOTH,
    "kda_fused_decode": _BOTH,
}


# Kernels beside those that their framework has for any number of heads: SGLang's of 12 heads.
_NAMED = {"kda_fused_decode": "sglang_fused"}


def measurement(row: MeasurementLine) -> Iterator[Measurement]:
    """Read one kernel of a layer, which `whole` makes a layer of."""
    kind, framework, kernel = row.one_of("op", _OPS), row.text("framework"), row.text("kernel")
    starts = (part for start, part in _PARTS.items() if kernel.startswith(start))
    heads = row.count("n_v_heads")
    states = ("states", float(row.count("batch") * heads))
    yield row.measurement(
        f"attention_{kind}",
        _NAMED.get(kernel, framework),
        dtype="bf16" if (framework, kind) in _BF16 else "fp32",
        label=row.values["version"].strip(),
        fixed=tuple((name, float(row.count(name))) for name in ("head_k_dim", "head_v_dim")),
        at=(
            states,
            ("tokens_per_seq", float(row.count("tokens_per_seq"))),
            ("keys_per_value", row.count("n_k_heads") / heads),
            ("value_heads", float(heads)),
        ),
        regime=next(starts, _RECURRENCE),
        measured_kernel=kernel,
    )


def whole(rows: Iterable[Measurement]) -> list[Measurement]:
    """Return measurements with the kernels of each layer of this form as one."""
    found, layers = [], dict[tuple[object, ...], dict[str, Measurement]]()
    for row in rows:
        if row.regime not in (_CONVOLUTION, _RECURRENCE, _BOTH):
            found.append(row)
            continue
        layer = (row.gpu, row.op, row.kernel, row.fixed, row.at)
        layers.setdefault(layer, {})[row.regime] = row
    for parts in layers.values():
        both, recurrence = parts.get(_BOTH), parts.get(_RECURRENCE)
        convolution = parts.get(_CONVOLUTION)
        if both is not None:
            found.append(both)
        elif recurrence is not None and convolution is not None:
            total_us = recurrence.latency_us + convolution.latency_us
            found.append(replace(recurrence, latency_us=total_us))
    return found
