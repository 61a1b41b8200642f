"""A Sphinx extension: the docstrings are Markdown-like, Sphinx reads reStructuredText.

Turns `code` into ``code``, <https://links> into links, and shields stray stars, so that
the API reference is made from the docstrings as they are written. What it leaves out:
everything else of Markdown; our docstrings use nothing else.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package itself


def to_rst(line: str) -> str:
    """One line of a docstring as reStructuredText.

    >>> to_rst("`q` times *B")
    '``q`` times \\\\*B'
    """
    if line.lstrip().startswith((">>>", "...")):
        return line
    pieces = re.split(r"(`[^`]+`)", line)
    for i, piece in enumerate(pieces):
        if i % 2:
            pieces[i] = f"`{piece}`"
        else:
            pieces[i] = re.sub(r"([*|]|(?<=\w)_(?=\W|$))", r"\\\1", piece)
    return "".join(pieces)


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list) -> None:
    """Rewrite the lines of one docstring in place."""
    lines[:] = [to_rst(line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
