"""Pages: HTML from the templates of the package, with Plotly inside so that it opens offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import jinja2
import plotly.offline

Bundle = Literal["none", "basic", "full"]

_BASIC = Path(__file__).parent / "vendor/plotly-basic.min.js"


def rendered(template: str, bundle: Bundle = "full", **values: Any) -> str:
    """Return a page. Raises jinja2's UndefinedError for a missing value.

    A page with `figures` needs a bundle: `basic` draws lines, points and bars, and is a quarter as
    large as Plotly in full.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sim.pictures"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(plotly=_script(bundle), **values)


def _script(bundle: Bundle) -> str:
    if bundle == "none":
        return ""
    if bundle == "basic":
        return _BASIC.read_text(encoding="utf-8")
    return str(plotly.offline.get_plotlyjs())
