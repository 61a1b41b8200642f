"""A Sphinx extension: the docstrings are Markdown-like, Sphinx reads reStructuredText.

Turns `code` into ``code``, shields stray stars and bars, and keeps indented blocks of a
module's docstring as they are, so that the API reference is made from the docstrings as
they are written. What it leaves out: the rest of Markdown, which they do not use.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package itself


def to_rst(line: str) -> str:
    r"""One line of a docstring as reStructuredText.

    >>> to_rst("`q` times *B")
    '``q`` times \\*B'
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


def keep_blocks(lines: list[str]) -> list[str]:
    """Indented lines as literal blocks, the others converted."""
    result, inside = [], False
    for line in lines:
        indented = line.startswith("    ") or (inside and not line)
        if indented != inside:
            result += ["", "::", ""] if indented else [""]
        result.append(line if indented else to_rst(line))
        inside = indented
    return result


def process(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list
) -> None:
    """Rewrite the lines of one docstring in place."""
    lines[:] = keep_blocks(lines) if what == "module" else map(to_rst, lines)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
