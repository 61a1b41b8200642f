"""The headline: time until our default preset predicts as well as the demo's recipe.

The target is what the demo's 5,000 steps end with, in bits per byte on the whole
validation split (results/seed_demo.json, made once by seed_demo.py). In every pair we
train the default preset until it is there, and take a stretch of the demo's steps, its
evaluations included, from which follows what 5,000 of them take now. Both sides read
the same text on the same threads; both clocks start with the text already in memory,
and ours counts the vocabulary's work, the model's making and every evaluation.

    python benchmarks/time_to_quality.py [--quick]
"""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tinygpt.runtime.device import calm_threads

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))  # for both sides
calm_threads()
import seed_demo
from side_by_side import arguments, load, machine, median, pairs, ratio, row, save, span

from tinygpt.presets import PRESETS
from tinygpt.training.report import EvalReport
from tinygpt.training.run import pretrain

PRESET = PRESETS["tiny"]
GOAL, LEAST = 250, 100  # times faster


def reports(eval_interval: int) -> Iterator[EvalReport]:
    """A run of the default preset; each report is on the whole split, not a sample."""
    config = replace(PRESET.train, eval_windows=10**9, eval_interval=eval_interval)
    return pretrain(Path("no-run"), PRESET.model, config).trainer.run()


def main() -> None:
    args = arguments(__doc__)
    seed = load("seed_demo")
    target, steps = seed["bits_per_byte"], seed["steps"]
    stretch = 20 if args.quick else 100  # each begins with the demo's evaluation
    demo, reached = seed_demo.Run(), list[EvalReport]()

    def ours() -> float:
        start = time.perf_counter()
        for report in reports(PRESET.train.eval_interval):
            if report.validation.bits_per_byte <= target:
                reached.append(report)
                return time.perf_counter() - start
        raise SystemExit(f"the run ended above the target of {target} bits per byte")

    def theirs() -> float:
        start = time.perf_counter()
        for _ in demo.steps(stretch, last_estimate=False):
            pass
        return (time.perf_counter() - start) / stretch * steps

    measured = pairs({"demo": theirs, "ours": ours}, args.pairs)
    gain, last = ratio(measured["demo"], measured["ours"]), reached[-1]
    what = f"time to the demo's quality, {target} bits per byte"
    goal = f"{GOAL}x, at least {LEAST}x"
    line = row(what, goal, span(gain), gain["median"] >= GOAL)
    print(f"the demo: {steps} steps, {median(measured['demo'])} s")
    print(
        f"ours:     {last.step} steps, {median(measured['ours'])} s, {line['result']}"
    )
    curve = [] if args.quick else reports(eval_interval=15)
    save(
        "time_to_quality",
        {
            "machine": machine(),
            "rows": [line],
            "target_bits_per_byte": target,
            "seed_seconds": median(measured["demo"]),
            "our_seconds": median(measured["ours"]),
            "our_steps": last.step,
            "our_bits_per_byte": round(last.validation.bits_per_byte, 4),
            "ratio": gain,
            "curve": [
                {
                    "seconds": report.seconds,
                    "bits_per_byte": report.validation.bits_per_byte,
                }
                for report in curve
            ],
        },
        args.quick,
    )


if __name__ == "__main__":
    main()
