"""A Sphinx extension: the course's texts as scripts, for a page that trains on them.

A page opened from a file may run a script, but not read a file. So the build writes
`_static/texts/stories.js` and `handbook.js` beside the pages, each of which assigns one
text of data/ to a global name.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEXTS = {"stories": "stories.txt", "handbook": "sales_handbook.txt"}


def write(folder: Path) -> None:
    """A script for each text, in UTF-8, below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in TEXTS.items():
        text = (ROOT / "data" / file).read_text(encoding="utf-8")
        script = f"globalThis.tinygptText = {json.dumps(text, ensure_ascii=False)};\n"
        (folder / f"{name}.js").write_text(script, encoding="utf-8")


def finish(app: Any, error: Exception | None) -> None:
    """Called when the site stands."""
    if error is None and app.builder.format == "html":
        write(Path(app.outdir) / "_static" / "texts")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
