"""Attention kinds: what a layer projects, keeps of its context and computes for a decoded token.

A new kind is a subclass of `AttentionKind` and a member of `Attention`. Its core is named by an
operation in `sim/kernels/cores.py`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from sim.inputs.attention.compressed import CompressedAttention
from sim.inputs.attention.kind import AttentionCore, AttentionKind, Projection, Width, Window
from sim.inputs.attention.latent import Dsa, Mla
from sim.inputs.attention.recurrent import GatedDelta, KimiDelta, LinearAttention, Mamba2
from sim.inputs.attention.softmax import BlockSparseGqa, Gqa, Mfa

__all__ = [
    "Attention",
    "AttentionCore",
    "AttentionKind",
    "BlockSparseGqa",
    "CompressedAttention",
    "Dsa",
    "GatedDelta",
    "Gqa",
    "KimiDelta",
    "LinearAttention",
    "Mamba2",
    "Mfa",
    "Mla",
    "Projection",
    "Width",
    "Window",
]

Attention = Annotated[
    Gqa
    | Mfa
    | Mla
    | LinearAttention
    | Dsa
    | CompressedAttention
    | BlockSparseGqa
    | GatedDelta
    | KimiDelta
    | Mamba2,
    Field(discriminator="kind"),
]
