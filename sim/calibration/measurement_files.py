"""Measurement files: CSVs of kernel latencies in the shared form, recognised by their columns.

Each row becomes measurements of one kernel: its op, kernel and number format as calibration
tables name them, the fixed part of its shape, and its coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sim.calibration.attention import state_layers
from sim.calibration.attention.block_files import BLOCK_FORMS
from sim.calibration.attention.part_files import PART_FORMS
from sim.calibration.framework_files import ENGINE_NAMES, FRAMEWORK_FORMS, GEMM_KERNELS
from sim.calibration.measurements import (
    DTYPES,
    EVEN_LOADS,
    Fixed,
    Measurement,
    MeasurementLine,
    columns,
)
from sim.foundation.errors import CalibrationError
from sim.foundation.reading import lines
from sim.inputs.csv_columns import NO_ROW, records
from sim.kernels import cores, served

_COLLECTIVES = {
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "all_reduce": "all_reduce",
    "all_reduce_intranode": "all_reduce",
    "all_reduce_internode": "all_reduce_internode",
    "alltoall": "all_to_all",
    "send_recv_intranode": "scale_up",
    "send_recv_internode": "nic",
}


def _gemm(row: MeasurementLine) -> Iterator[Measurement]:
    label = row.one_of("dtype", GEMM_KERNELS)
    kernel = row.values.get("kernel") or GEMM_KERNELS[label]
    at = tuple((name, float(row.count(name))) for name in ("m", "n", "k"))
    yield row.measurement("gemm", kernel, dtype=DTYPES[label], label=label, fixed=(), at=at)


def _attention(row: MeasurementLine, op: str, sizes: tuple[str, ...]) -> Iterator[Measurement]:
    label = row.one_of("kv_dtype", DTYPES)
    yield row.measurement(
        op,
        row.values.get("kernel") or served.FASTEST,
        dtype=DTYPES[label],
        label=label,
        fixed=tuple((name, float(row.count(name))) for name in sizes),
        at=tuple((name, float(row.count(name))) for name in ("batch", "kv_len")),
        regime=row.values.get("regime", ""),
    )


def _mla_module(row: MeasurementLine) -> Iterator[Measurement]:
    label = row.one_of("gemm_dtype", DTYPES)
    kv = DTYPES[row.one_of("kv_dtype", DTYPES)]
    engine = row.text("source").removeprefix("aic:").partition("/")[0]
    yield row.measurement(
        "mla_module",
        engine,
        dtype=DTYPES[label],
        label=label,
        fixed=(("n_q_heads", float(row.count("n_q_heads"))), ("kv_dtype", kv)),
        at=tuple((name, float(row.count(name))) for name in ("batch", "kv_len")),
        regime=f"kv {row.text('kv_dtype')}",
    )


# Hidden size and experts of DeepSeek-V3, which SGLang routes to 4 of 8 expert groups: its even
# load touches half of the experts. (Its points are up to 1.7 times faster than reading all.)
_GROUP_LIMITED = (7168, 256)


def _moe(row: MeasurementLine) -> Iterator[Measurement]:
    kind = row.one_of("kind", ("fused_moe", "deepep_ll_masked", "trtllm_wideep"))
    label = row.one_of("dtype", DTYPES)
    load, kernel = row.text("distribution"), row.text("kernel")
    counts = ("hidden", "inter", "topk", "num_experts", "num_slots", "tp", "ep", "global_tokens")
    hidden, inter, topk, experts, slots, tp, ep, tokens = (row.count(name) for name in counts)
    local = slots / ep
    shape: dict[str, Any] = {"dtype": DTYPES[label], "label": label, "regime": load}
    shape["measured_kernel"] = kernel
    kernel = ENGINE_NAMES.get(kernel, kernel)
    fixed: Fixed = (("hidden", float(hidden)),)
    if kind == "deepep_ll_masked" and load in EVEN_LOADS:
        pairs = float(row.count("tokens_per_rank") * topk)
        active = min(local, pairs)
        at = (("rows", pairs / active), ("active", active), ("experts", local))
        fixed = (*fixed, ("intermediate", inter / tp))
        yield row.measurement("moe", served.MASKED, fixed=fixed, at=at, **shape)
        return
    if kind == "deepep_ll_masked":
        # The hottest rank of a drawn load: the hot-expert model times it on the even kernel.
        at = (("tokens", float(tokens)), ("ep", float(ep)), ("experts", float(experts)))
        fixed = (*fixed, ("intermediate", inter / tp), ("topk", float(topk)), ("load", load))
        yield row.measurement("moe_hottest", served.MASKED, fixed=fixed, at=at, **shape)
        return
    pairs = max(tokens * topk / ep, 1.0)
    if kind == "trtllm_wideep":
        if load.endswith("_eplb"):
            # EPLB evens out the ranks: what the kernel takes under an even load.
            at = (("rows", pairs / local), ("experts", local), ("intermediate", inter / tp))
            yield row.measurement("moe", served.TRTLLM_WIDE_EP, fixed=fixed, at=at, **shape)
        pairs = float(row.count("rank0_tokens"))
    loads = [] if load in EVEN_LOADS else [load]
    if kernel.startswith("sglang") and (hidden, experts) == _GROUP_LIMITED:
        loads.append("grouped")
    name = "/".join([kernel, *loads])
    at = (("rows", pairs / local), ("experts", local), ("intermediate", inter / tp))
    yield row.measurement("moe", name, fixed=fixed, at=at, **shape)


def _grouped_gemm(row: MeasurementLine) -> Iterator[Measurement]:
    label = row.one_of("dtype", DTYPES)
    layout = row.one_of("layout", ("masked", "contiguous"))
    kernel = row.values.get("kernel") or layout
    fixed = tuple((name, float(row.count(name))) for name in ("n", "k"))
    at = (("rows", float(row.count("m_per_group"))), ("groups", float(row.count("groups"))))
    yield row.measurement(
        "grouped_gemm", kernel, dtype=DTYPES[label], label=label, fixed=fixed, at=at
    )


def _a2a(row: MeasurementLine) -> Iterator[Measurement]:
    mode, nodes = row.text("mode"), row.values["nodes"].strip()
    kernel = mode
    if mode.startswith("deepep_ll"):
        kernel = "deepep_ll_rdma" if nodes not in ("", "0", "1") else "deepep_ll"
        if kernel == "deepep_ll" and row.text("gpu") == "hopper_unverified":
            kernel = "deepep_ll/hopper_unverified"
    experts = row.count("num_experts") if row.values["num_experts"].strip() else 256
    fixed = tuple((name, float(row.count(name))) for name in ("hidden", "topk"))
    at = (
        ("tokens", float(row.count("tokens_per_rank"))),
        ("ep", float(row.count("ep"))),
        ("experts", float(experts)),
    )
    for direction, bits in (("dispatch", "dispatch_dtype"), ("combine", "combine_dtype")):
        label = row.text(bits)
        dtype = DTYPES.get(label, label)
        yield row.measurement(
            f"a2a_{direction}",
            kernel,
            f"{direction}_us",
            dtype=dtype,
            label=label,
            fixed=fixed,
            at=at,
            regime="one node" if nodes in ("", "0", "1") else "multi-node",
            measured_kernel=mode,
        )


def _collective(row: MeasurementLine) -> Iterator[Measurement]:
    label = row.one_of("dtype", DTYPES)
    name = _COLLECTIVES[row.one_of("op", _COLLECTIVES)]
    impl = row.text("impl")
    peers = name in ("scale_up", "nic")
    at = (("bytes", float(row.count("bytes"))), ("gpus", float(row.count("num_gpus", 2))))
    yield row.measurement(
        "p2p" if peers else "collective",
        "nccl" if peers else impl,
        dtype=DTYPES[label],
        label=label,
        fixed=(("name", name),),
        at=at[:1] if peers else at,
        regime=row.text("op") + f" on {row.count('num_gpus', 2)}",
        measured_kernel=impl,
    )


def _p2p(row: MeasurementLine) -> Iterator[Measurement]:
    if not row.values["bytes"].strip():
        return  # a round trip of a size that its source does not state
    kind, medium = row.text("kind"), "scale_up" if row.text("link") == "NVLink" else "nic"
    yield row.measurement(
        "p2p",
        "nccl" if kind == "nccl_send_recv" else kind,
        dtype="bf16",
        fixed=(("name", medium),),
        at=(("bytes", float(row.count("bytes"))),),
        regime=row.text("link"),
        measured_kernel=kind,
    )


# Columns of each form of file and the reader of its rows. Other columns may stand beside them.
FORMS: dict[tuple[str, ...], Callable[[MeasurementLine], Iterator[Measurement]]] = {
    columns("gpu dtype m n k latency_us source"): _gemm,
    **{
        ("gpu", *sizes, *columns("kv_dtype batch kv_len latency_us source")): partial(
            _attention, op=op, sizes=sizes
        )
        for op, sizes in cores.MEASURED.items()
    },
    columns("gpu n_q_heads gemm_dtype kv_dtype batch kv_len latency_us source"): _mla_module,
    columns(
        "gpu kind dtype hidden inter topk num_experts num_slots tp ep global_tokens"
        " tokens_per_rank rank0_tokens distribution latency_us kernel source"
    ): _moe,
    columns("gpu layout groups m_per_group n k dtype latency_us source"): _grouped_gemm,
    columns(
        "gpu mode ep nodes tokens_per_rank hidden topk num_experts dispatch_dtype combine_dtype"
        " dispatch_us combine_us source"
    ): _a2a,
    columns("gpu impl op dtype num_gpus bytes latency_us source"): _collective,
    columns("kind gpu link bytes latency_us stat source"): _p2p,
    state_layers.COLUMNS: state_layers.measurement,
    **FRAMEWORK_FORMS,
    **BLOCK_FORMS,
    **PART_FORMS,
}


def read(path: Path) -> list[Measurement]:
    """Return the measurements in the file at `path`; lines that start with # are comments.

    Raises CalibrationError with file and line for a file that is empty, lacks a column or holds
    a value that cannot be.
    """
    rows = records(lines(path, error=CalibrationError))
    number, columns = next(rows, (1, []))
    if columns is None:
        raise CalibrationError(f"{path}:{number}: {NO_ROW}")
    first = next(rows, None)
    if first is None:
        raise CalibrationError(f"{path}:{number}: the file holds no measurements")
    header = [name.strip() for name in columns]
    parse = _form(header, f"{path}:{number}")
    found: list[Measurement] = []
    for number, record in chain([first], rows):
        row = MeasurementLine(str(path), number, dict(zip(header, record or (), strict=False)))
        if record is None:
            raise row.wrong(NO_ROW)
        if len(record) != len(header):
            raise row.wrong(f"should have {len(header)} columns (got {len(record)})")
        found.extend(parse(row))
    return state_layers.whole(found)


def read_all(paths: Iterable[Path]) -> list[Measurement]:
    return [one for path in paths for one in read(path)]


def _form(header: list[str], place: str) -> Callable[[MeasurementLine], Iterator[Measurement]]:
    """Return the reader of the form whose columns `header` has."""
    matches = [columns for columns in FORMS if set(columns) <= set(header)]
    if matches:
        return FORMS[max(matches, key=len)]
    nearest = max(FORMS, key=lambda columns: len(set(columns) & set(header)) / len(columns))
    missing = [name for name in nearest if name not in header]
    hints = [
        f"{name} is in another unit: write µs in {want}"
        for want in missing
        for name in header
        if want.endswith("_us") and name.rpartition("_")[0] == want.removesuffix("_us")
    ]
    raise CalibrationError(
        f"{place}: missing column {', '.join(missing)}" + "".join(f"; {hint}" for hint in hints)
    )
