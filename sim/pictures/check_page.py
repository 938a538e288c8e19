"""Pictures of a calibration: modelled against measured, and measurements on the roofline."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from sim.calibration.check import TableCheck
from sim.kernels.ops import Floats
from sim.pictures import page as pages
from sim.pictures.looks import look
from sim.results.files import replace_file

_BAND = 0.10
_HEIGHT = 460


def write(comparisons: Sequence[TableCheck], path: Path) -> None:
    """Write one self-contained page: two pictures per card and operation, that opens offline.

    One is modelled against measured time in log-log with a ±10 % band, the other measured time
    against the time at the card's physical peak; the diagonal is the roofline. Raises StoreError
    if it cannot be written.
    """
    known = [one for one in comparisons if one.mape is not None]
    figures: dict[str, Any] = {}
    places = []
    for number, place in enumerate(sorted({(one.gpu, one.op) for one in known}), start=1):
        members = [one for one in known if (one.gpu, one.op) == place]
        drawn = {f"fit-{number}": _fit(members), f"roofline-{number}": _roofline(members)}
        figures |= {name: json.loads(figure.to_json()) for name, figure in drawn.items()}
        places.append({"title": " ".join(place), "figures": list(drawn)})
    page = pages.rendered(
        "check.html",
        bundle="basic",
        title="Calibration: tables against measurements",
        summary=f"{len(known)} of {len(comparisons)} tables have measurements beside them.",
        places=places,
        height=_HEIGHT,
        figures=figures,
    )
    replace_file(path, lambda part: part.write_text(page, encoding="utf-8"))


def _fit(members: Sequence[TableCheck]) -> go.Figure:
    figure = go.Figure()
    for number, (one, name) in enumerate(zip(members, _labels(members), strict=True)):
        figure.add_trace(_points(one.measured_us, one.modelled_us, name, number))
    ends = _ends([one.measured_us for one in members])
    for factor, dash in ((1.0, "solid"), (1 + _BAND, "dot"), (1 - _BAND, "dot")):
        figure.add_trace(_line(ends, factor, dash))
    return _laid_out(figure, "modelled against measured", "measured, µs", "modelled, µs")


def _roofline(members: Sequence[TableCheck]) -> go.Figure:
    figure = go.Figure()
    for number, (one, name) in enumerate(zip(members, _labels(members), strict=True)):
        figure.add_trace(_points(one.peak_us, one.measured_us, name, number))
    figure.add_trace(_line(_ends([one.peak_us for one in members]), 1.0, "solid"))
    return _laid_out(figure, "roofline", "at physical peak, µs", "measured, µs")


def _laid_out(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    # Ticks at 1, 2 and 5: all nine digits of a decade would lie over each other.
    figure.update_xaxes(type="log", dtick="D2", exponentformat="power", title=x)
    figure.update_yaxes(type="log", dtick="D2", exponentformat="power", title=y)
    return figure.update_layout(
        title={"text": title, "font": {"size": 14}},
        template="plotly_white",
        showlegend=True,
        legend={"orientation": "h", "y": -0.2, "yanchor": "top", "x": 0},
        modebar={"orientation": "v"},  # beside the plot, or it would cover the title
        margin={"l": 60, "r": 40, "t": 40, "b": 40},
    )


def _labels(members: Sequence[TableCheck]) -> list[str]:
    """Return what each is called in a legend, with its file where another is called the same."""
    told = [
        " ".join(filter(None, (one.dtype, one.kernel, one.regime))) or one.op for one in members
    ]
    return [
        html.escape(f"{name} ({one.file})" if told.count(name) > 1 else name)
        for one, name in zip(members, told, strict=True)
    ]


def _points(x: Floats, y: Floats, name: str, number: int) -> go.Scatter:
    marker = {**look(number)[0], "size": 5, "opacity": 0.8}
    return go.Scatter(x=x, y=y, mode="markers", name=name, marker=marker, text=name)


def _line(x: Floats, factor: float, dash: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=x * factor,
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        line={"color": "grey", "width": 1, "dash": dash},
    )


def _ends(parts: Sequence[Floats]) -> Floats:
    values = np.concatenate(parts)
    values = values[np.isfinite(values) & (values > 0)]
    return np.array([values.min(), values.max()]) if len(values) else np.array([1.0, 10.0])
