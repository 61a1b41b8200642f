"""What a chapter shows beside figures: tables, shape ledgers, numbers for its prose.

`shape_ledger` lists tensors with named axes and checks the shape of each. `glue` stores
a number for the text around the cell, so that prose and output always agree.

What it leaves out: figures (see `plotting`).
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Table:
    """A table of strings, readable on a page, in JupyterLab and in a terminal."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __repr__(self) -> str:
        columns = list(zip(self.header, *self.rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True))
            for row in (self.header, *self.rows)
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in self.header)
        body = "".join(
            f'<tr><th scope="row"><code>{escape(row[0])}</code></th>'
            + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
            + "</tr>"
            for row in self.rows
        )
        return (
            f'<table class="tinygpt-table"><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table>"
        )


def _axis(axis: str, sizes: Mapping[str, int]) -> int:
    """The length of an axis such as "T", "3*C" or "7"."""
    factors = [int(f) if f.isdigit() else sizes[f] for f in axis.split("*")]
    return math.prod(factors)


def shape_ledger(
    sizes: Mapping[str, int], rows: Sequence[tuple[str, Tensor, str, str]]
) -> Table:
    """A table of tensors: name, shape, axes and meaning, every shape checked.

    `sizes` gives each axis its length; no two may be equal, so that no axis can be
    mistaken for another. A row is (name, tensor, axes, what it holds). Axes are one
    string, such as "B T C"; "3*C" is a product, and a number is a length.

    Raises:
        ValueError: two axes share a length, or a tensor is not as its row says.
        KeyError: an axis is not in `sizes`.

    >>> import torch
    >>> shape_ledger({"B": 2, "T": 3}, [("ids", torch.ones(2, 3), "B T", "token ids")])
    tensor  shape   axes  what it holds
    ids     [2, 3]  B T   token ids
    """
    if len(set(sizes.values())) < len(sizes):
        raise ValueError(f"the axes should all have different lengths: {dict(sizes)}")
    lines = []
    for name, tensor, axes, what in rows:
        wanted = [_axis(axis, sizes) for axis in axes.split()]
        if list(tensor.shape) != wanted:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, but [{axes}] is {wanted}"
            )
        lines.append((name, str(wanted), axes, what))
    return Table(("tensor", "shape", "axes", "what it holds"), tuple(lines))


def glue(name: str, value: Any, form: str = "") -> None:
    """Store `value` as text under `name`, for the prose of the notebook.

    `form` is a format specification: `glue("loss", 3.14159, ".2f")` stores "3.14", in
    the output of the cell, which shows nothing. `book/notebooks.py` puts it into the
    text, between `<!-- n:loss -->` and `<!-- / -->`. Elsewhere nothing happens.
    """
    if "IPython" not in sys.modules:
        return
    from IPython.display import display

    kind = "application/papermill.record/"  # which every viewer passes over
    metadata = {"scrapbook": {"name": name, "mime_prefix": kind}}
    display({kind + "text/plain": format(value, form)}, raw=True, metadata=metadata)
