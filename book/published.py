"""What a published copy of the course has and a local one lacks.

The repository's address stands in one place, `repository.url` of `_config.yml`. While
it is empty, nothing links to it: no launch buttons, no links to mend a page, no cell
for Google Colab. The site's own address comes from SITE_ADDRESS when it is built for
the web. As a Sphinx extension this file also fails a build in which a page would ask
another host for a script, a picture or a font. What it leaves out: publishing
(`.github/workflows`).
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

CONFIG = Path(__file__).resolve().parent.parent / "_config.yml"
COLAB = "colab"  # the id of the cell
INSTALL = """\
# Google Colab lacks the course's package; anywhere else this does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install --quiet git+{url}"""
# What a browser fetches without being asked, by an address that names a host.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\s"
    r"(?:src|data)=\"((?:https?:)?//[^\"]+)"
    r"|<link\b(?=[^>]*\srel=\"(?:stylesheet|icon|preload|modulepreload)\")"
    r"[^>]*?\shref=\"((?:https?:)?//[^\"]+)"
    r"|(?:url\(|@import\s*)[\"']?((?:https?:)?//[^\"')]+)"
)


def repository(config: Path = CONFIG) -> str:
    """The address of the repository, or "" while there is none."""
    told = yaml.safe_load(config.read_text(encoding="utf-8"))
    return str(told["repository"]["url"] or "").rstrip("/")


def without_colab(notebook: NotebookNode) -> bool:
    """Take the cell for Colab out of a chapter; whether there was one."""
    cells = [cell for cell in notebook.cells if cell.get("id") != COLAB]
    found = len(cells) < len(notebook.cells)
    notebook.cells = cells
    return found


def with_colab(notebook: NotebookNode, url: str) -> None:
    """Put the cell that installs the package in Colab behind the chapter's title."""
    without_colab(notebook)
    cell = nbformat.v4.new_code_cell(
        INSTALL.format(url=url), id=COLAB, metadata={"tags": ["remove-cell"]}
    )
    notebook.cells.insert(1, cell)


def outside(site: Path) -> Iterator[str]:
    """Page and address of all that pages and style sheets fetch from another host."""
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        for found in FETCHED.finditer(path.read_text(encoding="utf-8")):
            address = next(filter(None, found.groups()))
            yield f"{path.relative_to(site).as_posix()}: {address}"


def _set(app: Any, config: Any) -> None:
    """Switch on what needs an address, if there is one."""
    options = config.html_theme_options
    url = options.get("repository_url", "")
    if not url:
        options.pop("launch_buttons", None)
    for button in ("repository", "issues", "edit_page"):
        options[f"use_{button}_button"] = bool(url)
    address = os.environ.get("SITE_ADDRESS", "")
    if address:
        config.html_baseurl = config.ogp_site_url = address


def _check(app: Any, exception: Exception | None) -> None:
    """Refuse a site that needs the network."""
    if exception is None and app.builder.format == "html":
        found = list(outside(Path(app.outdir)))
        if found:
            raise ValueError("pages ask other hosts:\n" + "\n".join(found))


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _set)
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
