"""The controls behind what chapters 06 and 07 claim: runs with and without a cause.

    python benchmarks/controls.py [--only switches optimizers ...] [--table]

Small models of GPT-2's shape read the stories, each with three seeds, and what is kept
of a run is its validation loss in bits per byte. Nothing here is timed but a step with
each switch, which takes turns with the plain one. A run that is in the results is
not repeated, so that an interrupted call goes on. What it leaves out: the recipe of
`make train` (see LOG.md) and large models, on which the same cause may act otherwise.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import RESULTS, machine

from tinygpt.config import GPTConfig, TrainConfig, replace
from tinygpt.model.gpt import GPT
from tinygpt.text.dataset import Batches
from tinygpt.text.tokenizer import get_tokenizer
from tinygpt.training.optimizers import make_optimizers
from tinygpt.training.text_data import TextData

FILE = RESULTS / "controls.json"
SEEDS = (1, 2, 3)
BASE = GPTConfig(vocab_size=4096, context_length=64, d_model=128, n_heads=4, n_layers=4)
DEEP = replace(BASE, d_model=64, n_layers=12)
STEPS, BATCH, LOOKS = 200, 16, 10
SWITCHES: dict[str, dict[str, Any]] = {
    "rotary": {"positions": "rotary"},
    "rmsnorm": {"norm": "rmsnorm"},
    "relu2": {"activation": "relu2"},
    "swiglu": {"activation": "swiglu"},
    "qk_norm": {"qk_norm": True},
    "no_bias": {"bias": False, "qkv_bias": False},
    "untied": {"tie_head": False},
    "softcap": {"logit_softcap": 15.0},
    "zero_init": {"init": "zero"},
}
SWITCHES["all"] = {k: v for s in SWITCHES.values() for k, v in s.items()} | {
    "activation": "relu2"
}


@cache
def text() -> TextData:
    """The stories, read once."""
    return TextData("stories", get_tokenizer("course-4k"), BASE.context_length)


class Residuals(nn.Module):
    """A block that replaces the stream instead of adding to it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        """Attention, then feed-forward, without the sums."""
        x = self.block.attention(self.block.norm1(x), **options)
        return self.block.feed_forward(self.block.norm2(x))


def rate(step: int, steps: int, warmup: int, falls: bool) -> float:
    """Share of the peak rate: up in a straight line, then level or down to zero."""
    up = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return up * (1 - step / steps) if falls else up


def train(
    seed: int,
    model: dict[str, Any] | None = None,
    *,
    base: GPTConfig = BASE,
    optimizer: str = "adamw",
    lr: float = 3e-3,
    steps: int = STEPS,
    warmup: int = 10,
    falls: bool = True,
    clip: float = 1.0,
    residuals: bool = True,
) -> dict[str, Any]:
    """One run: bits per byte at ten looks on a sample, and at the end on more."""
    data = text()
    torch.manual_seed(seed)
    gpt = GPT(replace(base, **(model or {})))
    if not residuals:
        gpt.blocks = nn.ModuleList(Residuals(block) for block in gpt.blocks)
    config = TrainConfig(lr=lr, dtype="float32")
    if optimizer == "sgd":
        movers: list[Any] = [torch.optim.SGD(gpt.parameters(), lr=lr, momentum=0.9)]
    else:
        muon = {"optimizer": "muon", "muon_lr": lr, "lr": 2e-3, "embedding_lr": 6e-3}
        config = replace(config, **(muon if optimizer == "muon" else {}))
        movers = list(make_optimizers(gpt, config, torch.float32))
    peaks = [[group["lr"] for group in mover.param_groups] for mover in movers]
    batches = Batches(data.train, base.context_length, BATCH, seed)
    curve, gradients = [], []
    for step in range(steps):
        factor = rate(step, steps, warmup, falls)
        for mover, peak in zip(movers, peaks, strict=True):
            for group, lr_ in zip(mover.param_groups, peak, strict=True):
                group["lr"] = lr_ * factor
        x, y = batches.at(step)
        loss = F.cross_entropy(gpt(x).flatten(0, 1), y.flatten())
        for mover in movers:
            mover.zero_grad()
        loss.backward()
        length = nn.utils.clip_grad_norm_(gpt.parameters(), clip or math.inf)
        gradients.append(round(length.item(), 3))
        for mover in movers:
            mover.step()
        if (step + 1) % (steps // LOOKS) == 0 and step + 1 < steps:
            bits = data.evaluate(gpt, windows=40).bits_per_byte
            curve.append({"step": step + 1, "bits_per_byte": round(bits, 4)})
    bits = round(data.evaluate(gpt, windows=250).bits_per_byte, 4)
    curve.append({"step": steps, "bits_per_byte": bits})
    return {
        "bits_per_byte": bits if math.isfinite(bits) else None,
        "training_loss": round(loss.item(), 4),
        "largest_gradient": max(gradients),
        "curve": curve,
    }


def step_ratio(model: dict[str, Any], n: int = 40) -> float:
    """Seconds of a step with the switch, over those of the plain one, in turn."""
    x, y = Batches(text().train, BASE.context_length, BATCH, 1).at(0)
    sides = []
    for config in (BASE, replace(BASE, **model)):
        gpt = GPT(config)
        mover = make_optimizers(gpt, TrainConfig(dtype="float32"), torch.float32)
        sides.append((gpt, list(mover)))
    ratios = []
    for i in range(n + 3):
        seconds = []
        for gpt, movers in sides:
            start = time.perf_counter()
            F.cross_entropy(gpt(x).flatten(0, 1), y.flatten()).backward()
            for mover in movers:
                mover.step()
                mover.zero_grad()
            seconds.append(time.perf_counter() - start)
        if i >= 3:
            ratios.append(seconds[1] / seconds[0])
    return round(statistics.median(ratios), 3)


def plans(results: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(group, name, arguments of `train`) of every comparison."""
    post = {"norm_placement": "post"}
    for name, given in (
        ("pre", {}),
        ("pre, no warm-up", {"warmup": 0}),
        ("post, warm-up", {"model": post}),
        ("post, no warm-up", {"model": post, "warmup": 0}),
        ("post, long warm-up", {"model": post, "warmup": 100}),
        ("post, long warm-up, a third", {"model": post, "warmup": 100, "lr": 1e-3}),
        ("post, no warm-up, a third", {"model": post, "warmup": 0, "lr": 1e-3}),
        ("pre, no warm-up, a third", {"warmup": 0, "lr": 1e-3}),
        ("no residuals", {"residuals": False}),
    ):
        yield "depth", name, {"base": DEEP, "falls": False, **given}
    for lr in (1e-3, 3e-3, 6e-3):
        yield "optimizers", f"adamw {lr}", {"optimizer": "adamw", "lr": lr}
    for lr in (0.03, 0.1, 0.3, 1.0):
        yield "optimizers", f"sgd {lr}", {"optimizer": "sgd", "lr": lr}
    for lr in (0.005, 0.01, 0.02, 0.04):
        yield "optimizers", f"muon {lr}", {"optimizer": "muon", "lr": lr}
    yield "switches", "plain", {}
    for name, switch in SWITCHES.items():
        yield "switches", name, {"model": switch}
    for name, switch in SWITCHES.items():
        ratio = results.get("step_ratio", {}).get(name)
        if ratio:
            equal = {"model": switch, "steps": round(STEPS / ratio / LOOKS) * LOOKS}
            yield "switches", f"{name}, equal time", equal
    for name, given in (
        ("warm-up and clipping", {}),
        ("no warm-up", {"warmup": 0}),
        ("no clipping", {"clip": 0.0}),
        ("neither", {"warmup": 0, "clip": 0.0}),
    ):
        yield "care", name, {"lr": 6e-3, **given}


def summary(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Mean, smallest and largest bits per byte over the seeds."""
    bits = [run["bits_per_byte"] for run in runs.values()]
    if None in bits:
        return {"mean": None, "low": None, "high": None, "n": len(bits)}
    mean = round(statistics.mean(bits), 4)
    return {"mean": mean, "low": min(bits), "high": max(bits), "n": len(bits)}


def save(results: dict[str, Any]) -> None:
    """Write the results, with a summary for each comparison."""
    for group in results["groups"].values():
        for found in group.values():
            found["summary"] = summary(found["runs"])
    results["machine"] = machine()
    FILE.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def best(group: dict[str, Any], optimizer: str) -> str:
    """The rate at which an optimizer did best."""
    mine = {k: v for k, v in group.items() if k.startswith(optimizer)}
    return min(mine, key=lambda k: mine[k]["summary"]["mean"] or math.inf)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", help="groups, such as switches")
    parser.add_argument("--table", action="store_true", help="show, run nothing")
    args = parser.parse_args()
    kept = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    results: dict[str, Any] = {"groups": {}, "step_ratio": {}} | kept
    if not args.table:
        for name, switch in SWITCHES.items():
            if name not in results["step_ratio"]:
                results["step_ratio"][name] = step_ratio(switch)
        for seed in SEEDS:
            for group, name, given in plans(results):
                if args.only and group not in args.only:
                    continue
                place = results["groups"].setdefault(group, {})
                grid = seed != SEEDS[0] and group == "optimizers"
                if grid and name != best(place, name.split()[0]):
                    continue  # a grid of rates needs one seed, the best all three
                found = place.setdefault(name, {"given": str(given), "runs": {}})
                if str(seed) not in found["runs"]:
                    found["runs"][str(seed)] = run = train(seed, **given)
                    print(group, "|", name, "|", seed, run["bits_per_byte"], flush=True)
                    save(results)
    for title, group in results["groups"].items():
        print(f"\n{title}")
        for name, found in group.items():
            mean, low, high, n = found["summary"].values()
            print(f"  {name:28} {mean}  ({low} to {high}, {n} runs)")
    if "optimizers" in results["groups"]:
        found = results["groups"]["optimizers"]
        results["best"] = {o: best(found, o) for o in ("sgd", "adamw", "muon")}
        if not args.table:
            save(results)
    print("\nsteps, against the plain one:", results["step_ratio"])


if __name__ == "__main__":
    main()
