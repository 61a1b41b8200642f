"""The headline: time until our default preset predicts as well as the demo's recipe.

The target is what the demo's 5,000 steps end with, in bits per byte on the whole
validation split (results/seed_demo.json, made once by seed_demo.py). In every pair we
train the default preset until it is there, and take a stretch of the demo's steps, its
evaluations included, from which follows what 5,000 of them take now. Both sides read
the same text on the same threads; both clocks start with the text already in memory,
and ours counts the vocabulary's work, the model's making and every evaluation.

    python benchmarks/time_to_quality.py [--quick]
"""

import argparse
import os
import time
from dataclasses import replace

from tinygpt.distributed import calm_threads

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))  # for both sides
calm_threads()
import seed_demo
import torch
from side_by_side import load, machine, median, pairs, ratio, save

from tinygpt.config import PRESETS, TrainConfig
from tinygpt.pretrain import prepare


def our_seconds(config: TrainConfig, target: float) -> tuple[float, dict[str, float]]:
    """Seconds until the whole validation split is at `target`, and what was seen."""
    start = time.perf_counter()
    run = prepare(PRESETS["tiny"].model, config)
    for look in run.trainer.run():
        seen = look.validation.bits_per_byte
        if seen <= target:
            break
    seconds = time.perf_counter() - start
    assert seen <= target, f"the run ended at {seen:.4f}, the target is {target:.4f}"
    return seconds, {"step": look.step, "bits_per_byte": seen}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter stretches")
    args = parser.parse_args()
    seed = load("seed_demo")
    target, steps = seed["bits_per_byte"], seed["steps"]
    stretch = 20 if args.quick else 100  # each begins with the demo's evaluation
    # Looks at the whole split, so that no sample decides.
    config = replace(PRESETS["tiny"].train, eval_windows=10**9)
    demo, last = seed_demo.Run(), dict[str, float]()

    def ours() -> float:
        seconds, at = our_seconds(config, target)
        last.update(at)
        return seconds

    def theirs() -> float:
        start = time.perf_counter()
        for _ in demo.steps(stretch, last_look=False):
            pass
        return (time.perf_counter() - start) / stretch * steps

    measured = pairs({"demo": theirs, "ours": ours})
    gain = ratio(measured["demo"], measured["ours"])
    print(f"the demo: {target} bits per byte after {median(measured['demo'])} s")
    print(f"ours:     {last['bits_per_byte']:.4f} after {median(measured['ours'])} s")
    print(f"{gain['median']:.0f} times ({gain['low']:.0f} to {gain['high']:.0f})")
    if args.quick:
        return
    save(
        "time_to_quality",
        {
            "machine": machine(),
            "target_bits_per_byte": target,
            "seed_seconds": median(measured["demo"]),
            "our_seconds": median(measured["ours"]),
            "our_steps": last["step"],
            "our_bits_per_byte": round(last["bits_per_byte"], 4),
            "ratio": gain,
            "threads": torch.get_num_threads(),
        },
    )


if __name__ == "__main__":
    main()
