"""Draw the map of the package from the package itself: resources/architecture.svg.

    python resources/architecture.py

Who may import whom stands in pyproject.toml, who does in the modules' import lines. The
way of a text and the way of a gradient are watched while a very small model trains for
two steps and writes five tokens: what is drawn is what was called, in the order in
which it was first done. What it leaves out: what the parts are for (see
ARCHITECTURE.md). Needs Python 3.11.
"""

import ast
import html
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "tinygpt"
PICTURE = ROOT / "resources" / "architecture.svg"
# What a text passes on its way, and what a gradient does after the backward pass.
STOPS = {
    "text/corpora:read": "read the file",
    "text/documents:split_documents": "hold out a tenth",
    "text/bpe_training:learn_vocabulary": "learn a vocabulary",
    "text/documents:encode_documents": "text to ids",
    "text/dataset:Batches.at": "draw windows",
    "model/gpt:GPT.embed": "ids to vectors",
    "model/attention:MultiHeadAttention.forward": "mix tokens",
    "model/block:FeedForward.forward": "transform each",
    "fast/linear_cross_entropy:linear_cross_entropy": "logits and loss",
    "training/trainer:Trainer._take_step": "adjust weights",
    "training/checkpoint:RunFolder.load_best": "take the best",
    "generation/continuation:continue_text": "encode the prompt",
    "generation/sampling:sample_next_token": "draw a token",
    "generation/streaming:stream_text": "ids to text",
}
STEPS = {
    "training/schedule:lr_factor": "learning rate",
    "training/muon:orthogonalize": "step of a matrix",
    "training/average:WeightAverage.add": "average",
}
PARTS = {  # of a parameter's name, in words
    "head": "head",
    "feed_forward": "feed-forward",
    "attention": "attention",
    "token_embedding": "embedding",
}
TINY = {
    "steps": 2, "d_model": 8, "n_heads": 2, "n_layers": 2, "context_length": 8,
    "batch_size": 2, "eval_windows": 2, "last_windows": 2, "average_fraction": 0.2,
    "device": "cpu", "progress": False,
}  # fmt: skip
WIDTH, MARGIN, GAP = 960, 24, 14


# --- What the code says ---------------------------------------------------------------


def floors() -> list[list[str]]:
    """The rooms that pyproject.toml lists, from the top, floor by floor."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["type"] == "layers")
    rows = [row.replace("|", ":").split(":") for row in layers]
    return [[name.strip(" ()") for name in row] for row in rows]


def imports() -> dict[str, set[str]]:
    """The rooms that each room's modules import, wherever the line stands."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = node.module.split(".")
                if names[0] == "tinygpt" and len(names) > 1 and names[1] != room:
                    found.setdefault(room, set()).add(names[1])
    return found


def watch() -> tuple[list[str], list[str], list[str]]:
    """STOPS, the parameters that received a gradient, and STEPS, each in its order."""
    from torch import nn

    from tinygpt.llm import train
    from tinygpt.model.gpt import GPT

    called: dict[str, None] = {}
    reached: dict[str, None] = {}
    build = GPT.__init__

    def observed(self: GPT, *given: Any, **named: Any) -> None:
        build(self, *given, **named)
        for name, parameter in self.named_parameters():

            def note(_: nn.Parameter, name: str = name) -> None:
                reached.setdefault(name)

            parameter.register_post_accumulate_grad_hook(note)

    def note_done(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "return" and file.startswith(str(PACKAGE)):
            module = Path(file).relative_to(PACKAGE).with_suffix("").as_posix()
            called.setdefault(f"{module}:{frame.f_code.co_qualname}")

    GPT.__init__ = observed  # type: ignore[method-assign]
    sys.setprofile(note_done)
    try:
        with tempfile.TemporaryDirectory() as folder:
            text = Path(folder, "text.txt")
            text.write_text("The cat sat. A dog ran far away. " * 300, encoding="utf-8")
            train(str(text), **TINY).generate("The cat", 5, seed=1)
    finally:
        sys.setprofile(None)
        GPT.__init__ = build  # type: ignore[method-assign]
    for wanted in (*STOPS, *STEPS):
        if wanted not in called:
            sys.exit(f"{wanted} was not called: correct {Path(__file__).name}")
    order = list(called)
    return (
        sorted(STOPS, key=order.index), list(reached), sorted(STEPS, key=order.index)
    )  # fmt: skip


def module_of(name: str) -> str:
    """The module of a name in STOPS or STEPS."""
    return name.partition(":")[0].replace("/", ".")


def gradient(reached: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each part of the model that a gradient reaches, and where, in that order."""
    seen = set()
    for name in reached:
        names = name.split(".")
        (part,) = (PARTS[n] for n in names if n in PARTS)
        where = f"block {int(names[1]) + 1}" if names[0] == "blocks" else "model"
        if (part, where) not in seen:
            seen.add((part, where))
            yield part, where


# --- The drawing ----------------------------------------------------------------------


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A line of words."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{html.escape(words)}</text>'


def box(x: float, y: float, width: float, words: Sequence[str], kind: str) -> str:
    """A box with one line of words or two."""
    height = 26 if len(words) == 1 else 42
    lines = [f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="6" '
             f'class="{kind}"/>']  # fmt: skip
    for i, line in enumerate(words):
        lines.append(text(x + width / 2, y + 17 + 16 * i, line, "middle " + "soft" * i))
    return "".join(lines)


def house(y: float) -> tuple[list[str], float]:
    """The floors with their rooms; beside each room what it imports."""
    lines, own = [], imports()
    rows = floors()
    order = [room for row in rows for room in row]
    for row in rows:
        for room in row:
            lines.append(box(MARGIN, y, 130, [room], "room"))
            below = sorted(own.get(room, ()), key=order.index)
            words = "imports " + ", ".join(below) if below else "imports nothing"
            lines.append(text(MARGIN + 146, y + 17, words, "soft"))
            y += 30
        y += 6
    return lines, y


def chain(
    y: float, stops: Sequence[tuple[str, str]], kind: str
) -> tuple[list[str], float]:
    """Boxes in rows of five, read like a text, with an arrow from each to the next."""
    each = (WIDTH - 2 * MARGIN - 4 * GAP) / 5
    lines = []
    for i, (words, where) in enumerate(stops):
        row, column = divmod(i, 5)
        x, top = MARGIN + column * (each + GAP), y + row * 58
        lines.append(box(x, top, each, [words, where], kind))
        if i + 1 < len(stops):
            way = f"M{x + each:g} {top + 21:g}h{GAP - 3}"
            if column == 4:  # to the next row
                way = f"M{x + each / 2:g} {top + 42:g}v8H{MARGIN + each / 2:g}v5"
            lines.append(f'<path d="{way}" class="arrow" marker-end="url(#tip)"/>')
    return lines, y + 58 * -(-len(stops) // 5) + 8


def draw() -> str:
    """The whole picture as SVG."""
    stops, reached, steps = watch()
    there = [(STOPS[name], module_of(name)) for name in stops]
    back = [("loss", "training.loss"), *gradient(reached)]
    back += [(STEPS[name], module_of(name)) for name in steps]
    y, lines = 40.0, list[str]()
    for heading, part in (
        ("Who may import whom: each room only what stands below it", house),
        (
            "The way of a text, from the file to the sample",
            lambda y: chain(y, there, "t"),
        ),
        (
            "The way of a gradient, from the loss to the weights",
            lambda y: chain(y, back, "g"),
        ),
    ):
        lines.append(text(MARGIN, y, heading, "head"))
        drawn, y = part(y + 16)
        lines += drawn
        y += 30
    height = y - 20
    return f"""<svg xmlns="http://www.w3.org/2000/svg" role="img"
  viewBox="0 0 {WIDTH} {height:g}" font-family="system-ui, sans-serif" font-size="12.5">
<title>The rooms of tinygpt, the way of a text, and the way of a gradient</title>
<style>
text {{ fill: #26262e; }} .soft {{ fill: #5a5a66; font-size: 11px; }}
.middle {{ text-anchor: middle; }} .head {{ font-size: 16px; font-weight: 600; }}
rect {{ stroke: #8a8a96; fill: #fff; }} .t {{ fill: #e3eef9; }} .g {{ fill: #fdebd8; }}
.arrow {{ fill: none; stroke: #5a5a66; }}
</style>
<defs><marker id="tip" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6"
  markerHeight="6" orient="auto">
  <path d="M0 0L6 3L0 6z" fill="#5a5a66"/></marker></defs>
<path d="M0 0H{WIDTH}V{height:g}H0z" fill="#fbfaf6"/>
{chr(10).join(lines)}
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8", newline="\n")
