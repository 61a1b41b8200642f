"""The headline: time until `tinygpt train` predicts a text as well as the demo does.

The target is what the demo's last step ends with, in bits per byte on the whole
validation split (results/seed_demo.json; a text that has no such curve gets one first).
Both sides train and validate on the same characters, each with its own vocabulary.

In every pair each side runs in a process of its own. The demo's has torch's own thread
settings; its time is that of `--stretch` steps after 20 others, times its steps. Ours
is a run with the defaults. Its clock counts reading the text, learning the vocabulary,
encoding, making the model, the steps and all looks at the loss, and stops at the first
look at the whole split at which the target is reached. Before that, looks at a sample
of the split say when such a look is worth its time; near the target there is one every
5 steps, and a first whole look there says how far the sample is off. Importing torch is
counted on neither side.

    python benchmarks/time_to_quality.py [--quick] [--text handbook stories FILE]
        [--demo-steps 2000] [--pairs 5] [--resume]

The result is kept after every pair; with `--resume` pairs that were measured stay.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import (
    RESULTS,
    in_a_process,
    key,
    load,
    machine,
    median,
    ratio,
    row,
    save,
    span,
)

HERE = Path(__file__).parent
GOAL, LEAST = 200, 100  # times faster
EVERY, FAR = 5, 30  # steps between looks near the target, and far from it
SAMPLE = 96  # windows of the validation split in a look that is no proof
NEAR = 1.05  # times the target: from here on a whole look says what samples are off by


def next_look(looks: list[tuple[int, float]], target: float) -> int:
    """The step of the next look, from the (step, bits per byte) of those so far.

    Half of the way to where a straight line through the last two meets the target, in
    multiples of `EVERY`, but never more than `FAR` steps.
    """
    last, bits = looks[-1]
    if len(looks) < 3:  # the first is of the untrained model: its line is too steep
        return last + FAR // 2
    before, bits_before = looks[-2]
    slope = (bits_before - bits) / (last - before)
    left = (bits - target) / slope if slope > 0 else FAR
    return last + EVERY * min(FAR // EVERY, max(1, int(left / 2 / EVERY)))


def our_run(text: str, target: float) -> dict[str, Any]:
    """Train with the defaults until `target` is reached, or to the end."""
    from tinygpt.runtime.device import calm_threads

    calm_threads()
    import torch

    from tinygpt.config import replace
    from tinygpt.model.gpt import GPT
    from tinygpt.presets import PRESETS
    from tinygpt.text.dataset import Batches
    from tinygpt.training.evaluation import Evaluation
    from tinygpt.training.text_data import TextData, tokenizer_for
    from tinygpt.training.trainer import Trainer

    preset = PRESETS["tiny"]
    config = replace(preset.train, data=text, eval_interval=EVERY)
    start = time.perf_counter()
    tokenizer = tokenizer_for(config.tokenizer, text)
    vocabulary_seconds = time.perf_counter() - start
    data = TextData(text, tokenizer, preset.model.context_length)
    torch.manual_seed(config.seed)
    model = GPT(replace(preset.model, vocab_size=tokenizer.vocab_size))
    batches = Batches(data.train, data.context_length, config.batch_size, config.seed)
    looks: list[tuple[int, float]] = []
    seen: list[Evaluation] = []
    curve: list[dict[str, Any]] = []
    off: float | None = None  # how much harder the whole split was at its last look

    def evaluate(loss: torch.nn.Module, whole: bool) -> Evaluation:
        nonlocal off
        step = trainer.step
        if not looks or whole or step >= next_look(looks, target):
            seen[:] = [data.evaluate(loss, windows=SAMPLE)]
            sampled = seen[0].bits_per_byte
            near = target * NEAR if off is None else target - off
            proof = whole or sampled <= near
            if proof:
                seen[:] = [data.evaluate(loss)]
                off = seen[0].bits_per_byte - sampled
            bits = sampled + (off or 0.0)
            looks.append((step, bits))
            point = {"step": step, "seconds": time.perf_counter() - start}
            curve.append(point | {"bits_per_byte": bits, "whole_split": proof})
        return seen[0]

    trainer = Trainer(model, batches, evaluate, config)
    for _ in trainer.run():
        if curve[-1]["whole_split"] and looks[-1][1] <= target:
            break
    return {
        "seconds": curve[-1]["seconds"],
        "vocabulary_seconds": vocabulary_seconds,
        "vocab_size": tokenizer.vocab_size,
        "parameters": model.n_parameters(),
        "dtype": str(trainer.dtype).removeprefix("torch."),
        "validation_bytes": seen[0].bytes,
        "curve": curve,
    }


def demo_end(text: str, steps: int) -> dict[str, Any]:
    """What `steps` steps of the demo end with; if that is not kept, it runs first."""

    def kept() -> dict[str, Any] | None:
        exists = (RESULTS / "seed_demo.json").exists()
        found = load("seed_demo")["texts"].get(key(text), {}) if exists else {}
        points = [p for p in found.get("curve", []) if p["step"] == steps]
        return points[0] if points else None

    if (end := kept()) is None:
        words = ["seed_demo.py", "--text", text, "--steps", str(steps)]
        done = subprocess.run([sys.executable, *words], check=False, cwd=HERE)
        if done.returncode or (end := kept()) is None:
            raise SystemExit(done.returncode or 1)
    return end


def kind(found: dict[str, Any]) -> str:
    """The machine in a few words."""
    units = "bfloat16 units" if "amx_bf16" in found["features"] else "no bfloat16 units"
    return f"{found['cores']} cores, {units}"


def measure(text: str, args: argparse.Namespace) -> None:
    """All pairs of one text; the result is kept after each."""
    end = demo_end(text, args.demo_steps)
    target, steps, found = end["bits_per_byte"], end["step"], machine()
    name, quick = key(text), args.quick
    folder = RESULTS / "quick" if quick else RESULTS
    there = (folder / "time_to_quality.json").exists()
    texts = load("time_to_quality", quick)["texts"] if there else {}
    old = texts.get(name, {})
    same = (old.get("target_bits_per_byte"), old.get("seed_steps")) == (target, steps)
    pairs = old.get("pairs", []) if args.resume and same else []
    print(f"{name}: the demo ends at {target} bits per byte after {steps} steps")
    while len(pairs) < args.pairs:
        pair: dict[str, Any] = {}
        for side in ("demo", "ours") if len(pairs) % 2 == 0 else ("ours", "demo"):
            if side == "demo":
                words = ["seed_demo.py", "--text", text, "--time", str(args.stretch)]
                pair["demo"] = in_a_process(*words)["seconds"] * steps
            else:
                words = ["--ours", text, "--target", str(target)]
                pair["ours"] = in_a_process("time_to_quality.py", *words)
        pairs.append(pair)
        keep(texts, name, pairs, found, end, quick)


def keep(
    texts: dict[str, Any],
    name: str,
    pairs: list[dict[str, Any]],
    found: dict[str, Any],
    end: dict[str, Any],
    quick: bool,
) -> None:
    """Write the pairs of text `name` beside the other texts, and print their ratio."""
    target, steps = end["bits_per_byte"], end["step"]
    demo = [pair["demo"] for pair in pairs]
    ours = [pair["ours"]["seconds"] for pair in pairs]
    gain, last = ratio(demo, ours), pairs[-1]["ours"]
    there = all(p["ours"]["curve"][-1]["bits_per_byte"] <= target for p in pairs)
    what = f"{name}: time to the quality of {steps:,} steps of the demo"
    result = f"{span(gain)}, {kind(found)}" if there else "the run ended above it"
    line = row(
        what, f"{GOAL}x, at least {LEAST}x", result, there and gain["median"] >= GOAL
    )
    print(f"  demo {median(demo)} s, ours {median(ours)} s: {result}", flush=True)
    texts[name] = {
        "machine": found,
        "row": line,
        "target_bits_per_byte": target,
        "seed_steps": steps,
        "seed_seconds": median(demo),
        "our_seconds": median(ours),
        "our_steps": last["curve"][-1]["step"],
        "our_bits_per_byte": round(last["curve"][-1]["bits_per_byte"], 4),
        "reaches_target": there,  # or the ratio below means nothing
        "ratio": gain,
        "curve": last["curve"],
        "pairs": pairs,
    }
    rows = [text["row"] for text in texts.values()]
    save("time_to_quality", {"rows": rows, "texts": texts}, quick)


def main() -> None:
    """Measure every text, or be one side of a pair."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2 pairs, 20 steps each")
    parser.add_argument("--text", nargs="+", default=["handbook"])
    parser.add_argument("--demo-steps", type=int, help="a shorter demo: 250, 500 ...")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--stretch", type=int)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    parser.add_argument("--target", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(our_run(args.ours, args.target)))
        return
    args.pairs = args.pairs or (2 if args.quick else 5)
    args.stretch = args.stretch or (20 if args.quick else 100)
    args.demo_steps = args.demo_steps or (250 if args.quick else 5000)
    if args.demo_steps % 250 or args.demo_steps < 0:
        parser.error(
            "--demo-steps must be a multiple of 250, as the curve's points are"
        )
    for text in args.text:
        path = Path(text).expanduser()
        measure(str(path.resolve()) if path.exists() else text, args)


if __name__ == "__main__":
    main()
