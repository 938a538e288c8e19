"""Pictures of a calibration: modelled against measured, and measurements on the roofline."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from sim.calibration.check import TableCheck
from sim.kernels.ops import Floats

_BAND = 0.10
_HEIGHT = 420


def write(comparisons: Sequence[TableCheck], path: Path) -> None:
    """Write one self-contained page: a row per card and operation, that opens offline.

    Left: modelled against measured time in log-log with a ±10 % band. Right: measured time
    against the time at the card's physical peak; the diagonal is the roofline.
    """
    known = [one for one in comparisons if one.mape is not None]
    rows = sorted({(one.gpu, one.op) for one in known})
    titles = [
        html.escape(f"{gpu} {op}: {what}")
        for gpu, op in rows
        for what in ("modelled, measured", "roofline")
    ]
    figure = make_subplots(
        rows=len(rows),
        cols=2,
        subplot_titles=titles,
        vertical_spacing=0.3 / max(len(rows), 1),
    )
    for number, place in enumerate(rows, start=1):
        members = [one for one in known if (one.gpu, one.op) == place]
        _measured_and_modelled(figure, number, members)
        _roofline(figure, number, members)
    figure.update_xaxes(type="log", exponentformat="power")
    figure.update_yaxes(type="log", exponentformat="power")
    figure.update_layout(
        height=_HEIGHT * max(len(rows), 1),
        template="plotly_white",
        showlegend=False,
        title="Calibration: tables against measurements",
    )
    # Without the button that uploads the figure.
    figure.write_html(path, include_plotlyjs=True, config={"showSendToCloud": False})


def _label(one: TableCheck) -> str:
    return html.escape(" ".join(part for part in (one.dtype, one.kernel, one.regime) if part))


def _points(x: Floats, y: Floats, name: str) -> go.Scattergl:
    return go.Scattergl(
        x=x, y=y, mode="markers", name=name, marker={"size": 4, "opacity": 0.6}, text=name
    )


def _line(x: Floats, factor: float, dash: str) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=x * factor,
        mode="lines",
        hoverinfo="skip",
        line={"color": "grey", "width": 1, "dash": dash},
    )


def _measured_and_modelled(figure: go.Figure, row: int, members: Sequence[TableCheck]) -> None:
    for one in members:
        figure.add_trace(_points(one.measured_us, one.modelled_us, _label(one)), row=row, col=1)
    ends = _ends([one.measured_us for one in members])
    for factor, dash in ((1.0, "solid"), (1 + _BAND, "dot"), (1 - _BAND, "dot")):
        figure.add_trace(_line(ends, factor, dash), row=row, col=1)
    figure.update_xaxes(title="measured, µs", row=row, col=1)
    figure.update_yaxes(title="modelled, µs", row=row, col=1)


def _roofline(figure: go.Figure, row: int, members: Sequence[TableCheck]) -> None:
    for one in members:
        figure.add_trace(_points(one.peak_us, one.measured_us, _label(one)), row=row, col=2)
    ends = _ends([one.peak_us for one in members])
    figure.add_trace(_line(ends, 1.0, "solid"), row=row, col=2)
    figure.update_xaxes(title="at physical peak, µs", row=row, col=2)
    figure.update_yaxes(title="measured, µs", row=row, col=2)


def _ends(parts: Sequence[Floats]) -> Floats:
    values = np.concatenate(parts)
    values = values[np.isfinite(values) & (values > 0)]
    return np.array([values.min(), values.max()]) if len(values) else np.array([1.0, 10.0])
