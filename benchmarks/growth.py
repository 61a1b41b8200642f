"""How the cost of a step grows, and what a bigger model and a longer run buy.

Cost: the seconds of a training step and the memory it needs, against the context
length, the model's size and the batch, each changed alone and fitted with a power law
y = a x^b. Memory is counted, not watched: weights, gradients, the optimizer's two
averages, and every tensor that the forward pass keeps for the backward one.

Gain: a grid of small models and short runs on the handbook, each with the default
preset's own schedule; the loss on the whole validation split against parameters and
against tokens, fitted in the same way (Kaplan et al., 2020, "Scaling Laws for Neural
Language Models", equations 1.1 and 1.2). What it leaves out: shapes that do not fit
into a few minutes, and so the floor at which such curves flatten.

    python benchmarks/growth.py [--quick]
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import arguments, machine, median, print_rows, row, save

from tinygpt.runtime.device import calm_threads

calm_threads()
import numpy as np
import torch
from torch import Tensor

from tinygpt.config import GPTConfig, TrainConfig, replace
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.optimizers import make_optimizers
from tinygpt.training.run import pretrain

VOCAB_SIZE, CONTEXT, D_MODEL, BATCH, HEAD_DIM = 4096, 128, 128, 4, 32
CONTEXTS = (64, 128, 256, 512, 1024, 2048)
WIDTHS = (64, 128, 192, 256, 384, 512)  # n_layers = d_model / 32, at least 2
BATCHES = (1, 2, 4, 8, 16, 32)
MIN_SECONDS, TURNS = 0.4, 3
GRID_WIDTHS, GRID_STEPS = (16, 32, 64, 128), (20, 40, 80, 160)


def power_law(x: list[float], y: list[float]) -> dict[str, float]:
    """The a and b of y = a x^b that fit best when both axes are logarithmic."""
    b, log_a = np.polyfit(np.log(x), np.log(y), 1)
    rest = np.log(y) - (log_a + b * np.log(x))
    spread = np.log(y) - np.log(y).mean()
    explained = 1 - float(rest @ rest) / float(spread @ spread)
    return {
        "a": float(f"{np.exp(log_a):.4g}"),
        "b": round(float(b), 3),
        "r2": round(explained, 3),
    }


def step_cost(context: int, d_model: int, batch: int) -> dict[str, float]:
    """Seconds of the median step, bytes it needs, and the model's parameters."""
    torch.manual_seed(0)
    model = GPT(
        GPTConfig(
            vocab_size=VOCAB_SIZE,
            context_length=context,
            d_model=d_model,
            n_heads=d_model // HEAD_DIM,
            n_layers=max(2, d_model // 32),
        )
    ).train()
    (optimizer,) = make_optimizers(model, TrainConfig())
    window = torch.randint(0, VOCAB_SIZE, (batch, context + 1))
    kept: dict[int, int] = {}  # where a tensor lies -> its bytes

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def step() -> None:
        NextTokenLoss(model)(window[:, :-1], window[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        step()
    weights = {p.data_ptr(): p.nbytes for p in model.parameters()}
    activations = sum(size for at, size in kept.items() if at not in weights)
    times: list[float] = []
    while len(times) < TURNS or sum(times) < MIN_SECONDS:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {
        "context": context,
        "parameters": model.n_parameters(),
        "batch": batch,
        "seconds": median(times),
        "bytes": 4 * sum(weights.values()) + activations,
        "bytes_kept": activations,
    }


def grown(quick: bool) -> dict[str, Any]:
    """The cost against each of the three sizes, with its fits."""
    first = slice(0, 3) if quick else slice(None)
    series = {
        "context": [step_cost(c, D_MODEL, BATCH) for c in CONTEXTS[first]],
        "parameters": [step_cost(CONTEXT, w, BATCH) for w in WIDTHS[first]],
        "batch": [step_cost(CONTEXT, D_MODEL, b) for b in BATCHES[first]],
    }
    result = {}
    for name, points in series.items():
        x = [point[name] for point in points]
        result[name] = {
            "points": points,
            "seconds": power_law(x, [point["seconds"] for point in points]),
            "bytes": power_law(x, [point["bytes"] for point in points]),
        }
        print(name, *points, result[name]["seconds"], sep="\n  ", flush=True)
    return result


def trained(d_model: int, steps: int) -> dict[str, float]:
    """The loss that a model of this width reaches in so many steps."""
    preset = PRESETS["tiny"]
    shape = replace(preset.model, d_model=d_model, n_heads=max(1, d_model // HEAD_DIM))
    plan = replace(preset.train, steps=steps, eval_interval=steps, dtype="float32")
    run = pretrain(Path("no-run"), shape, plan)
    start = time.perf_counter()
    *_, last = run.trainer.run()
    return {
        "d_model": d_model,
        "parameters": run.model.n_parameters(),
        "tokens": steps * plan.batch_size * shape.context_length,
        "seconds": round(time.perf_counter() - start, 2),
        "nats_per_token": round(last.validation.nats_per_token, 4),
        "bits_per_byte": round(last.validation.bits_per_byte, 4),
    }


def scaled(quick: bool) -> dict[str, Any]:
    """The grid, and a power law along each of its far edges."""
    widths, lengths = GRID_WIDTHS, GRID_STEPS
    if quick:
        widths, lengths = widths[:3], lengths[:3]
    grid = []
    for width in widths:
        for steps in lengths:
            grid.append(trained(width, steps))
            print(grid[-1], flush=True)
    longest = [p for p in grid if p["tokens"] == grid[-1]["tokens"]]
    largest = [p for p in grid if p["d_model"] == widths[-1]]
    return {
        "grid": grid,
        "by_parameters": power_law(
            [p["parameters"] for p in longest], [p["nats_per_token"] for p in longest]
        ),
        "by_tokens": power_law(
            [p["tokens"] for p in largest], [p["nats_per_token"] for p in largest]
        ),
    }


def main() -> None:
    """Measure cost and gain."""
    args = arguments(__doc__)
    start = time.process_time()
    cost, law = grown(args.quick), scaled(args.quick)
    rows = [
        row(
            f"growth, step against {name}",
            "",
            f"time ~ {name}^{c['seconds']['b']:.2f}, "
            f"memory ~ {name}^{c['bytes']['b']:.2f}",
        )
        for name, c in cost.items()
    ]
    rows += [
        row(f"growth, loss against {x}", "", f"loss ~ {x}^{law[f'by_{x}']['b']:.3f}")
        for x in ("parameters", "tokens")
    ]
    print_rows(rows)
    result = {
        "machine": machine(),
        "cpu_seconds": round(time.process_time() - start, 1),
        "cost": cost,
        "scaling": law,
        "rows": rows,
    }
    save("growth", result, args.quick)


if __name__ == "__main__":
    main()
