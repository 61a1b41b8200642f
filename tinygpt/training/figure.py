"""The picture of a run: its losses, step by step, beside what needs no network.

matplotlib is loaded when the training is over, and only the part that writes a file:
no window, no screen. What it leaves out: the course's figures (see `course.plotting`).
"""

import io
import math
import warnings
from typing import Any

from tinygpt.config import TrainConfig
from tinygpt.files import why, write_atomically
from tinygpt.training.evaluation import bigram, unigram
from tinygpt.training.run import Run
from tinygpt.training.text_data import MOST_KNOWN, TextData

FIGURE = "losses.png"
PAPER, INK, SOFT, GRID = "#fbfaf6", "#26262e", "#6b6b76", "#dcdad2"
BLUE, ORANGE = "#0072b2", "#d55e00"


def draw_losses(run: Run) -> str | None:
    """Write losses.png into the folder of `run`; None, or a sentence why there is none.

    A run is complete before this begins, and nothing that goes wrong here may cost it:
    neither a matplotlib that cannot be loaded nor a full disk.
    """
    try:
        lines, y_label = curves(run.folder.read_log())
        marks = baselines(run.data)
        if type(run.config) is not TrainConfig:  # it had learned before
            marks["before"] = list(lines.values())[-1][0][1]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fonts, dates, old versions
            content = _png(lines, marks, y_label)
        write_atomically(run.path / FIGURE, lambda part: part.write_bytes(content))
    except Exception as error:
        return f"{FIGURE} could not be drawn ({why(error)}); log.jsonl has the numbers"
    return None


Curve = list[tuple[int, float]]  # (step, value) by (step, value)


def curves(log: list[dict[str, Any]]) -> tuple[dict[str, Curve], str]:
    """The curves of a log by name, and their unit.

    A run that learns from a reward shows the reward, any other its losses.
    """
    names = {"training_loss": "training", "validation_loss": "validation"}
    unit = "loss (nats per token)"
    if log and "reward" in log[0]:
        names, unit = {"reward": "validation prompts"}, "reward"
    lines = {
        name: [(line["step"], line[key]) for line in log if key in line]
        for key, name in names.items()
    }
    return lines, unit


def baselines(data: Any) -> dict[str, float]:
    """Nats per token of predictors that need no network, where there is a text."""
    if not isinstance(data, TextData):
        return {}
    n, val = data.tokenizer.vocab_size, data.val[:MOST_KNOWN]
    return {
        "uniform": math.log(n),
        "unigram": unigram(data.known, val, n),
        "bigram": bigram(data.known, val, n),
    }


def _png(lines: dict[str, Curve], marks: dict[str, float], y_label: str) -> bytes:
    """The picture, 960 pixels wide; a dash tells the lines apart without colour."""
    from matplotlib.figure import Figure  # half a second, at the end of a run

    figure = Figure(figsize=(6.4, 4.0), dpi=150, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot(facecolor=PAPER)
    for (name, curve), colour, dash in zip(
        lines.items(), (BLUE, ORANGE), ("--", "-"), strict=False
    ):
        axes.plot(*zip(*curve, strict=True), dash, color=colour, label=name, lw=2)
    for name, value in marks.items():
        axes.axhline(value, color=SOFT, linewidth=1.2, linestyle=":")
        axes.annotate(
            f"{name} {value:.2f}", (1.0, value), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=9, color=SOFT,
        )  # fmt: skip
    axes.set_xlabel("step", color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
