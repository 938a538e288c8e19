"""The verb that lists what can be run: scenarios, sweeps and studies."""

from __future__ import annotations

from sim.cli.text import AsJson, Table, show, width
from sim.foundation import json_text
from sim.foundation.printable import excerpt

# Names of a cell, and characters of a description: a line each on a usual terminal.
_NAMES = 2
_FEWEST = 20
_BETWEEN = 3


def scenarios(as_json: AsJson = False) -> None:
    """List scenarios, sweeps and studies, those of the working directory first.

    Example: afdsim scenarios
    """
    from sim.inputs.documents.listed import listed

    found = listed()
    if as_json:
        plain = [each._asdict() for each in found]
        print(json_text.dumps(plain, indent=2, ensure_ascii=False))
        return
    heads = ["own", "name", "kind", "model", "cards"]
    rows = [
        ("*" if each.own else "", each.name, each.kind, _some(each.models), _some(each.cards))
        for each in found
    ]
    taken = sum(max(map(len, column)) + _BETWEEN for column in zip(heads, *rows, strict=True))
    shown = Table([*heads, "what it is"])
    for each, row in zip(found, rows, strict=True):
        shown.add_row(*row, excerpt(each.description, max(width() - taken - _BETWEEN, _FEWEST)))
    shown.leave_out("own")
    show(shown, "afdsim run NAME, afdsim sweep NAME, afdsim study NAME; *: of this directory")


def _some(names: tuple[str, ...]) -> str:
    more = [f"{len(names) - _NAMES} more"] if len(names) > _NAMES else []
    return ", ".join([*names[:_NAMES], *more])
