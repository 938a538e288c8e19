"""Prices that a user states, in a scenario or on the command line: the rent of an accelerator."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from sim.foundation.errors import ScenarioError, SimError, did_you_mean
from sim.foundation.printable import excerpt
from sim.inputs import cards
from sim.inputs.csv_columns import number
from sim.inputs.documents.document import Document
from sim.inputs.hardware import Accelerator
from sim.inputs.sourced import UsdPerHour, plain

_LEAST, _MOST = UsdPerHour.least or 0.0, UsdPerHour.most or 0.0

Price = Annotated[float, Field(ge=_LEAST, le=_MOST)]
"""USD per hour of one accelerator."""


def wrong_names(document: Document, used: Iterable[str]) -> list[str]:
    """Return a problem for each price in a scenario's document that is of no card.

    `used` are accelerators of the scenario, which may be paths to cards.
    """
    stated = document.get(("prices",))
    if not isinstance(stated, dict):
        return []
    known = set(cards.names(cards.ACCELERATORS))
    for name in used:
        try:
            known.add(cards.accelerator(name).name)
        except SimError:
            continue  # told where it is named
    return [
        document.problem(("prices", name), f"unknown accelerator; {did_you_mean(name, known)}")
        for name in stated
        if name not in known
    ]


def read_prices(stated: Iterable[str]) -> dict[str, UsdPerHour]:
    """Return prices by the name of the card, of texts like h200-sxm=2.5; the last one holds.

    Raises ScenarioError with every unknown card and every number that is no rent.
    """
    found: dict[str, UsdPerHour] = {}
    problems = []
    for text in stated:
        name, equals, usd = (part.strip() for part in text.partition("="))
        shown = f"--price {excerpt(text)}"
        if not (name and equals):
            problems.append(f"{shown}: write CARD=USD, e.g. h200-sxm=2.5 (USD per GPU and hour)")
            continue
        try:
            found[cards.accelerator(name).name] = _price(usd)
        except ScenarioError as error:
            problems += [f"{shown}: {problem}" for problem in error.problems]
    if problems:
        raise ScenarioError(problems)
    return found


def settings(stated: Iterable[str]) -> list[str]:
    """Return the same as `--set` assignments to the `prices` of a scenario."""
    return [f"prices.{name}={float(price)!r}" for name, price in read_prices(stated).items()]


def priced(card: Accelerator, prices: dict[str, UsdPerHour]) -> Accelerator:
    """Return a card with its price of `prices`, if it has one there."""
    if card.name not in prices:
        return card
    return card.model_copy(update={"usd_per_hour": prices[card.name]})


def _price(text: str) -> UsdPerHour:
    value = number(text)
    if not _LEAST <= value <= _MOST:
        span = f"{plain(_LEAST)} to {plain(_MOST)}"
        raise ScenarioError(f"should be a number from {span} USD/h (got {excerpt(text)!r})")
    return UsdPerHour(value, "stated by the user")
