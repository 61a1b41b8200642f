"""One training step against transformers' GPT-2, litgpt's GPT and the matrix product.

A step is forward, loss, backward and optimizer, on the same shape and batch, in float32
and under bfloat16 autocast, without dropout. Each side is what its users would write:
ours with `make_optimizers`; transformers' `GPT2LMHeadModel` with its own loss, and
litgpt's `GPT` with its own chunked loss, both with `torch.optim.AdamW`. litgpt has no
learned positions, so it adds none here. What counts as work is every product of
matrices that the model needs, forward once and backward twice, half of the attention's
scores because the other half is masked; its share is taken of what `torch.mm` reaches
in the same run. What it leaves out: reading batches, evaluation.

    python benchmarks/training_step.py [--quick]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import (
    LITGPT,
    arguments,
    machine,
    median,
    pairs,
    print_rows,
    ratio,
    row,
    save,
    span,
)

from tinygpt.runtime.device import calm_threads

calm_threads()
import torch
from torch import Tensor

from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.model.gpt import GPT
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.optimizers import make_optimizers

CONTEXT, PEAK_SIZE = 128, 2048
SHAPES = {  # vocab_size, d_model, n_heads, n_layers
    "1M": (4096, 128, 4, 3),
    "3M": (4096, 192, 6, 5),
    "10M": (8192, 320, 5, 6),
    "30M": (50257, 384, 6, 6),
    "124M": (50257, 768, 12, 12),
}
BATCH = {"124M": 4}  # windows per step; 8 for the others
QUICK = ("1M", "10M")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MIN_SECONDS = 1.0  # one measurement takes at least this long
Step = Callable[[Tensor, Tensor], Tensor]  # ids and targets [B, T] -> the loss


def flop_per_token(shape: tuple[int, int, int, int]) -> float:
    """Additions and multiplications of a step, per token."""
    vocab_size, d_model, _, n_layers = shape
    matrices = 12 * n_layers * d_model**2 + vocab_size * d_model
    scores = n_layers * CONTEXT * d_model  # q k^T and weights v, half of each masked
    return 6.0 * (matrices + scores)


def ours(shape: tuple[int, int, int, int]) -> tuple[Step, torch.optim.Optimizer]:
    vocab_size, d_model, n_heads, n_layers = shape
    config = GPTConfig(
        vocab_size=vocab_size,
        context_length=CONTEXT,
        d_model=d_model,
        n_heads=n_heads,
        n_layers=n_layers,
    )
    model = GPT(config).train()
    (optimizer,) = make_optimizers(model, TrainConfig(weight_decay=0.01))
    return NextTokenLoss(model), optimizer


def transformers_gpt2(
    shape: tuple[int, int, int, int],
) -> tuple[Step, torch.optim.Optimizer]:
    from transformers import GPT2Config, GPT2LMHeadModel

    vocab_size, d_model, n_heads, n_layers = shape
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=CONTEXT,
        n_embd=d_model,
        n_head=n_heads,
        n_layer=n_layers,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), 0),
    )
    model = GPT2LMHeadModel(config).train()
    # It shifts the labels itself, so its loss leaves out one target in each window.
    return (
        lambda ids, targets: model(ids, labels=ids).loss,
        torch.optim.AdamW(model.parameters(), weight_decay=0.01),
    )


def litgpt_gpt(
    shape: tuple[int, int, int, int],
) -> tuple[Step, torch.optim.Optimizer]:
    from litgpt import model as litgpt
    from litgpt.config import Config
    from litgpt.utils import chunked_cross_entropy

    vocab_size, d_model, n_heads, n_layers = shape
    config = Config(
        block_size=CONTEXT,
        n_layer=n_layers,
        n_embd=d_model,
        n_head=n_heads,
        padded_vocab_size=vocab_size,
        vocab_size=vocab_size,
        rotary_percentage=0.0,
        parallel_residual=False,
        attn_bias=True,
        bias=True,
        mlp_class_name="GptNeoxMLP",
        gelu_approximate="tanh",
    )
    model = litgpt.GPT(config).train()
    model.lm_head.weight = model.transformer.wte.weight
    with torch.no_grad():  # as GPT-2 starts; PyTorch's own start makes slow denormals
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.02)
    return (
        lambda ids, targets: chunked_cross_entropy(model(ids), targets),
        torch.optim.AdamW(model.parameters(), weight_decay=0.01),
    )


def side(
    make: Callable[..., tuple[Step, torch.optim.Optimizer]],
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    batch: int,
) -> Callable[[], float]:
    """A function that trains for a while and says how many tokens a second it read."""
    torch.manual_seed(0)
    step, optimizer = make(shape)
    window = torch.randint(0, shape[0], (batch, CONTEXT + 1))
    ids, targets = window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def measure() -> float:
        steps, start = 0, time.perf_counter()
        while steps < 1 or time.perf_counter() - start < MIN_SECONDS:
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = step(ids, targets)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        return steps * ids.numel() / (time.perf_counter() - start)

    return measure


def peak(dtype: torch.dtype) -> Callable[[], float]:
    """A function that says how many FLOP/s a product of two large matrices reaches."""
    a, b = torch.randn(2, PEAK_SIZE, PEAK_SIZE).to(dtype).unbind()

    def measure() -> float:
        times = []
        for _ in range(3):
            start = time.perf_counter()
            torch.mm(a, b)
            times.append(time.perf_counter() - start)
        return 2 * PEAK_SIZE**3 / min(times)

    return measure


PARTS = {  # the operations that each part of a step is made of
    "matrix products": ("mm", "addmm", "linear", "baddbmm", "bmm"),
    "attention": ("attention",),
    "activation": ("gelu",),
    "norms": ("layer_norm",),
    "loss": ("softmax", "nll_loss", "logsumexp", "LinearCrossEntropy", "aten::exp"),
    "optimizer": ("adamw", "Optimizer"),
}


def parts(name: str) -> dict[str, float]:
    """The share of our step in float32 that each kind of operation takes."""
    measure = side(ours, SHAPES[name], torch.float32, BATCH.get(name, 8))
    measure()
    with torch.profiler.profile() as profile:
        measure()
    shares = dict.fromkeys((*PARTS, "the rest"), 0.0)
    for event in profile.key_averages():
        fitting = (
            part for part, words in PARTS.items() if any(w in event.key for w in words)
        )
        shares[next(fitting, "the rest")] += event.self_cpu_time_total
    total = sum(shares.values())
    return {part: round(time / total, 4) for part, time in shares.items()}


def all_cores_against_one(name: str, n: int) -> dict[str, Any]:
    """Tokens per second of our step with every core and with a single one, in turn."""
    step, cores = side(ours, SHAPES[name], torch.float32, 8), torch.get_num_threads()

    def with_threads(threads: int) -> Callable[[], float]:
        def measure() -> float:
            torch.set_num_threads(threads)
            try:
                return step()
            finally:
                torch.set_num_threads(cores)

        return measure

    measured = pairs({"all": with_threads(cores), "one": with_threads(1)}, n)
    return {
        "tokens_per_second": {k: median(v) for k, v in measured.items()},
        "ratio": ratio(measured["all"], measured["one"]),
    }


def optimizer_cost(name: str, n: int) -> dict[str, float]:
    """Milliseconds of one AdamW step: in one pass, and as PyTorch does by default."""
    torch.manual_seed(0)
    vocab_size, d_model, _, n_layers = SHAPES[name]
    sizes = [(vocab_size, d_model), *[(12 * d_model, d_model)] * n_layers]
    sides = {}
    for kind, fused in (("fused", True), ("default", None)):
        weights = [torch.randn(size) for size in sizes]
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer = torch.optim.AdamW(weights, fused=fused)

        def measure(optimizer: torch.optim.Optimizer = optimizer) -> float:
            start = time.perf_counter()
            optimizer.step()
            return 1e3 * (time.perf_counter() - start)

        sides[kind] = measure
    measured = pairs(sides, max(n, 5), warmup=2)
    return {kind: median(v) for kind, v in measured.items()}


def compare(name: str, dtype: str, n: int) -> dict[str, Any]:
    """All sides at one shape and precision, in turn."""
    shape, kind, batch = SHAPES[name], DTYPES[dtype], BATCH.get(name, 8)
    sides = {
        "ours": side(ours, shape, kind, batch),
        "transformers": side(transformers_gpt2, shape, kind, batch),
        "litgpt": side(litgpt_gpt, shape, kind, batch),
        "peak": peak(kind),
    }
    measured = pairs(sides, n)
    flop = flop_per_token(shape)
    reached = [flop * v for v in measured["ours"]]
    return {
        "batch": batch,
        "tokens_per_second": {k: median(v) for k, v in measured.items() if k != "peak"},
        "gflop_per_second": {
            k: median([v * (1 if k == "peak" else flop) / 1e9 for v in values])
            for k, values in measured.items()
        },
        "against_transformers": ratio(measured["ours"], measured["transformers"]),
        "against_litgpt": ratio(measured["ours"], measured["litgpt"]),
        "share_of_peak": ratio(reached, measured["peak"]),
    }


def summary(shapes: dict[str, dict[str, Any]]) -> list[dict]:
    """One row per rival and precision, and the share of the peak."""
    rows = []
    for dtype in DTYPES:
        found = {s: r[dtype] for s, r in shapes.items() if dtype in r}
        for rival in ("transformers", "litgpt"):
            each = {s: r[f"against_{rival}"]["median"] for s, r in found.items()}
            words = ", ".join(f"{s} {v:.2f}x" for s, v in each.items())
            ahead = min(each.values()) > 1
            rows.append(row(f"step, {dtype}, against {rival}", "> 1x", words, ahead))
        each = {s: r["share_of_peak"]["median"] for s, r in found.items()}
        words = ", ".join(f"{s} {v:.0%}" for s, v in each.items())
        large = [v for s, v in each.items() if s not in ("1M", "3M")]
        what = f"step, {dtype}, share of the torch.mm peak"
        rows.append(row(what, "60 % from 10M up", words, min(large) >= 0.6))
    return rows


def main() -> None:
    """Measure every shape in both precisions."""
    args = arguments(__doc__)
    sys.path.append(str(LITGPT))
    shapes: dict[str, dict[str, Any]] = {}
    for name in QUICK if args.quick else SHAPES:
        shapes[name] = {}
        for dtype in DTYPES:
            found = shapes[name][dtype] = compare(name, dtype, args.pairs)
            speed = found["tokens_per_second"]
            print(
                f"{name:>5} {dtype:<9}",
                *(f"{k} {v:,.0f} tokens/s " for k, v in speed.items()),
                f"ours {found['gflop_per_second']['ours']:.0f} GFLOP/s,"
                f" {found['share_of_peak']['median']:.0%} of the peak",
                flush=True,
            )
    rows, split = summary(shapes), {name: parts(name) for name in shapes}
    cores = all_cores_against_one("1M", args.pairs)
    rows.append(
        row(
            "step, 1M, all cores against one",
            "not slower",
            span(cores["ratio"]),
            cores["ratio"]["median"] >= 1,
        )
    )
    print_rows(rows)
    result = {
        "machine": machine(),
        "context": CONTEXT,
        "shapes": shapes,
        "parts": split,
        "cores": cores,
        "optimizer_milliseconds": {"10M": optimizer_cost("10M", 9)},
        "rows": rows,
    }
    save("training_step", result, args.quick)


if __name__ == "__main__":
    main()
