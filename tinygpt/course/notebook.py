"""What a chapter shows beside figures: the shape ledger, and numbers for its prose.

`shape_ledger` lists tensors with named axes and checks every one of them. `glue` hands
a number to the text around the cell, so that prose cannot drift from output. `Watched`
draws a bar while a model trains. IPython is needed only when one of these two is used.
What it leaves out: figures (see `plotting`).
"""

import math
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Table:
    """A table that reads well in a page, in JupyterLab and in a terminal."""

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
    """Name, shape, axes and meaning of tensors, every shape checked.

    `sizes` gives the axes their lengths, pairwise different, so that no axis can be
    mistaken for another. A row is (name, tensor, axes, what it holds), the axes in one
    string: "B T C"; "3*C" is a product, a number stands for itself.

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


def _read_as(text: str) -> str:
    """What the role makes of `text`: it takes it for Python if it can."""
    try:
        return str(literal_eval(text))
    except (SyntaxError, ValueError):
        return text


def glue(name: str, value: Any, form: str = "") -> None:
    """Keep `value` as text under `name`, for the role glue:text in the prose.

    `form` is a format specification: `glue("loss", 3.14159, ".2f")` keeps "3.14". The
    cell shows nothing. It is what `myst_nb.glue` stores, without its dependencies.
    """
    from IPython.display import display  # only a notebook has it

    text = format(value, form)
    if _read_as(text) != text:  # the role would show 98,550 as (98, 550)
        text = repr(text)
    record = {"application/papermill.record/text/plain": text}
    prefix = "application/papermill.record/"
    metadata = {"scrapbook": {"name": name, "mime_prefix": prefix}}
    display(record, raw=True, metadata=metadata)


@dataclass(frozen=True)
class Progress:
    """How far a training run is, as a bar in a page and as words elsewhere."""

    step: int
    steps: int

    def __repr__(self) -> str:
        return f"step {self.step} of {self.steps}"

    def _repr_html_(self) -> str:
        return (
            f'<progress aria-label="training" style="width: min(60%, 20rem)" '
            f'max="{self.steps}" value="{self.step}"></progress> {self!r}'
        )


class Watched:
    """Batches that move a bar in the notebook, a little further with each of them.

    The trainer's own bar is text for a terminal; a notebook's page wants one output
    that changes in place.
    """

    def __init__(self, batches: Any, steps: int) -> None:
        from IPython.display import display  # only a notebook has it

        self.batches, self.steps = batches, steps
        self.bar = display(Progress(0, steps), display_id=True)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """What `batches` give for one step, [B, T] each; the bar counts it as done."""
        every = max(1, self.steps // 100)
        if self.bar and ((step + 1) % every == 0 or step + 1 == self.steps):
            self.bar.update(Progress(step + 1, self.steps))
        batch: tuple[Tensor, ...] = self.batches.at(step, rank, world_size)
        return batch
