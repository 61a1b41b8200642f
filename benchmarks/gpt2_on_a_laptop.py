"""What fine-tuning GPT-2 (124M) costs on this machine: seconds per step and memory.

Random weights in GPT-2's shape are used: they cost the same as the real ones. Every
variant runs in a process of its own, so that its peak memory is its own, and they
take turns. Beside the seconds on the clock stand those of the processor, all threads
added up: other programs lengthen them much less.

    python benchmarks/gpt2_on_a_laptop.py            prints a table, writes results/
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

VARIANTS = ("full", "full, recomputed", "LoRA", "LoRA, recomputed")
BATCH, WINDOW = 4, 128


def measure(variant: str, steps: int) -> dict[str, Any]:
    """Seconds of each step and peak memory of this process, in GB."""
    from tinygpt.runtime.device import calm_threads

    calm_threads()
    import torch

    from tinygpt.config import FinetuneConfig
    from tinygpt.finetuning.lora import add_lora
    from tinygpt.model.gpt import GPT
    from tinygpt.presets import PRESETS
    from tinygpt.training.loss import NextTokenLoss
    from tinygpt.training.optimizers import make_optimizers

    torch.manual_seed(0)
    model = GPT(PRESETS["gpt2"].model).train()
    model.recompute = "recomputed" in variant
    if "LoRA" in variant:
        add_lora(model, rank=8, alpha=16.0)
    (optimizer,) = make_optimizers(model, FinetuneConfig(warmup_steps=0))
    ids = torch.randint(0, 50257, (BATCH, WINDOW + 1))
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter(), time.process_time()
        NextTokenLoss(model)(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kB on Linux
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {
        "variant": variant,
        "times": times[1:],
        "peak memory, GB": round(peak, 2),
        "trained parameters": trained,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Measure every variant in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.steps)))
        return
    rows: dict[str, dict[str, Any]] = {}
    for _ in range(args.rounds):
        for variant in VARIANTS:
            command = [sys.executable, __file__, "--variant", variant]
            command += ["--steps", str(args.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            row = json.loads(done.stdout.splitlines()[-1])
            row["times"] += rows[variant]["times"] if variant in rows else []
            rows[variant] = row
    for row in rows.values():
        seconds, processor = zip(*row.pop("times"), strict=True)
        row["seconds per step"] = round(statistics.median(seconds), 2)
        row["processor seconds per step"] = round(statistics.median(processor), 2)
        print(row, flush=True)
    result = {
        "what": f"GPT-2 124M, batch {BATCH} x {WINDOW} tokens, float32, AdamW",
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "rows": list(rows.values()),
    }
    path = Path(__file__).parent / "results" / "gpt2_on_a_laptop.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
