"""Pages: HTML from the templates of the package, with Plotly inside so that it opens offline."""

from __future__ import annotations

from typing import Any

import jinja2
import plotly.offline


def rendered(template: str, **values: Any) -> str:
    """Return a page; `plotly` is its script. Raises jinja2's UndefinedError for a missing value."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sim.pictures"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    plotly_script = plotly.offline.get_plotlyjs()
    return environment.get_template(template).render(plotly=plotly_script, **values)
