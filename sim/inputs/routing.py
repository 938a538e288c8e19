"""Routing: how tokens choose experts, and where the experts lie (schema and laws).

By itself a routing gives an expected load (`sim/kernels/hottest_rank.py`). With `per_step` the
tokens of every expert are drawn in each layer and step (`sim/variation/expert_loads.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from sim.foundation.errors import ScenarioError
from sim.foundation.printable import excerpt
from sim.inputs import csv_columns
from sim.inputs.base import Strict

Floats = NDArray[np.float64]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Groups(Strict):
    """Group-limited routing: the experts of a token lie in a few groups, about one a node."""

    count: PositiveInt
    """Groups of experts (8 in DeepSeek-V3)."""
    chosen: PositiveInt
    """Groups that a token chooses (4 in DeepSeek-V3)."""

    @model_validator(mode="after")
    def _check(self) -> Groups:
        if self.chosen > self.count:
            raise ValueError(f"chosen {self.chosen} exceeds count {self.count}")
        return self


class Drift(Strict):
    """How popularities move from expert to expert while the workload changes."""

    every_steps: PositiveInt
    """Steps after which some experts of each layer change places in popularity."""
    share: Share
    """Share of the experts that change places."""


class Contiguous(Strict):
    """Experts in numerical order, equally many on each rank; the first get the replicas."""

    kind: Literal["contiguous"]


class RoundRobin(Strict):
    """Expert i on rank i modulo the number of ranks; the first experts get the replicas."""

    kind: Literal["round_robin"]


class EplbPlacement(Strict):
    """DeepSeek's expert-parallel load balancer: replicas of hot experts, packed evenly.

    A run starts balanced, as by a window before its first step. A rank that receives an expert
    loads the weights over the network before it continues.
    """

    kind: Literal["eplb"]
    every_steps: PositiveInt
    """Steps from one rebalancing to the next."""
    window_steps: PositiveInt
    """Steps before a rebalancing whose loads are added up."""
    hierarchical: bool
    """Whether expert groups stay on one node; where they do not divide over the nodes, replicas
    are packed on all ranks at once."""


Placement = Annotated[Contiguous | RoundRobin | EplbPlacement, Field(discriminator="kind")]


class PerStep(Strict):
    """Expert loads drawn in each layer, step and micro-batch instead of expected."""

    placement: Placement
    """Which rank holds which expert."""
    groups: Groups | None = None
    """Group-limited routing; absent: a token chooses among all experts."""
    drift: Drift | None = None
    """Changing popularities; absent: they stay."""


class Drawable(Strict):
    """What every kind of routing has."""

    per_step: PerStep | None = None
    """Draw loads step by step; absent: the expected load of the hottest rank, in every step."""

    def check(self, experts: Mapping[int, int]) -> None:
        """Refuse what does not fit a model; `experts` are those of each layer, by its number.

        Raises ScenarioError.
        """


class Balanced(Drawable):
    """Every expert gets the same number of tokens, as in profiles with simulated routing."""

    kind: Literal["balanced"]
    experts: PositiveInt | None = None
    """Experts that get tokens, equally many on each rank; absent: all. The others are held and not
    read (afd-plugin's `force_load_balance_topn_per_rank`)."""

    def check(self, experts: Mapping[int, int]) -> None:
        chosen = self.experts
        if chosen is None:
            return
        fewest = min(experts.values(), default=chosen)
        if chosen > fewest:
            raise ScenarioError(f"routing.experts {chosen} exceeds the {fewest} experts of a layer")
        if self.per_step is not None:
            raise ScenarioError(
                "routing.experts: which experts get tokens is not drawn step by step; leave "
                "per_step out"
            )

    def load(self) -> str:
        return "balanced"


class UniformRouting(Drawable):
    """Every token picks experts at random, all equally likely; loads differ by chance alone."""

    kind: Literal["uniform"]

    def load(self) -> str:
        return "uniform"


class Popularities(Drawable):
    """A law by which some experts are more popular than others."""

    eplb: bool = False
    """Whether EPLB gave replicas and places to the experts by these popularities. Then the
    expected load is what whole slots of a rank cannot even out, and chance; otherwise experts lie
    in order. With `per_step` its placement says so."""

    @model_validator(mode="after")
    def _check(self) -> Popularities:
        if self.eplb and self.per_step is not None:
            raise ValueError("eplb is of the expected load: with per_step, write its placement")
        return self

    def placed(self) -> str:
        """Return the end of the name of a load, by who placed the experts."""
        return "_eplb" if self.eplb else ""


class PowerLaw(Popularities):
    """Popularities of experts drawn from a truncated power law."""

    kind: Literal["power_law"]
    alpha: Positive
    """Exponent. The public kernel measurements with strong skew used 1.01."""

    def load(self) -> str:
        return f"power_law_{self.alpha:g}{self.placed()}"


class DirichletRouting(Popularities):
    """Popularities of experts drawn from a symmetric Dirichlet law."""

    kind: Literal["dirichlet"]
    concentration: Positive
    """Large: nearly even (coefficient of variation 1/√concentration); below 1: few hot experts."""

    def load(self) -> str:
        return f"dirichlet_{self.concentration:g}{self.placed()}"


class MeasuredRouting(Drawable):
    """Popularities measured in a served model.

    Needs `per_step`. The static order and the bound engine, which need a load before any is drawn,
    assume uniform routing.
    """

    kind: Literal["measured"]
    path: str
    """CSV file from the working directory with the columns layer (of the model, from 0), expert and
    share, and optionally step: the first step at which the row holds. Popularities of a file with
    several steps drift."""
    source: Annotated[str, Field(min_length=3)]
    """Where the shares were measured."""

    @model_validator(mode="after")
    def _check(self) -> MeasuredRouting:
        if self.per_step is None:
            raise ValueError("measured shares are drawn step by step: add per_step")
        return self

    def load(self) -> str:
        return "uniform"

    def check(self, experts: Mapping[int, int]) -> None:
        """Refuse a file that does not fit the model, of which `experts` are those of each layer.

        Raises ScenarioError with every mistake.
        """
        problems = []
        for step, profile in read_profiles(self.path).items():
            named = {layer for (layer, _), share in profile.items() if share > 0}
            at = f"{self.path}: step {step}: " if step else f"{self.path}: "
            problems += [
                f"{at}layer {layer} is none of the model's layers of experts, "
                f"{min(experts)} to {max(experts)}"
                for layer in sorted({layer for layer, _ in profile} - set(experts))
            ]
            problems += [
                f"{at}layer {layer} has an expert {expert}; the model's are 0 to "
                f"{experts[layer] - 1}"
                for layer, expert in profile
                if layer in experts and expert >= experts[layer]
            ]
            problems += [
                f"{at}no expert of layer {layer} has a share"
                for layer in experts
                if layer not in named
            ]
        csv_columns.raise_any(self.path, problems)

    def shares(self, layers: Sequence[int], experts: int) -> dict[int, Floats]:
        """Return the share of each expert in some layers (layers × experts), by first step.

        Raises ScenarioError if the file has no expert of a layer, or one that the model lacks.
        """
        rows = {layer: row for row, layer in enumerate(layers)}
        found = {}
        for step, profile in sorted(read_profiles(self.path).items()):
            shares = found[step] = np.zeros((len(layers), experts))
            for (layer, expert), share in profile.items():
                if expert >= experts:
                    raise ScenarioError(
                        f"{self.path}: layer {layer} has an expert {expert}; the model's are 0 "
                        f"to {experts - 1}"
                    )
                if layer in rows:
                    shares[rows[layer], expert] = share
            total = shares.sum(axis=1, keepdims=True)
            if not total.all():
                layer = layers[int(np.argmin(total))]
                raise ScenarioError(f"{self.path}: no expert of layer {layer} has a share")
            shares /= total
        return found


Routing = Annotated[
    Balanced | UniformRouting | PowerLaw | DirichletRouting | MeasuredRouting,
    Field(discriminator="kind"),
]


Profiles = dict[int, dict[tuple[int, int], float]]


def read_profiles(path: str) -> Profiles:
    """Return the shares in a CSV file by (layer, expert), by the step from which they hold.

    Raises ScenarioError naming every bad line.
    """
    profiles: Profiles = {}
    problems: list[str] = []
    for place, row in csv_columns.rows(path, ("layer", "expert", "share"), problems):
        layer, expert, step = (
            csv_columns.whole(text)
            for text in (row["layer"], row["expert"], row.get("step") or "0")
        )
        share = csv_columns.number(row["share"])
        if layer is None or expert is None or step is None or math.isnan(share):
            got = excerpt(", ".join(row.values()))
            problems.append(f"{place}: should be whole numbers and a share (got {got})")
            continue
        profile = profiles.setdefault(step, {})
        if min(layer, expert, step, share) < 0:
            problems.append(f"{place}: nothing may be negative")
        elif (layer, expert) in profile:
            problems.append(f"{place}: layer {layer}, expert {expert} exists already")
        profile[layer, expert] = share
    if not profiles and not problems:
        problems.append(f"{path}:2: the file has no rows")
    csv_columns.raise_any(path, problems)
    return profiles
