"""Image: a figure of a page as PNG, without the page around it.

`python -m sim.pictures.image REPORT.html FIGURE OUT.png` draws the figure called `pareto`, `cost`,
`map`, `scatter` or `groups` as Plotly exports it. It needs chromium, which has the only engine that
Plotly runs in, and no network.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sim.foundation.errors import StoreError
from sim.results.files import replace_file

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=30000"),
)
_LIMIT_S = 120
# Figures are drawn when they come near the view.
_EXPORT = """<script>
const wanted = document.getElementById(%(figure)s);
wanted.scrollIntoView();
const waiting = setInterval(() => {
  if (!wanted.data) return;
  clearInterval(waiting);
  Plotly.toImage(wanted, { format: "png", width: %(width)d, height: %(height)d, scale: 1.5 })
    .then((url) => { document.body.textContent = url; });
}, 50);
</script>"""


def png(page: Path, figure: str, width: int, height: int) -> bytes:
    """Return a figure of a page, 1.5 pixels to a unit of its size.

    Raises StoreError if there is no chromium, or no such figure.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise StoreError("no chromium on the PATH; install it (Debian: apt-get install chromium)")
    export = _EXPORT % {"figure": json.dumps(figure), "width": width, "height": height}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(page.read_text(encoding="utf-8") + export, encoding="utf-8")
        flags = [*_FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        command = [chromium, *flags, "--dump-dom", copy.as_uri()]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
    found = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)</body>", done.stdout)
    if found is None:
        raise StoreError(f"{page}: no figure called {figure} could be drawn")
    return base64.b64decode(found[1])


def main(page: str, figure: str, out: str, width: str = "1000", height: str = "640") -> None:
    drawn = png(Path(page), figure, int(width), int(height))
    replace_file(Path(out), lambda part: part.write_bytes(drawn))


if __name__ == "__main__":
    main(*sys.argv[1:])
