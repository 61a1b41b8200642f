"""Draw the figures that the README and the site show, from the course's own code.

    python resources/figures.py

Trains the preset "tiny" for a minute on the CPU, then writes PNG files beside this
script and the preview picture of the site. What it leaves out: the chapters' figures,
which their notebooks hold.
"""

from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes

from tinygpt.config import replace
from tinygpt.course.model_map import model_map
from tinygpt.course.plotting import (
    PAPER,
    attention_map,
    heatmap,
    loss_curves,
    new_axes,
    positional_encoding,
)
from tinygpt.model.masking import causal_mask
from tinygpt.model.positional import sinusoidal_positions
from tinygpt.presets import PRESETS
from tinygpt.training.run import pretrain
from tinygpt.training.text_data import TextData

HERE = Path(__file__).resolve().parent
SENTENCE = "The salesperson asks the customer one"


def save(ax: Axes, name: str) -> None:
    """Write the figure of `ax`, without the date and version of the program."""
    path = HERE / f"{name}.png"
    ax.figure.savefig(path, metadata={"Software": None}, bbox_inches="tight")


def card() -> None:
    """The picture that stands for the site in a link preview, 1200 by 630 pixels."""
    ax = new_axes(6, 3.15)
    ax.figure.set_layout_engine("none")
    ax.set_position((0.42, 0.02, 0.58, 0.96))
    model_map("attention", ax=ax)
    for text in ax.texts:
        text.set_fontsize(5.5)
    ax.figure.text(0.04, 0.55, "TinyGPT", fontsize=30, weight="bold")
    ax.figure.text(0.04, 0.42, "a Transformer from scratch", fontsize=12)
    path = HERE.parent / "book" / "_static" / "card.png"
    ax.figure.savefig(path, metadata={"Software": None}, facecolor=PAPER)


def main() -> None:
    """Train, then draw."""
    mpl.use("Agg")
    save(model_map(), "model_map")
    card()
    save(
        positional_encoding(sinusoidal_positions(64, 64), title="Sinusoidal positions"),
        "positional_encoding",
    )

    preset = PRESETS["tiny"]
    run = pretrain(
        HERE / "no-run", preset.model, replace(preset.train, eval_windows=64)
    )
    reports = list(run.trainer.run(show_progress=True))
    text = TextData("handbook", run.tokenizer, preset.model.context_length)
    lengths = torch.tensor(run.tokenizer.byte_lengths)
    bytes_per_token = lengths[text.val].float().mean().item()
    nats = bytes_per_token * torch.tensor(2.0).log().item()
    lines = {name: v * nats for name, v in text.baselines().items()}
    losses = {
        "training": [report.training_loss for report in reports],
        "validation": [report.validation.nats_per_token for report in reports],
    }
    steps = [report.step for report in reports]
    save(loss_curves(steps, losses, lines, title="A minute of training"), "loss_curve")

    tokenizer, model = run.tokenizer, run.model.eval()
    ids = tokenizer.encode(SENTENCE)
    tokens = [tokenizer.decode([i]) for i in ids]
    positions = torch.arange(len(ids))
    with torch.no_grad():
        block = model.blocks[0]
        x = block.norm1(model.embed(torch.tensor([ids]), positions))
        q, k, _ = block.attention.heads(x, lambda t: model.rotary(t, positions))
        scores = (q @ k.transpose(-2, -1) / q.size(-1) ** 0.5)[0, 0]  # [T, T]
    hidden = scores.masked_fill(~causal_mask(len(ids)), -torch.inf)
    names = {"x_label": "key: who is heard", "y_label": "query: who listens"}
    end = scores.abs().max().item()
    for matrix, when in ((scores, "before"), (hidden, "after")):
        ax = heatmap(
            matrix,
            tokens,
            tokens,
            title=f"Scores {when} the mask",
            value_label="score",
            signed=True,
            limits=(-end, end),
            **names,
        )
        save(ax, f"scores_{when}_mask")
    save(
        attention_map(hidden.softmax(dim=-1), tokens, title="After softmax"), "weights"
    )


if __name__ == "__main__":
    main()
