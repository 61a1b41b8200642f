"""Draw the figures of "How fast is it, and why" from benchmarks/results.

    python benchmarks/draw.py

writes SVG files into resources/, the same ones from the same results. What it leaves
out: measuring.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import matplotlib as mpl
from matplotlib.axes import Axes
from side_by_side import load

from tinygpt.course.plotting import CYCLE, DASHES, INK, SOFT, lines, new_axes

RESOURCES = Path(__file__).resolve().parent.parent / "resources"
SIDES = {"ours": "TinyGPT", "transformers": "transformers", "litgpt": "litgpt"}


def save(ax: Axes, name: str) -> None:
    """Write the figure of `ax`, without the date."""
    path = RESOURCES / f"{name}.svg"
    ax.figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    text = path.read_text(encoding="utf-8")  # matplotlib leaves blanks at line ends
    trimmed = "\n".join(line.rstrip() for line in text.splitlines())
    path.write_text(trimmed + "\n", encoding="utf-8")


def time_to_quality() -> None:
    """Bits per byte against seconds: the demo's curve, ours, the target."""
    seed, times = (
        load(name)["texts"]["handbook"] for name in ("seed_demo", "time_to_quality")
    )
    per_step = times["seed_seconds"] / times["seed_steps"]
    ax = new_axes()
    seconds = [point["step"] * per_step for point in seed["curve"]]
    demo = [point["bits_per_byte"] for point in seed["curve"]]
    ours = [(p["seconds"], p["bits_per_byte"]) for p in times["curve"] if p["seconds"]]
    for label, x, y, colour, dash in (
        ("TinyGPT", *zip(*ours, strict=True), CYCLE[0], DASHES[0]),
        ("the demo", seconds, demo, CYCLE[1], DASHES[1]),
    ):
        ax.plot(x, y, color=colour, linestyle=dash, label=label)
    ax.axhline(seed["bits_per_byte"], color=SOFT, linestyle=":", label="the goal")
    ax.set(xscale="log", ylim=(1.4, 2.6), title="Two ways to learn one book")
    ax.set(xlabel="seconds of training", ylabel="validation loss (bits per byte)")
    ax.grid(True)
    ax.legend()
    save(ax, "time_to_quality")


def step_speed() -> None:
    """FLOP/s of every side by shape, as a share of what one matrix product reaches."""
    shapes = load("training_step")["shapes"]
    names = list(shapes)
    reached = [shapes[name]["float32"]["gflop_per_second"] for name in names]
    ax = lines(
        range(len(names)),
        {v: [100 * r[k] / r["peak"] for r in reached] for k, v in SIDES.items()},
        title="A training step in float32",
        x_label="parameters",
        y_label="share of torch.mm's speed (%)",
    )
    ax.set_xticks(range(len(names)), names)
    ax.set_ylim(0, 100)
    save(ax, "step_speed")


def step_parts() -> None:
    """What the time of our step goes into, by shape."""
    parts = load("training_step")["parts"]
    names, kinds = list(parts), list(next(iter(parts.values())))
    ax = new_axes(height=3.8)
    left = [0.0] * len(names)
    colours = (*CYCLE[:4], *CYCLE[4:], SOFT)
    for kind, colour in zip(kinds, colours, strict=False):
        shares = [100 * parts[name][kind] for name in names]
        ax.barh(names, shares, left=left, color=colour, label=kind)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    ax.invert_yaxis()
    ax.set(
        title="Where a step's time goes",
        xlabel="share of the time (%)",
        ylabel="parameters",
        xlim=(0, 100),
    )
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=2)
    save(ax, "step_parts")


def bars(
    cases: dict[str, dict[str, float]],
    sides: dict[str, str],
    title: str,
    y_label: str,
    name: str,
) -> None:
    """Tokens per second of the `sides`, which have a key and a label, in every case."""
    width = 0.76 / len(sides)
    ax = new_axes(height=3.4)
    for i, (side, label) in enumerate(sides.items()):
        middle = width * (i - (len(sides) - 1) / 2)
        places = [place + middle for place in range(len(cases))]
        values = [found[side] for found in cases.values()]
        drawn = ax.barh(places, values, width * 0.95, color=CYCLE[i], label=label)
        ax.bar_label(drawn, fmt="{:,.0f}", padding=3, fontsize=10)
    ax.set_yticks(range(len(cases)), list(cases))
    ax.invert_yaxis()
    ax.set_xscale("log")
    ax.margins(x=0.25)
    ax.set(title=title, xlabel="tokens per second", ylabel=y_label)
    ax.legend(loc="upper center", bbox_to_anchor=(0.4, -0.2), ncols=2)
    save(ax, name)


def generation() -> None:
    """Writing in Python, with a cache."""
    cases = {
        f"{name}, {batch}": found["tokens_per_second"]
        for name, batches in load("generation")["speed"].items()
        for batch, found in batches.items()
    }
    sides = {side: SIDES[side] for side in ("ours", "transformers")}
    y_label = "parameters, texts at once"
    bars(cases, sides, "Writing with a cache", y_label, "generation_speed")


def web() -> None:
    """Writing in the page."""
    models = load("web_speed")["models"]
    cases = {name: found["tokens_per_second"] for name, found in models.items()}
    sides = {
        "tinygpt.js": "as the page runs it",
        "onnxruntime-web": "onnxruntime-web",
        "tinygpt.js, plain": "plain JavaScript",
    }
    bars(cases, sides, "Writing in the page", "model", "web_speed")


def growth(measure: str, y_label: str, name: str) -> None:
    """How many times the cost grows when one size grows."""
    cost = load("growth")["cost"]
    ax = new_axes()
    named = {"context": "context length", "parameters": "parameters", "batch": "batch"}
    for (size, label), colour, dash in zip(named.items(), CYCLE, DASHES, strict=False):
        points, fit = cost[size]["points"], cost[size][measure]
        x = [p[size] / points[0][size] for p in points]
        y = [p[measure] / points[0][measure] for p in points]
        label += f": power {fit['b']:.2f}"
        ax.plot(x, y, "o", color=colour, linestyle=dash, label=label)
    ax.set(xscale="log", yscale="log")
    ends = ax.get_xlim()
    ax.plot(ends, ends, color=SOFT, linewidth=1, linestyle=":", label="in proportion")
    ax.grid(True)
    ax.legend()
    ax.set(xlabel="times larger", ylabel=y_label, title="One size grows")
    save(ax, name)


def dial() -> None:
    """What each plan reached against its minutes, and what was expected of it."""
    ax = new_axes(height=4.2)
    names = {"chats": "shop chats", "python": "Python source", "russian": "Russian"}
    found = load("dial")
    last = 2 * max(float(m) for runs in found["plans"].values() for m in runs)
    for (name, text), colour, dash in zip(
        found["texts"].items(), CYCLE, DASHES, strict=False
    ):
        runs = found["plans"].get(name, {})
        ticks = [float(m) for m in text["expected"] if float(m) <= last]
        line = list(text["expected"].values())[: len(ticks)]
        ax.plot(ticks, line, color=colour, linestyle=dash, linewidth=1.2)
        minutes = [float(m) for m in runs]
        bits = [run["bits_per_byte"] for run in runs.values()]
        label = names.get(name, name)
        ax.plot(minutes, bits, "o", color=colour, linestyle="", label=label)
    ax.set_xscale("log")
    ax.set_xticks(ticks, [f"{m:g}" for m in ticks])
    ax.minorticks_off()
    ax.set(xlabel="minutes of two cores", ylabel="validation loss (bits per byte)")
    ax.set_title("Lines: expected; points: reached")
    ax.grid(True)
    ax.legend(loc="upper center", bbox_to_anchor=(0.45, -0.2), ncols=3)
    save(ax, "dial")


OPTIMIZERS = {"sgd": "SGD with momentum", "adamw": "AdamW", "muon": "Muon, AdamW"}


def optimizers() -> None:
    """Validation loss by step of three optimizers, each at its best rate, all seeds."""
    found = load("controls")
    ax = new_axes()
    for i, (name, label) in enumerate(OPTIMIZERS.items()):
        runs = found["groups"]["optimizers"][found["best"][name]]["runs"].values()
        curves = [[p["bits_per_byte"] for p in run["curve"]] for run in runs]
        steps = [p["step"] for p in next(iter(runs))["curve"]]
        low, high = (list(map(f, zip(*curves, strict=True))) for f in (min, max))
        ax.fill_between(steps, low, high, color=CYCLE[i], alpha=0.25)
        middle = [sum(points) / len(points) for points in zip(*curves, strict=True)]
        ax.plot(steps, middle, color=CYCLE[i], linestyle=DASHES[i], label=label)
    ax.set(xlabel="step", ylabel="validation loss (bits per byte)")
    ax.grid(True)
    ax.legend()
    save(ax, "optimizers")


SWITCHES = {
    "rotary": "rotary positions",
    "untied": "a head of its own",
    "zero_init": "blocks start at zero",
    "relu2": "squared ReLU",
    "softcap": "soft cap",
    "swiglu": "SwiGLU",
    "no_bias": "no biases",
    "qk_norm": "QK-norm",
    "rmsnorm": "RMSNorm, no gain",
    "all": "all at once",
}


def switches() -> None:
    """What each modern joint changes, after equal steps and after equal time."""
    found = load("controls")["groups"]["switches"]
    plain = found["plain"]["summary"]["mean"]
    ax = new_axes(height=4.2)
    for i, (end, label) in enumerate(
        (("", "after as many steps"), (", equal time", "after as much time"))
    ):
        for row, name in enumerate(SWITCHES):
            one = found[name + end]["summary"]
            at = row + (0.14 if end else -0.14)
            low, high = one["low"] - plain, one["high"] - plain
            ax.plot([low, high], [at, at], "-", color=CYCLE[i], linewidth=1.5)
            ax.plot(one["mean"] - plain, at, "os"[i], color=CYCLE[i], markersize=6)
        ax.plot([], [], "os"[i], color=CYCLE[i], label=label)
    spread = [found["plain"]["summary"][key] - plain for key in ("low", "high")]
    ax.axvspan(*spread, color=SOFT, alpha=0.2, label="the plain model's seeds")
    ax.set_yticks(range(len(SWITCHES)), list(SWITCHES.values()))
    ax.invert_yaxis()
    ax.set(xlabel="change of the validation loss (bits per byte)")
    ax.grid(True, axis="x")
    ax.legend(loc="upper center", bbox_to_anchor=(0.35, -0.15), ncols=1)
    save(ax, "switches")


def short(number: float) -> str:
    """A large number in a few signs."""
    return f"{number / 1e6:.2g}M" if number >= 1e5 else f"{number / 1e3:.0f}k"


def scaling(x: str, held: str, label: str, name: str) -> None:
    """The loss against `x`, a line per value of `held`, the last one fitted."""
    law = load("growth")["scaling"]
    grid, fit = law["grid"], law[f"by_{x}"]
    ax = new_axes()
    kept = sorted({p[held] for p in grid})
    for value, colour, dash in zip(kept, CYCLE, DASHES, strict=False):
        line = [p for p in grid if p[held] == value]
        ax.plot(
            [p[x] for p in line],
            [p["nats_per_token"] for p in line],
            "o",
            color=colour,
            linestyle=dash,
            label=short(value),
        )
    places = [p[x] for p in line]
    fitted = [fit["a"] * place ** fit["b"] for place in places]
    ax.plot(places, fitted, color=INK, linewidth=1, label=f"fit: power {fit['b']:.2f}")
    ax.set(xscale="log", yscale="log", xlabel=x, ylabel="loss (nats per token)")
    ax.set_yticks([4, 5, 6, 7], ["4", "5", "6", "7"], minor=False)
    ax.set_xticks(places, [short(place) for place in places], minor=False)
    ax.minorticks_off()
    ax.set_title(f"Lines: {label}")
    ax.grid(True)
    ax.legend()
    save(ax, name)


def main() -> None:
    """Draw all."""
    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "tinygpt"  # the same names in every file
    time_to_quality()
    step_speed()
    step_parts()
    generation()
    web()
    growth("seconds", "times more seconds", "growth_seconds")
    growth("bytes", "times more memory", "growth_memory")
    scaling("parameters", "tokens", "tokens read", "scaling_parameters")
    scaling("tokens", "parameters", "parameters", "scaling_tokens")
    dial()
    optimizers()
    switches()


if __name__ == "__main__":
    main()
