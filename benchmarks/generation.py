"""Tokens per second of generation, against transformers and ctranslate2, same weights.

A GPT-2 of each shape, with random weights, is copied into transformers' own GPT-2 and
into ctranslate2's, in float32 and in int8 as it quantises. All continue the same prompt
greedily with their caches, one text at a time and sixteen at once; ours with weights of
four bytes, two and one. The float32 sides must write the same tokens. Then memory, and
what a token costs early and late in a long text, with a context of 1,024. What it
leaves out: sampling, whose cost all sides share, and texts longer than the context.

    python benchmarks/generation.py [--quick]      (needs transformers and ctranslate2)
"""

import sys
import time
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
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
import ctranslate2
import torch
from ctranslate2.converters.transformers import GPT2Loader
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from tinygpt.config import GPTConfig
from tinygpt.fast.quantized import WEIGHTS, Int8Linear, convert_weights
from tinygpt.formats.huggingface import _renamed, _stored  # what `export` writes
from tinygpt.generation.generate import generate
from tinygpt.model.gpt import GPT

CONTEXT, LONG, PROMPT = 128, 1024, 8
SHAPES = {  # vocab_size, d_model, n_heads, n_layers
    "2M": (4096, 192, 6, 3),
    "124M": (50257, 768, 12, 12),
}
NEW = {"2M": 120, "124M": 40}  # tokens
BATCHES = (1, 16)
# shape, batch, our side, their side, at least how many times as fast
GOALS = (
    ("2M", 1, "ours", "transformers", 5.0),
    ("2M", 16, "ours", "transformers", 2.0),
    ("124M", 1, "ours", "transformers", 2.0),
    ("124M", 1, "ours", "ctranslate2", 1.0),
    ("124M", 1, "ours, int8", "ctranslate2, int8", 0.8),
)
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
    theirs.load_state_dict(_stored(_renamed(ours), torch.float32), strict=False)
    theirs.tie_weights()
    return ours, theirs


def in_ctranslate2(model: GPT2LMHeadModel, kind: str) -> ctranslate2.Generator:
    """The same weights for ctranslate2; token i is called "i"."""
    loader = GPT2Loader()
    spec = loader.get_model_spec(model)
    spec.register_vocabulary([str(i) for i in range(model.config.vocab_size)])
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
    spec.validate()
    spec.optimize(quantization=kind if kind == "int8" else None)
    with TemporaryDirectory() as folder:
        spec.save(folder)
        return ctranslate2.Generator(
            folder,
            device="cpu",
            compute_type=kind,
            inter_threads=1,
            intra_threads=torch.get_num_threads(),
        )


def megabytes(model: GPT) -> float:
    """What the weights take; those of a packed matrix by their number."""
    stored = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
    layers = [part for part in model.modules() if isinstance(part, Int8Linear)]
    inside = [m.packed.unpack()[0].numel() for m in layers if m.rows is None]
    return round((sum(stored.values()) + sum(inside)) / 1e6, 2)


def compare(name: str, batch: int, n: int) -> dict[str, Any]:
    """Tokens per second of all sides, in turn, and their ratios."""
    ours, theirs = both(name)
    prompt, new = torch.randint(1, SHAPES[name][0], (batch, PROMPT)), NEW[name]
    texts: dict[str, Tensor] = {}

    def we(side: str, model: GPT, use_cache: bool = True) -> float:
        options = {"temperature": 0.0, "use_cache": use_cache}
        start = time.perf_counter()
        tokens = list(generate(model, prompt, new, **options))
        seconds = time.perf_counter() - start
        texts[side] = torch.stack(tokens, dim=1)
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
        texts["transformers"] = ids[:, PROMPT:]
        return batch * new / seconds

    def it(side: str, generator: ctranslate2.Generator) -> float:
        words = [[str(i) for i in row] for row in prompt.tolist()]
        length = {"max_length": new, "min_length": new}
        start = time.perf_counter()
        written = generator.generate_batch(
            words, include_prompt_in_result=False, **length
        )
        seconds = time.perf_counter() - start
        texts[side] = torch.tensor([row.sequences_ids[0] for row in written])
        return batch * new / seconds

    sides: dict[str, Callable[[], float]] = {"transformers": they}
    memory = {}
    for kind in WEIGHTS:
        side = "ours" if kind == "float32" else f"ours, {kind}"
        model = deepcopy(ours)
        convert_weights(model, kind)
        memory[side] = megabytes(model)
        sides[side] = partial(we, side, model)
    for kind in ("float32", "int8"):
        side = "ctranslate2" if kind == "float32" else f"ctranslate2, {kind}"
        sides[side] = partial(it, side, in_ctranslate2(deepcopy(theirs), kind))
    measured = pairs(sides, n)
    speed = {k: median(v) for k, v in measured.items()}
    if name == "2M" and batch == 1:  # a large model would take minutes
        speed["without_cache"] = median([we("without_cache", ours, use_cache=False)])
    agree = {
        side: round((text == texts["ours"]).float().mean().item(), 3)
        for side, text in texts.items()
        if text.shape == texts["ours"].shape
    }
    ratios = {
        f"{us} / {them}": ratio(measured[us], measured[them])
        for us in sides
        for them in sides
        if us.startswith("ours") and them != us
    }
    return {
        "tokens_per_second": speed,
        "ratio": ratios["ours / transformers"],
        "ratios": ratios,
        "megabytes": memory,
        "same_tokens": agree["transformers"],
        "same_tokens_as_ours": agree,
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
    for name, batch, us, them, goal in GOALS:
        if name in speed:
            found = speed[name][f"batch {batch}"]["ratios"][f"{us} / {them}"]
            what = f"generation, {name}, batch {batch}, {us} against {them}"
            reached = found["median"] >= goal
            rows.append(row(what, f"{goal}x", span(found), reached))
    for name in speed:
        found = cost[name] = cost_per_token(name, 4 * n)
        print(f"{name} cost per token: {found}", flush=True)
        rows.append(
            row(
                f"generation, {name}, token {LATE:,} against token {EARLY}",
                "at most 1.3x",
                span(found["ratio"]),
                found["ratio"]["median"] <= 1.3,
            )
        )
    print_rows(rows)
    result = {"machine": machine(), "speed": speed, "cost": cost, "rows": rows}
    save("generation", result, args.quick)


if __name__ == "__main__":
    main()
