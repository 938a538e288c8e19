"""Which pages the site has: README.md, docs/, and every file of the project that they link to.

MkDocs calls `on_files` and `on_page_markdown` (mkdocs.yml). On the site README.md is the first
page, docs/ is its root, and all else keeps its place; links are changed to suit.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "docs/python_api.py"
FURTHER = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)[^)\s#]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    script = File.generated(config, _on_site(SCRIPT), content=_page_of_script())
    files.append(script)
    left = [*FURTHER, *(f"docs/{each.src_uri}" for each in files.documentation_pages())]
    known = {*left, SCRIPT}
    files_of_docs = {f"docs/{each.src_uri}" for each in files}
    while left:
        path = left.pop()
        if path not in files_of_docs:
            files.append(File.generated(config, _on_site(path), abs_src_path=str(ROOT / path)))
        if path.endswith(".md") and (ROOT / path).is_file():
            new = set(_links(path, (ROOT / path).read_text(encoding="utf-8"))) - known
            known |= new
            left += sorted(new)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = page.file.abs_src_path
    if source is None:
        return markdown
    folder = Path(source).relative_to(ROOT).parent.as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, link[0]))
        return posixpath.relpath(_on_site(path), here or ".")

    return LINK.sub(moved, markdown)


def _links(path: str, text: str) -> Iterator[str]:
    """Yield the files of the project that the page at `path` links to."""
    for link in LINK.findall(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        if (ROOT / target).is_file():
            yield target


def _on_site(path: str) -> str:
    if path == "README.md":
        return "index.md"
    if path == SCRIPT:
        return "python-api.md"
    return path.removeprefix("docs/")


def _page_of_script() -> str:
    """Return the script as a page: what stands in [markdown] cells as prose, the rest as code."""
    cells = (ROOT / SCRIPT).read_text(encoding="utf-8").split("\n# %%")
    return "\n".join(_cell(cell) for cell in cells[1:])


def _cell(cell: str) -> str:
    kind, _, text = cell.partition("\n")
    if "[markdown]" in kind:
        return re.sub(r"^# ?", "", text, flags=re.MULTILINE)
    return f"```python\n{text.strip()}\n```\n"
