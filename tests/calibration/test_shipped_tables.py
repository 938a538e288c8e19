"""No shipped table beats its card's peak or gets faster with more work, anywhere in its domain."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.calibration import families
from sim.calibration.families import MeasuredKernel
from sim.calibration.measurements import Fixed
from sim.inputs import cards
from sim.kernels import kernel_table, served
from sim.kernels.curve import Curve

NAMES = sorted(path.stem for path in cards.packaged(cards.CALIBRATION).glob("*.csv"))
RIPPLE = 0.02
_WHOLE = ("m", "batch", "tokens", "active")
_GIVEN = ("ep", "gpus", "experts", "n", "k", "intermediate")


@cache
def table(name: str) -> kernel_table.KernelTable:
    return kernel_table.load(cards.accelerator(name), cards.calibration(name))


def kernel_of(curve: Curve) -> MeasuredKernel:
    """Return the kernel whose shape key `curve` has."""
    size = {name: float(value) for name, value in re.findall(r"([a-z]+)([\d.]+)", curve.key)}
    fixed: Fixed = ()
    if curve.op.startswith("attention"):
        fixed = attention_of(curve.op, size)
    elif curve.op.startswith("mhc"):
        fixed = (("hidden", size["d"]), ("streams", size["s"]))
    elif curve.op in ("moe", "moe_fused_ep"):
        fixed = (("hidden", size["h"]),)
        fixed += (("intermediate", size["i"]),) if "i" in size else ()
    elif curve.op.startswith("a2a"):
        fixed = (("hidden", size["h"]), ("topk", size["k"]))
    elif curve.op == "collective":
        fixed = (("name", curve.key),)
    return MeasuredKernel(curve.op, curve.kernel, curve.dtype, fixed)


def attention_of(op: str, size: dict[str, float]) -> Fixed:
    """Return the fixed sizes of an attention's kernel."""
    if op in ("attention_gqa", "attention_block_sparse"):
        dense = (("n_q_heads", size["q"]), ("n_kv_heads", size["kv"]), ("head_dim", size["d"]))
        if op == "attention_gqa":
            return dense
        index: Fixed = (("index_heads", size["i"]), ("index_dim", 128.0))
        return (*dense, *index, ("top_k", 2048.0), ("positions", 1.0))
    if op in ("attention_gdn", "attention_kda"):
        return (("head_k_dim", size["d"]), ("head_v_dim", size["x"]))
    heads = ("n_q_heads", size["h"])
    if op in ("attention_hca", "attention_csa"):
        fixed: Fixed = (heads, ("head_dim", 512.0), ("rope", 64.0), ("window", 128.0))
        if "k" not in size:
            return (*fixed, ("ratio", 128.0))
        fixed += (("ratio", 4.0), ("index_heads", size["i"]), ("index_dim", 128.0))
        return (*fixed, ("top_k", size["k"]), ("positions", 1.0))
    latent: Fixed = (heads, ("kv_lora", 512.0), ("rope", 64.0))
    if op == "attention_mla":
        return latent
    latent += (("index_heads", size.get("i", 0.0)), ("index_dim", 128.0))
    return (*latent, ("top_k", 2048.0), ("positions", 1.0))


@st.composite
def lines(draw: st.DrawFn, name: str) -> tuple[Curve, str, dict[str, Any]]:
    """Draw a curve, an axis along which work grows, and coordinates along it."""
    curve = draw(st.sampled_from(table(name).curves))
    family = families.family(kernel_of(curve))
    axis = draw(st.sampled_from(family.rising))
    at: dict[str, Any] = {}
    for other, nodes in curve.axes:
        if other in _GIVEN:
            at[other] = np.full(120, draw(st.sampled_from(list(nodes))))
        else:
            share = draw(st.floats(0, 1.3))
            value = nodes[0] * (nodes[-1] / nodes[0]) ** share
            at[other] = np.full(120, np.ceil(value) if other in _WHOLE else value)
    nodes = dict(curve.axes)[axis]
    at[axis] = np.geomspace(nodes[0], 8 * nodes[-1], 120)
    if axis in _WHOLE:
        at[axis] = np.ceil(at[axis])
    if "active" in at:
        at["experts"] = np.maximum(at["experts"], at["active"].max())
    return curve, axis, at


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_time_keeps_the_peak_and_rises_with_work(name: str, data: st.DataObject) -> None:
    curve, axis, at = data.draw(lines(name))
    card = table(name)
    op = families.build(card.accelerator, kernel_of(curve), at)
    serving, exact = card.serving(op)
    assert serving is not None
    assert (serving.identity, exact) == (curve.identity, True)
    time_us, _ = card.time_us(op, serving)
    assert (time_us >= np.maximum(*card.peak_us(op))).all()
    dip = (np.maximum.accumulate(time_us) / time_us).max() - 1
    assert dip <= RIPPLE, (curve.identity, axis, dip)


@pytest.mark.parametrize("name", NAMES)
def test_every_curve_has_its_provenance(name: str) -> None:
    for curve in table(name).curves:
        assert curve.source
        assert curve.licence != "unstated", curve.source
        assert curve.points > 0
        assert 0 < curve.e_c <= 1
        assert 0 < curve.e_m <= 1


def test_the_tables_are_small_enough_to_ship() -> None:
    sizes = [path.stat().st_size for path in cards.packaged(cards.CALIBRATION).glob("*.csv")]
    # A million bytes are for whole attention blocks, which each engine runs in its own way.
    assert sum(sizes) < 4e6


def test_derived_links_are_marked() -> None:
    for name, like in (("h800", "h100-sxm"), ("a800", "a100-sxm")):
        links = [
            curve
            for curve in table(name).curves
            if curve.op == "collective" and curve.kernel not in (served.NVLS, served.COPY_ENGINE)
        ]
        assert links
        assert all(curve.source.startswith(f"derived from {like}") for curve in links)
