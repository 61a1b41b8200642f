"""Figures: tensors in, matplotlib Axes out. The only module that imports pyplot.

One style for the whole course: dark ink on an off-white card, which works on a light
and on a dark page; letters large enough for a phone; colours that colour-blind readers
can tell apart (Okabe and Ito, 2008). Magnitudes use viridis, signed values a red and
blue map with white at zero.

What it leaves out: tables (see `notebook`), the map of the model (see `model_map`),
saving figures.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch
from torch import Tensor

Numbers = Sequence[int | float] | Tensor

PAPER, INK, SOFT, GRID = "#fbfaf6", "#26262e", "#6b6b76", "#dcdad2"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
SKY, YELLOW = "#56b4e9", "#e69f00"
CYCLE = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY)
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
SEQUENTIAL, DIVERGING, MASKED = "viridis", "RdBu_r", "#d5d3cb"

# 5.2 inches at 200 dpi shrink to 328 px on a phone; 12 points are 10.5 px there.
WIDTH, HEIGHT, DPI = 5.2, 3.4, 200
STYLE: dict[str, Any] = {
    "figure.figsize": (WIDTH, HEIGHT),
    "figure.dpi": DPI,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "savefig.dpi": DPI,
    "font.family": "DejaVu Sans",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "lines.linewidth": 2.0,
    "axes.prop_cycle": cycler(color=CYCLE, linestyle=DASHES),
}


def use_style() -> None:
    """Set the course's style for all later figures."""
    plt.rcParams.update(STYLE)  # type: ignore[arg-type]  # its keys are Literals


def new_axes(width: float = WIDTH, height: float = HEIGHT) -> Axes:
    """Empty axes on a new figure of that size in inches, in the course's style."""
    use_style()
    _, axes = plt.subplots(figsize=(width, height))
    return axes


def new_row(n: int, width: float = WIDTH, height: float = HEIGHT) -> list[Axes]:
    """`n` axes side by side on one new figure."""
    use_style()
    _, axes = plt.subplots(1, n, figsize=(width, height), squeeze=False)
    return list(axes[0])


def visible(token: str | bytes) -> str:
    r"""A token as a label, with visible signs for spaces, tabs and line ends.

    >>> visible(" the\n")
    '␣the⏎'
    """
    text = token.decode("utf-8", "replace") if isinstance(token, bytes) else token
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def heatmap(
    matrix: Float[Tensor, "R C"],
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
    value_label: str = "",
    signed: bool = False,
    limits: tuple[float, float] | None = None,
    annotate: bool | None = None,
    colorbar: bool = True,
) -> Axes:
    """Draw a matrix as coloured cells, the first row on top.

    `signed` centres the colours on zero; `limits` fixes their range, so that figures
    can be compared. Small matrices (up to 8 columns and 10 rows) show their numbers.
    Infinite and missing values are grey and marked −∞, ∞ or –.
    """
    values = matrix.detach().float().cpu().numpy()
    rows, columns = values.shape
    finite = values[np.isfinite(values)]
    if limits is None and signed:
        end = float(np.abs(finite).max(initial=1e-12))
        limits = (-end, end)
    elif limits is None:
        limits = (float(finite.min(initial=0)), float(finite.max(initial=1e-12)))
    if ax is None:
        height = min(7.0, max(2.6, 0.42 * rows + 1.4)) if row_labels else HEIGHT
        ax = new_axes(height=height)
    colours = plt.get_cmap(DIVERGING if signed else SEQUENTIAL).with_extremes(
        bad=MASKED
    )
    shown = np.ma.masked_invalid(values)
    image = ax.imshow(
        shown,
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        aspect="auto",
        interpolation="nearest",
    )
    if annotate if annotate is not None else (columns <= 8 and rows <= 10):
        for r in range(rows):
            for c in range(columns):
                _write(ax, r, c, float(values[r, c]), image)
    if colorbar:
        bar = ax.figure.colorbar(image, ax=ax, label=value_label)
        bar.outline.set_visible(False)
    if column_labels is not None:
        upright = sum(map(len, column_labels)) > 34
        ax.set_xticks(
            range(columns), [visible(t) for t in column_labels], rotation=90 * upright
        )
    if row_labels is not None:
        ax.set_yticks(range(rows), [visible(t) for t in row_labels])
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    return ax


def _write(ax: Axes, row: int, column: int, value: float, image: Any) -> None:
    """Write the number of a cell, dark on light or light on dark."""
    if not np.isfinite(value):
        text, dark = ("−∞" if value < 0 else "∞" if value > 0 else "–"), False
    else:
        red, green, blue, _ = image.to_rgba(value)
        text, dark = (
            f"{round(value, 2) + 0.0:.2f}",
            0.3 * red + 0.59 * green + 0.11 * blue < 0.5,
        )
    colour = "white" if dark else INK
    ax.text(column, row, text, ha="center", va="center", fontsize=10, color=colour)


def attention_map(
    weights: Float[Tensor, "T S"],
    tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    colorbar: bool = True,
) -> Axes:
    """Draw attention weights from 0 to 1: queries as rows, keys as columns."""
    return heatmap(
        weights,
        tokens,
        tokens if key_tokens is None else key_tokens,
        ax=ax,
        title=title,
        x_label="key: who is heard",
        y_label="query: who listens",
        value_label="attention weight",
        limits=(0.0, 1.0),
        colorbar=colorbar,
    )


def positional_encoding(
    table: Float[Tensor, "T C"], *, ax: Axes | None = None, title: str = ""
) -> Axes:
    """Draw position vectors: positions downwards, dimensions to the right."""
    return heatmap(
        table,
        ax=ax,
        title=title,
        x_label="dimension",
        y_label="position (tokens)",
        value_label="value",
        signed=True,
        annotate=False,
    )


def lines(
    x: Numbers,
    series: Mapping[str, Numbers],
    *,
    ax: Axes | None = None,
    title: str = "",
    x_label: str = "",
    y_label: str = "",
) -> Axes:
    """Draw one line per named series, told apart by colour and by dashes."""
    ax = ax or new_axes()
    for i, (name, y) in enumerate(series.items()):
        colour = CYCLE[i % len(CYCLE)]
        dash = DASHES[(i + i // len(CYCLE)) % len(DASHES)]  # a used colour, a new dash
        ax.plot(_numbers(x), _numbers(y), label=name, color=colour, linestyle=dash)
    if len(series) > 1:
        ax.legend()
    ax.grid(True)
    ax.set(title=title, xlabel=x_label, ylabel=y_label)
    return ax


def loss_curves(
    steps: Numbers,
    losses: Mapping[str, Numbers],
    baselines: Mapping[str, int | float] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    y_label: str = "loss (nats per token)",
) -> Axes:
    """Draw losses by step, with baselines as dotted horizontal lines."""
    ax = lines(steps, losses, ax=ax, title=title, x_label="step", y_label=y_label)
    low, high = ax.get_ylim()
    last, side = low - high, 1.0
    for name, value in sorted((baselines or {}).items(), key=lambda item: item[1]):
        ax.axhline(value, color=SOFT, linewidth=1.2, linestyle=":")
        crowded = value - last < 0.06 * (high - low)  # two names must not overlap
        last, side = value, side - 0.33 if crowded else 1.0
        ax.annotate(
            f"{name} {value:.2f}",
            (side, value),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize=10,
            color=SOFT,
        )
    return ax


def bars(
    labels: Sequence[str],
    values: Numbers,
    *,
    highlight: int | None = None,
    ax: Axes | None = None,
    title: str = "",
    x_label: str = "probability",
) -> Axes:
    """Draw one horizontal bar per label, the first on top."""
    sizes = _numbers(values)
    ax = ax or new_axes(height=max(2.2, 0.34 * len(sizes) + 1.1))
    colours = [ORANGE if i == highlight else BLUE for i in range(len(sizes))]
    drawn = ax.barh(range(len(sizes)), sizes, color=colours)
    ax.bar_label(drawn, fmt="%.3g", padding=3, fontsize=10)
    ax.set_yticks(range(len(sizes)), [visible(label) for label in labels])
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set(title=title, xlabel=x_label)
    return ax


def token_strip(
    tokens: Sequence[str | bytes],
    ids: Sequence[int] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "",
    per_line: int = 44,
) -> Axes:
    """Draw the tokens of a text as tiles in reading order, with their ids below."""
    tiles: list[tuple[int, float, float, int]] = []  # token, x, width, line
    x, line = 0.0, 0
    for i, token in enumerate(tokens):
        label = "" if ids is None else str(ids[i])
        width = max(len(visible(token)), 0.8 * len(label)) + 1.2
        if x and x + width > per_line:
            x, line = 0.0, line + 1
        tiles.append((i, x, width, line))
        x += width
    ax = ax or new_axes(height=0.75 * (line + 1) + (0.5 if title else 0.1))
    for i, x, width, row in tiles:
        face = ("#cfe6f5", "#fbe3c6")[i % 2]
        place = (x + 0.1, row - 0.32)
        style = "round,pad=0,rounding_size=0.25"
        ax.add_patch(
            FancyBboxPatch(
                place, width - 0.2, 0.64, style, fc=face, ec="none", mutation_aspect=0.4
            )
        )
        middle = x + width / 2
        low = row if ids is None else row - 0.1
        ax.text(middle, low, visible(tokens[i]), ha="center", va="center", fontsize=11)
        if ids is not None:
            ax.text(
                middle,
                row + 0.18,
                str(ids[i]),
                ha="center",
                va="center",
                fontsize=8,
                color=INK,
            )
    ax.set(xlim=(0, per_line), ylim=(line + 0.5, -0.5), title=title)
    ax.set_axis_off()
    return ax


def _numbers(values: Numbers) -> list[float]:
    """Plain floats of a tensor or of any sequence."""
    numbers: list[float] = torch.as_tensor(values).detach().double().flatten().tolist()
    return numbers
