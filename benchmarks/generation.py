"""Tokens per second of generation, against transformers' `generate`, same weights.

A GPT-2 of each shape, with random weights, is copied into transformers' own GPT-2. Both
continue the same prompt greedily with their caches until the context of 128 is
full, one text at a time and sixteen at once, and must write the same tokens. Then, with
a context of 1,024, what a token costs early and late in a long text. What it leaves
out: sampling, whose cost both sides share, and texts longer than the context.

    python benchmarks/generation.py [--quick]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import (
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
from transformers import GPT2Config, GPT2LMHeadModel

from tinygpt.config import GPTConfig
from tinygpt.formats.huggingface import _stored as gpt2_weights  # what `export` writes
from tinygpt.generation.generate import generate
from tinygpt.model.gpt import GPT

CONTEXT, LONG, PROMPT = 128, 1024, 8
SHAPES = {  # vocab_size, d_model, n_heads, n_layers
    "2M": (4096, 192, 6, 3),
    "124M": (50257, 768, 12, 12),
}
GOALS = {"2M": 5.0, "124M": 1.3}
BATCHES = (1, 16)
EARLY, LATE, AROUND = 10, 1000, 10  # tokens: early and late, and how many around each


def both(name: str, context: int = CONTEXT) -> tuple[GPT, GPT2LMHeadModel]:
    """One model, as ours and as transformers'."""
    vocab_size, d_model, n_heads, n_layers = SHAPES[name]
    torch.manual_seed(0)
    ours = GPT(
        GPTConfig(
            vocab_size=vocab_size,
            context_length=context,
            d_model=d_model,
            n_heads=n_heads,
            n_layers=n_layers,
        )
    ).eval()
    theirs = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocab_size,
            n_positions=context,
            n_embd=d_model,
            n_head=n_heads,
            n_layer=n_layers,
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    theirs.load_state_dict(gpt2_weights(ours, torch.float32), strict=False)
    theirs.tie_weights()
    return ours, theirs


def compare(name: str, batch: int, n: int) -> dict[str, Any]:
    """Tokens per second of both, in turn, and their ratio."""
    ours, theirs = both(name)
    prompt = torch.randint(0, SHAPES[name][0], (batch, PROMPT))
    new = CONTEXT - PROMPT
    texts: dict[str, Tensor] = {}

    def we(use_cache: bool = True) -> float:
        options = {"temperature": 0.0, "use_cache": use_cache}
        start = time.perf_counter()
        tokens = list(generate(ours, prompt, new, **options))
        seconds = time.perf_counter() - start
        texts["ours"] = torch.stack(tokens, dim=1)
        return batch * new / seconds

    def they() -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            ids = theirs.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - start
        texts["theirs"] = ids[:, PROMPT:]
        return batch * new / seconds

    measured = pairs({"ours": we, "transformers": they}, n)
    agree = (texts["ours"] == texts["theirs"]).float().mean().item()
    speed = {k: median(v) for k, v in measured.items()}
    if name == "2M" and batch == 1:  # a large model would take minutes
        speed["without_cache"] = median([we(use_cache=False)])
    return {
        "tokens_per_second": speed,
        "ratio": ratio(measured["ours"], measured["transformers"]),
        "same_tokens": round(agree, 3),
    }


def cost_per_token(name: str, n: int) -> dict[str, Any]:
    """Milliseconds per token around the 10th and the 1,000th of a long text."""
    model, _ = both(name, LONG)
    vocab_size = SHAPES[name][0]

    def at(place: int) -> Callable[[], float]:
        """Tokens written around `place`, after a prompt that leads there."""
        prompt = torch.randint(0, vocab_size, (1, place - AROUND // 2))

        def measure() -> float:
            steps = generate(model, prompt, AROUND + 1, temperature=0.0)
            next(steps)  # reads the prompt
            times = []
            for _ in range(AROUND):
                start = time.perf_counter()
                next(steps)
                times.append(time.perf_counter() - start)
            return 1e3 * median(times)

        return measure

    measured = pairs({"early": at(EARLY), "late": at(LATE)}, n)
    return {
        "milliseconds": {k: median(v) for k, v in measured.items()},
        "ratio": ratio(measured["late"], measured["early"]),
    }


def main() -> None:
    """Measure both shapes at both batch sizes, then the cost per token."""
    args = arguments(__doc__)
    n = args.pairs
    rows, speed, cost = [], {}, {}
    for name in ("2M",) if args.quick else SHAPES:
        speed[name] = {}
        for batch in BATCHES:
            found = speed[name][f"batch {batch}"] = compare(name, batch, n)
            print(f"{name} batch {batch}: {found}", flush=True)
            rows.append(
                row(
                    f"generation, {name}, batch {batch}, against transformers",
                    f"{GOALS[name]}x",
                    span(found["ratio"]),
                    found["ratio"]["median"] >= GOALS[name],
                )
            )
    for name in speed:
        found = cost[name] = cost_per_token(name, 4 * n)
        print(f"{name} cost per token: {found}", flush=True)
        rows.append(
            row(
                f"generation, {name}, token {LATE:,} against token {EARLY}",
                "within 20 %",
                span(found["ratio"]),
                found["ratio"]["median"] <= 1.2,
            )
        )
    print_rows(rows)
    result = {"machine": machine(), "speed": speed, "cost": cost, "rows": rows}
    save("generation", result, args.quick)


if __name__ == "__main__":
    main()
