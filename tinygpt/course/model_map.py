"""The map of the whole model: the figure that opens every chapter.

`model_map("attention")` highlights the chapter's own part. What it leaves out: shapes,
which a chapter shows in its shape ledger.
"""

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from tinygpt.course.plotting import ORANGE, SOFT, WIDTH, new_axes

# What is drawn: part -> (words, left, top, width, height), in axes units from 0 to 10.
_MAP = {
    "tokenization": ("tokenizer: text → ids", 0.3, 1.0, 4.4, 0.8),
    "embeddings": ("token\nembedding", 0.3, 2.3, 2.1, 1.1),
    "positional": ("position", 2.9, 2.3, 1.8, 1.1),
    "blocks": ("block × N", 0.3, 3.9, 4.4, 0.8),
    "head": ("norm, head: logits", 0.3, 5.2, 4.4, 0.8),
    "generation": ("sample a token", 0.3, 6.5, 4.4, 0.8),
    "norm1": ("norm", 6.0, 1.35, 2.9, 0.6),
    "attention": ("attention", 6.0, 2.4, 1.75, 0.9),
    "masking": ("mask", 7.85, 2.4, 1.05, 0.9),
    "norm2": ("norm", 6.0, 4.3, 2.9, 0.6),
    "feed_forward": ("feed-forward", 6.0, 5.35, 2.9, 0.8),
    "training": (
        "training: compare with the real\nnext token, adjust the weights",
        0.3,
        7.9,
        5.3,
        1.1,
    ),
    "finetune": ("fine-tuning:\ncontinue on chats", 6.1, 7.9, 3.6, 1.1),
}
_WHOLE_BLOCK = ("blocks", "head", "norm1", "norm2", "feed_forward")
PARTS = {  # what each chapter highlights
    "tokenization": ("tokenization",),
    "embeddings": ("embeddings",),
    "positional": ("positional",),
    "attention": ("attention",),
    "masking": ("masking",),
    "blocks": _WHOLE_BLOCK,
    "training": ("training",),
    "finetune": ("finetune",),
    "generation": ("generation",),
    "inside": (*_WHOLE_BLOCK, "attention"),
    "rewards": ("finetune",),
}


def model_map(highlight: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the whole model, with the part of one chapter highlighted.

    `highlight` is a key of PARTS, or None for the plain map. The map is read from the
    top down; on the right is the inside of a block, with the residual stream beside it.

    Raises:
        KeyError: `highlight` is not in PARTS.
    """
    lit = PARTS[highlight] if highlight else ()
    ax = ax or new_axes(WIDTH, 4.7)
    ax.set(xlim=(0, 10), ylim=(9.1, 0))
    ax.set_axis_off()
    _box(ax, 5.3, 0.35, 4.4, 6.95, "#f1efe7", SOFT)
    ax.text(7.5, 0.8, "inside a block", ha="center", va="center", color=SOFT)
    ax.text(2.5, 0.45, "text", ha="center", va="center", style="italic")
    for part, (words, left, top, width, height) in _MAP.items():
        face, edge = ("#ffd9b8", ORANGE) if part in lit else ("#e4eef5", "#8fb4cc")
        _box(ax, left, top, width, height, face, edge, 2.2 if part in lit else 1.0)
        middle = left + width / 2, top + height / 2
        weight = "bold" if part in lit else "normal"
        ax.text(*middle, words, ha="center", va="center", fontsize=10, weight=weight)
    for x, start, end in (  # downwards
        *((2.5, 0.65, 1.0), (1.35, 1.8, 2.3), (3.8, 1.8, 2.3), (2.5, 3.4, 3.9)),
        *((2.5, 4.7, 5.2), (2.5, 6.0, 6.5), (6.9, 1.05, 1.35), (6.9, 1.95, 2.4)),
        *((6.9, 3.3, 3.5), (6.9, 3.9, 4.3), (6.9, 4.9, 5.35), (6.9, 6.15, 6.4)),
    ):
        _arrow(ax, (x, start), (x, end))
    ax.text(2.65, 2.85, "+", ha="center", va="center", fontsize=15)
    for y, start in (
        (3.7, 1.2),
        (6.6, 4.1),
    ):  # the residual stream goes around each layer
        ax.plot([6.9, 9.3, 9.3], [start, start, y], color=SOFT, lw=1.4, ls="-")
        _arrow(ax, (9.3, y), (7.1, y))
        ax.text(6.9, y, "⊕", ha="center", va="center", fontsize=16)
    _arrow(ax, (6.9, 6.8), (6.9, 7.2))
    ax.plot([4.7, 5.3], [3.9, 0.45], color=SOFT, lw=0.8, ls=":")
    ax.plot([4.7, 5.3], [4.7, 7.2], color=SOFT, lw=0.8, ls=":")
    ax.plot([0.3, 0.08, 0.08, 1.9], [6.9, 6.9, 0.45, 0.45], color=SOFT, lw=1.4, ls="-")
    _arrow(ax, (1.8, 0.45), (2.05, 0.45))
    return ax


def _box(
    ax: Axes,
    left: float,
    top: float,
    width: float,
    height: float,
    face: str,
    edge: str,
    line: float = 1.0,
) -> None:
    style = "round,pad=0,rounding_size=0.15"
    ax.add_patch(
        FancyBboxPatch((left, top), width, height, style, fc=face, ec=edge, lw=line)
    )


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=9, color=SOFT, lw=1.4
        )
    )
