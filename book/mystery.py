"""A Sphinx extension: runs in which something is wrong, drawn from mystery_runs.json.

    :::{mystery} mask
    :::

shows the run of that fault beside the healthy one: the losses, what it writes, and what
was measured. `{mystery-names}` lists the faults, and `{mystery-line} mask` shows the
line that was changed. With `_static/mystery.js` the reader names the fault and hears
of a wrong name what would show it, and what this run shows instead. What it leaves
out: making the runs (resources/mystery.py).
"""

import json
import math
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "book" / "mystery_runs.json"
NAMES = {
    "rate": "The learning rate is too high",
    "mask": "The causal mask is off by one",
    "shift": "The targets are not shifted",
    "positions": "The model gets no positions",
    "leak": "Validation text is in the training text",
    "tokenizer": "The tokenizer was learned from another text",
    "dropout": "Dropout is left on in evaluation",
    "embedding": "The embedding starts far too large",
    "decay": "Weight decay acts on everything",
    "loss": "The loss counts the wrong tokens",
    "overfit": "There is too little training text",
    "head": "One head is dead",
}
Run = dict[str, Any]


def load() -> dict[str, Run]:
    """All runs, the healthy one too."""
    runs: dict[str, Run] = json.loads(RUNS.read_text(encoding="utf-8"))["runs"]
    return runs


def ends(run: Run) -> dict[str, float]:
    """The numbers that the curves begin and end with, and their extremes."""
    steps, train, val = zip(*run["curve"], strict=True)
    return {
        "steps": steps[-1],
        "first": val[0],
        "train first": train[0],
        "train": train[-1],
        "val": val[-1],
        "lowest": min(val),
        "highest": max(val[1:]),
        "bits per byte": val[-1] / math.log(2) / run["bytes per token"],
    }


# True for its own run and false for every other: a test holds them to it.
SIGNS: dict[str, Callable[[Run, dict[str, float]], bool]] = {
    "rate": lambda run, e: e["highest"] > e["first"] + 1 > e["val"] + 1,
    "mask": lambda run, e: run["next token changed"] > 0.01,
    "shift": lambda run, e: e["val"] < 0.1 and run["next token changed"] == 0,
    "positions": lambda run, e: run["repeated"] < 0.001,
    "leak": lambda run, e: run["new text"] - e["val"] > 0.1,
    "tokenizer": lambda run, e: run["bytes per token"] < 1.5,
    "dropout": lambda run, e: run["the same twice"] > 0,
    "embedding": lambda run, e: e["first"] > 7,
    "decay": lambda run, e: run["mean gain"] < 0.7,
    "loss": lambda run, e: e["train"] > e["train first"],
    "overfit": lambda run, e: e["val"] - e["train"] > 0.5 and e["val"] > e["lowest"],
    "head": lambda run, e: min(run["heads"]) == 0,
}
# What would show each fault, and what this run shows instead.
TELLING = {
    "rate": "too high a rate throws the loss up, above where it began, until the "
    "schedule lowers the rate again. Here the loss begins at {first:.2f}, is at most "
    "{highest:.2f} after that, and ends at {val:.2f}.",
    "mask": "a model that sees the next token changes its guess when that token is "
    "exchanged. Here the largest change of a logit is {next token changed:.2g}.",
    "shift": "a model that was asked for its own input ends at a loss near 0 without "
    "a look at the next token. Here the loss ends at {val:.2f}, and exchanging the "
    "next token changes a logit by up to {next token changed:.2g}.",
    "positions": "without positions, a text that repeats one token gets the same "
    "guess at every place. Here a logit changes by up to {repeated:.2g} along it.",
    "leak": "with a leak, text that is really new is harder than the validation text. "
    "Here the losses are {new text:.2f} and {val:.2f}.",
    "tokenizer": "a tokenizer of another text cuts this one into crumbs of little more "
    "than a byte. Here a token has {bytes per token:.2f} bytes.",
    "dropout": "with dropout on, the same text gets another loss each time. Here two "
    "evaluations differ by {the same twice:.2g}.",
    "embedding": "an embedding that is far too large makes the first loss far larger "
    "than ln 384 = 5.95. Here it is {first:.2f}.",
    "decay": "decay on everything pulls the gains of the norms far below 1. Here their "
    "mean is {mean gain:.2f}.",
    "loss": "a model that is trained on the wrong tokens ends worse at the right ones "
    "than it began, even in the training text. Here their loss goes from "
    "{train first:.2f} to {train:.2f} in it.",
    "overfit": "with too little text the validation loss turns and rises while that of "
    "the training text goes on falling. Here the lowest validation loss is "
    "{lowest:.2f} and the last {val:.2f}; the training loss ends at {train:.2f}.",
    "head": "a dead head has output weights of exactly 0. Here the smallest of the "
    "four sizes is {smallest head:.2f}.",
}


def replies(key: str, run: Run) -> dict[str, str]:
    """What the page says to each wrong diagnosis of this run."""
    numbers = {**run, **ends(run), "smallest head": min(run["heads"])}
    return {
        fault: "Not this: " + text.format_map(numbers)
        for fault, text in TELLING.items()
        if fault != key
    }


ROWS: list[tuple[str, Callable[[Run], str]]] = [
    ("loss before the first step", lambda run: f"{ends(run)['first']:.2f}"),
    ("loss of the training text, at the end", lambda run: f"{ends(run)['train']:.2f}"),
    ("loss of the validation text, at the end", lambda run: f"{ends(run)['val']:.2f}"),
    ("loss of new text, at the end", lambda run: f"{run['new text']:.2f}"),
    ("bytes per token", lambda run: f"{run['bytes per token']:.2f}"),
    ("bits per byte, validation", lambda run: f"{ends(run)['bits per byte']:.2f}"),
    (
        "difference if validation is evaluated again",
        lambda run: f"{run['the same twice']:.2g}",
    ),
    (
        "largest change of a logit along a text that repeats one token",
        lambda run: f"{run['repeated']:.2g}",
    ),
    (
        "largest change of a logit if the next token is exchanged",
        lambda run: f"{run['next token changed']:.2g}",
    ),
    ("mean of all gains of the norms", lambda run: f"{run['mean gain']:.2f}"),
    (
        "size of each head's output weights, first layer",
        lambda run: ", ".join(f"{size:.2f}" for size in run["heads"]),
    ),
]

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 520, 292, 46, 64, 18, 42
CEILING = 8.0  # nats; a curve that goes above is cut there


def picture(run: Run, healthy: Run) -> str:
    """The losses as SVG, whose colours the page's style sheet chooses."""
    steps = run["curve"][-1][0]

    def x(step: float) -> float:
        return LEFT + step / steps * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return TOP + (1 - min(loss, CEILING) / CEILING) * (HEIGHT - TOP - BOTTOM)

    def line(curve: list[list[float]], column: int, kind: str) -> str:
        points = " ".join(f"{x(row[0]):.1f},{y(row[column]):.1f}" for row in curve)
        return f'<polyline class="{kind}" points="{points}"/>'

    def text(at_x: float, at_y: float, words: str, anchor: str = "middle") -> str:
        place = f'x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}"'
        return f"<text {place}>{words}</text>"

    inner = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(v):.1f}" '
        f'y2="{y(v):.1f}"/>' + text(LEFT - 6, y(v) + 4, f"{v}", "end")
        for v in range(0, int(CEILING) + 1, 2)
    ]
    inner += [
        text(x(at), HEIGHT - BOTTOM + 16, str(at))
        for at in range(0, steps + 1, steps // 3)
    ]
    inner += [
        text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "step"),
        f'<text transform="translate(12,{(HEIGHT - BOTTOM + TOP) / 2}) rotate(-90)" '
        'text-anchor="middle">loss (nats per token)</text>',
        line(healthy["curve"], 2, "healthy"),
        line(run["curve"], 1, "train"),
        line(run["curve"], 2, "val"),
    ]
    for i, (kind, words) in enumerate(LEGEND.items()):
        at = 14 + 18 * i
        inner.append(
            f'<line class="{kind}" x1="{LEFT}" x2="{LEFT + 30}" y1="{at - 4}" '
            f'y2="{at - 4}"/>' + text(LEFT + 36, at, words, "start")
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(in_words(run, healthy))}">{"".join(inner)}</svg>'
    )


LEGEND = {
    "train": "training text",
    "val": "validation text",
    "healthy": "validation, healthy run",
}


def in_words(run: Run, healthy: Run) -> str:
    """The picture for those who do not see it."""
    curve, other = run["curve"], healthy["curve"]
    places = [0, len(curve) // 6, len(curve) // 2, -1]
    parts = [
        f"step {curve[i][0]}: training {curve[i][1]:.2f}, validation "
        f"{curve[i][2]:.2f}, healthy validation {other[i][2]:.2f}"
        for i in places
    ]
    return "Loss in nats per token. " + "; ".join(parts) + "."


class Mystery(SphinxDirective):
    """`{mystery} FAULT`: the run, without saying what is wrong."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Picture, sample, measurements, and the place for the question."""
        key, runs = self.arguments[0], load()
        if key not in NAMES or key not in runs:
            raise self.error(f"mystery: there is no run {key!r}")
        self.env.note_dependency(str(RUNS))
        run, healthy = runs[key], runs["healthy"]
        above = [row[2] for row in run["curve"] if row[2] > CEILING]
        caption = "The loss of this run and of the healthy one."
        if above:
            caption += f" Cut off at {CEILING:.0f}: the highest is {max(above):.1f}."
        asked = {"right": key, "names": NAMES, "replies": replies(key, run)}
        data = escape(json.dumps(asked))
        return [
            nodes.raw(
                "",
                '<figure class="mystery-figure" data-script="mystery">'
                f"{picture(run, healthy)}<figcaption>{caption}</figcaption></figure>",
                format="html",
            ),
            nodes.paragraph("", "What it writes, and what the healthy run writes:"),
            self._samples(run, healthy),
            self._table(run, healthy),
            nodes.raw(
                "",
                f'<div class="tinygpt-mystery" data-run="{data}"></div>',
                format="html",
            ),
        ]

    def _samples(self, run: Run, healthy: Run) -> nodes.Node:
        written = "\n".join(
            f"{name}{sample}"
            for name, one in (("this run: ", run), ("healthy:  ", healthy))
            for sample in one["samples"]
        )
        return nodes.literal_block(written, written, language="text")

    def _table(self, run: Run, healthy: Run) -> nodes.Node:
        fold = '<details class="mystery-measures"><summary>Measure it</summary>'
        table = nodes.table()
        group = nodes.tgroup(cols=3)
        table += group
        group += [nodes.colspec(colwidth=width) for width in (3, 1, 1)]
        head, lines = nodes.thead(), nodes.tbody()
        group += [head, lines]
        head += _row("", "this run", "healthy")
        lines += [_row(name, show(run), show(healthy)) for name, show in ROWS]
        box = nodes.container()
        box += [
            nodes.raw("", fold, format="html"),
            table,
            nodes.raw("", "</details>", format="html"),
        ]
        return box


class MysteryLine(SphinxDirective):
    """`{mystery-line} FAULT`: the line as it should be, and as it ran."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Both, as a difference."""
        right, wrong = load()[self.arguments[0]]["lines"]
        code = f"- {right}\n+ {wrong}"
        return [nodes.literal_block(code, code, language="diff")]


class MysteryNames(SphinxDirective):
    """`{mystery-names}`: the list to choose from."""

    def run(self) -> list[nodes.Node]:
        """One item for each fault."""
        items = nodes.bullet_list(bullet="-")
        for name in NAMES.values():
            items += nodes.list_item("", nodes.paragraph("", f"{name}."))
        return [items]


def _row(*cells: str) -> nodes.row:
    line = nodes.row()
    for cell in cells:
        line += nodes.entry("", nodes.paragraph("", cell))
    return line


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("mystery", Mystery)
    app.add_directive("mystery-line", MysteryLine)
    app.add_directive("mystery-names", MysteryNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
