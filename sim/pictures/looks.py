"""Looks: colour, symbol and dash by which families are told apart."""

from __future__ import annotations

# Okabe and Ito's palette, distinct for colour-blind readers.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A0522D", "#000000")

# None of what is drawn beside families: dots of SLOs and of the front over all, crosses of
# measurements, a ring around the chosen point.
DASHES = ("solid", "dash", "longdash", "dashdot", "longdashdot")
SYMBOLS = (
    *("circle", "square", "diamond", "triangle-up", "triangle-down", "star", "hexagon"),
    *("cross", "pentagon"),
)


def look(number: int) -> tuple[dict[str, str], str]:
    """Return marker and dash of a family. Where colours begin again, dash and symbol differ."""
    marker = {
        "color": COLOURS[number % len(COLOURS)],
        "symbol": SYMBOLS[number % len(SYMBOLS)],
    }
    return marker, DASHES[number // len(COLOURS) % len(DASHES)]


def faint(colour: str, opacity: float = 0.18) -> str:
    """Return a colour of `#rrggbb` that lets what is behind it through."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"
