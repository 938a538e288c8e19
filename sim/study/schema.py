"""Studies: two sides, each at its best shape, compared in every cell of a few dimensions.

A study names two sides (say AFD and EP), each with a base scenario and axes of shapes, and
dimensions (say model, hardware and context) whose values are crossed into cells. A value says what
it sets on both sides, on one side, and which shapes it adds. In each cell each side enters with its
best shape, so that neither is judged by a shape that suits the other.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from sim.inputs.base import Strict
from sim.inputs.deployment import MOST_GPUS
from sim.inputs.naming import Label, Name
from sim.sweeps.axes import Axis
from sim.sweeps.constraints import Constraint

Settings = dict[str, Any]
"""Values by dotted path."""

Free = Literal[
    "all_gather",
    "reduce_scatter",
    "dispatch",
    "combine",
    "link",
    "a2f",
    "a2f_in",
    "f2a",
    "f2a_in",
    "answer",
]


class Built(Strict):
    """The shapes of `sim.sweeps.shapes`: all that people build of a model on its cards."""

    gpus: Annotated[int, Field(ge=1, le=MOST_GPUS)]
    """Most GPUs of a deployment."""


class OnSide(Strict):
    """What holds for one side only."""

    set: Settings = Field(default_factory=dict)
    """Values by dotted path."""
    axes: list[Axis] = Field(default_factory=list)
    """Axes of shapes, crossed with all other axes of the side."""
    constraints: list[Constraint] = Field(default_factory=list)
    """Comparisons that the shapes meet; others are left out."""
    shapes: Built | None = None
    """Shapes that people build, in place of axes of one's own; crossed with all axes."""


class Side(OnSide):
    """A way of deployment that competes."""

    base: str
    """Scenario that its shapes start from."""


class Value(Strict):
    """A value of a dimension."""

    set: Settings = Field(default_factory=dict)
    """Values by dotted path that hold for both sides."""
    sides: dict[str, OnSide] = Field(default_factory=dict)
    """What holds for one side only."""


Values = Annotated[dict[Label, Value], Field(min_length=1)]

Where = dict[str, list[str]]
"""Values by dimension; a dimension that is not named is met by all its values."""


def is_met(where: Where, place: dict[str, str]) -> bool:
    """Return whether a place has one of the values that are named of each dimension."""
    return all(place[dimension] in values for dimension, values in where.items())


class Cells(Value):
    """Some of the combinations of the dimensions' values, and what holds for these alone."""

    where: Where
    """Values by dimension; all values of a dimension that is not named."""


class MeasuredMargin(Strict):
    """A measured comparison of both sides."""

    place: Annotated[dict[Label, Label], Field(min_length=1)]
    """Its value of each dimension; where no cell has these values it stands beside the map."""
    what: str
    """What was compared, in a few words."""
    margin: Annotated[float, Field(gt=-1, le=1000)]
    """What the first side yielded more than the second, as a share."""
    source: str
    """Where it was read."""


class Shortlist(Strict):
    """How many shapes of a side are looked at more closely; all are screened by the bound."""

    probe: PositiveInt
    """Shapes, the best by the bound, that are simulated once, at the batch that the bound finds."""
    search: PositiveInt
    """Shapes, the best of those, whose largest batch is searched by simulation."""
    reconsider: PositiveInt
    """Shapes, the best by the screen, that are screened again with all that a steady state sees;
    counterfactuals choose among them."""

    @model_validator(mode="after")
    def _check(self) -> Shortlist:
        if self.probe > self.reconsider:
            raise ValueError(f"probe {self.probe} exceeds reconsider {self.reconsider}")
        if self.search > self.probe:
            raise ValueError(f"search {self.search} exceeds probe {self.probe}")
        return self


class Changed(Strict):
    """What a counterfactual changes on one side."""

    set: Settings = Field(default_factory=dict)
    """Values by dotted path."""
    free: list[Free] = Field(default_factory=list)
    """Stages and delays that take no time, as the bound engine sees it."""

    @model_validator(mode="after")
    def _check(self) -> Changed:
        if self.set and self.free:
            raise ValueError("give one of set and free (got both)")
        return self


class Counterfactual(Strict):
    """A world in which one mechanism is off: by how much the margin moves is what it matters."""

    name: Label
    """The mechanism, in a few words."""
    where: Where = Field(default_factory=dict)
    """Values by dimension to which it is confined; by default it is tried in all cells."""
    by: Literal["bound", "simulation"] = "bound"
    """bound: shapes are chosen anew by their steady states; simulation: for what these do not see,
    noise and drawn loads. The shapes that were searched are then simulated again."""
    sides: Annotated[dict[str, Changed], Field(min_length=1)]
    """What is changed on each side; a side that is not named stays as it is."""

    @model_validator(mode="after")
    def _check(self) -> Counterfactual:
        if self.by == "simulation" and any(each.free for each in self.sides.values()):
            raise ValueError("what is free is free by the bound alone: leave out by: simulation")
        return self

    def concerns(self, place: dict[str, str]) -> bool:
        """Return whether it is tried in the cell at `place`."""
        return is_met(self.where, place)


class Study(Strict):
    """A study file."""

    kind: Literal["study"]
    name: Name
    """Name of the study and of its directory of results."""
    description: str = ""
    """What the study asks."""
    set: Settings = Field(default_factory=dict)
    """Values by dotted path that hold for all shapes."""
    screen: Settings = Field(default_factory=dict)
    """Values by dotted path for the screen alone: what stands for effects that a steady state does
    not see, such as a load that a balancer has evened out."""
    screen_again: Settings | None = None
    """The same for the second screen, of the best by the first: what would take too long for all.
    Absent: as in the first."""
    sides: Annotated[dict[Label, Side], Field(min_length=2, max_length=2)]
    """The two that compete; margins are those of the first over the second."""
    dimensions: Annotated[dict[Label, Values], Field(min_length=2)]
    """Dimensions and their values by name; every combination is a cell. The last two are the lines
    and columns of the map."""
    cells: list[Cells] = Field(default_factory=list)
    """The combinations that are studied; absent: all. What several entries say of one cell holds
    together, a later one over an earlier one."""
    max_shapes: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
    """Most shapes of all cells and sides, those left out by constraints included; each is screened
    by the bound engine."""
    shortlist: Shortlist
    pairs: Annotated[int, Field(ge=3, le=10_000)]
    """Paired replications of the best shapes of a cell."""
    indifference: Annotated[float, Field(ge=0, lt=1)]
    """A margin smaller than this share is a tie, however narrow its interval: kernel times are not
    known better."""
    certainty: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    """Probability with which a side has to lead, all that is not known counted, to win a cell."""
    counterfactuals: list[Counterfactual] = Field(default_factory=list)
    """Mechanisms to switch off one at a time."""
    published: list[MeasuredMargin] = Field(default_factory=list)
    """Measured comparisons, drawn into the map."""

    @property
    def fine_screen(self) -> Settings:
        """Values for the second screen."""
        return self.screen if self.screen_again is None else self.screen_again
