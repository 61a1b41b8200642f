"""Whether more minutes ever disappoint, and whether an expert would do better.

For texts of different size, kind and alphabet, and for several budgets, the plan of
`tinygpt train TEXT --minutes M` is made for a machine of `SPEED`, and carried out by
steps in place of the clock, so that the result does not depend on what else this
machine does. The weights that did best on the sample of the validation split are kept,
as `train` keeps them, and measured on all of it.

`--seeds N` carries the plans out with N seeds. `--grid` trains the neighbours of each
plan as well: a smaller and a larger model, half and double the weight decay, half the
context, half the length. It looks whether two promises are kept:

1. with more minutes, bits per byte never rise by more than 0.01;
2. at each budget, a plan is within 2 % of the best of all runs that cost no more.

    python benchmarks/dial.py [--texts handbook stories] [--budgets 0.5 1 2] [--grid]
        [--only larger "half decay"] [--seeds 5] [--table]

Every run is kept as soon as it is over, and what is there is not run again, whichever
plan asked for it. All take hours. What it leaves out: the measuring of speed (see
`tinygpt/training/dial`).
"""

import argparse
import gzip
import hashlib
import random
import re
import statistics
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import RESULTS, load, machine, print_rows, row, save

from tinygpt.runtime.device import calm_threads

calm_threads()
import torch

from tinygpt.config import replace
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.text.bpe import END_OF_TEXT
from tinygpt.text.dataset import Batches
from tinygpt.text.documents import load_documents
from tinygpt.training.dial import bits_by_counting
from tinygpt.training.plan import (
    DECAY_PER_EPOCH,
    LADDER,
    Plan,
    expected_bits,
    flops_per_token,
    plan,
)
from tinygpt.training.text_data import TextData, tokenizer_for
from tinygpt.training.trainer import Trainer

SPEED = (
    1e11  # flop/s: two cores of 2023, each 5.1e10 in steps of 128 to 192 wide models
)
BUDGETS = (0.5, 1.0, 2.0, 5.0, 10.0)  # minutes
RISE, WITHIN = 0.01, 0.02  # bits per byte; a share
GOALS = {  # bits per byte, after minutes
    ("handbook", "1"): 1.40,
    ("handbook", "5"): 1.35,
    ("stories", "1"): 1.50,
    ("stories", "5"): 1.32,
}
SIZES = ("d_model", "n_layers", "n_heads", "context_length")
# What tells one run from another: of the model, and of the training.
SHAPE = ("d_model", "n_layers", "context_length", "dropout")
TRAINING = (
    "steps",
    "batch_size",
    "weight_decay",
    "muon_lr",
    "beta1",
    "final_lr_fraction",
    "average_fraction",
    "seed",
)
DATA = Path(__file__).resolve().parent.parent / "data"
MANUALS = Path("/usr/share/man/ru")


def handbook() -> list[str]:
    """The handbook, which is one document."""
    return load_documents("handbook")


def stories() -> list[str]:
    """Very short stories."""
    return load_documents("stories")


def chats() -> list[str]:
    """Chats of a shop, as somebody would write them down."""
    return load_documents(str(DATA / "shop_chats.jsonl"))


def python() -> list[str]:
    """Modules of Python's standard library."""
    files = Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py")
    return _some((p.read_text(encoding="utf-8") for p in sorted(files)), 1_500_000)


def russian() -> list[str]:
    """Manual pages in Russian, without their marks; nothing where there are none."""
    pages = []
    for path in sorted(MANUALS.glob("man*/*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            page = re.sub(r'^\.\\".*\n', "", file.read(), flags=re.M)
        page = re.sub(r"^\.[A-Za-z]+ ?", "", page, flags=re.M)
        page = re.sub(r"\\f[A-Z]|\\[&%|~-]", "", page).replace("\\", "")
        pages += [page] if len(page) > 500 else []  # others are links
    return _some(iter(pages), 700_000)


def _some(documents: Iterator[str], most: int) -> list[str]:
    """Documents in a random order, always the same, until there are `most` signs."""
    mixed, taken, size = list(documents), list[str](), 0
    random.Random(0).shuffle(mixed)
    for document in mixed:
        if size > most:
            break
        taken.append(document)
        size += len(document)
    return taken


TEXTS = {f.__name__: f for f in (handbook, stories, chats, python, russian)}


class Text:
    """A text of the benchmark, read and cut into tokens as `tinygpt train` does it."""

    def __init__(self, name: str, documents: list[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.txt"
            parts = [document.strip("\n") for document in documents]
            written = f"\n{END_OF_TEXT}\n".join(part for part in parts if part.strip())
            path.write_text(written + "\n", encoding="utf-8")
            self.data = TextData(str(path), tokenizer_for("auto", str(path)), 64)
        self.name = name
        self.sha256 = hashlib.sha256(written.encode()).hexdigest()[:16]

    def plan(self, minutes: float, given: dict[str, Any] | None = None) -> Plan:
        """The plan for so many minutes, with settings that are given."""
        preset, given = PRESETS["tiny"], given or {}
        return plan(
            self.data.n_tokens,
            self.data.tokenizer.vocab_size,
            minutes,
            SPEED,
            replace(preset.model, **{k: v for k, v in given.items() if k in SIZES}),
            replace(preset.train, **{k: v for k, v in given.items() if k not in SIZES}),
            given,
        )

    def neighbours(self, minutes: float) -> dict[str, Plan]:
        """Plans that differ from that for `minutes` in one respect."""
        made = self.plan(minutes)
        sizes = tuple(getattr(made.model, name) for name in ("d_model", "n_layers"))
        rung = [r[:2] for r in LADDER].index(sizes)
        found = {}
        for name, at in (("smaller", rung - 1), ("larger", rung + 1)):
            if 0 <= at < len(LADDER):
                shape = ("d_model", "n_layers", "n_heads", "context_length")
                sizes_there = dict(zip(shape, LADDER[at], strict=True))
                found[name] = self.plan(minutes, sizes_there)
        own = {name: getattr(made.model, name) for name in SIZES}
        for name, factor in (("half decay", 0.5), ("double decay", 2.0)):
            decay = made.train.weight_decay * factor
            found[name] = self.plan(minutes, own | {"weight_decay": decay})
        shorter = own | {"context_length": own["context_length"] // 2}
        found["half the context"] = self.plan(minutes, shorter)
        found["half as long"] = self.plan(made.used / 2, own)
        return found

    def facts(self) -> dict[str, Any]:
        """What is to be known about the text."""
        t = self.data.tokenizer
        return {
            "sha256": self.sha256,
            "bytes": sum(t.byte_lengths[i] for i in self.data.train.tolist()),
            "tokens": self.data.n_tokens,
            "vocab_size": t.vocab_size,
            "counted": round(bits_by_counting(self.data), 4),
        }


def settings(text: Text, made: Plan) -> dict[str, Any]:
    """What tells one run from another."""
    found: dict[str, Any] = {"text": text.name, "sha256": text.sha256}
    found |= {name: getattr(made.model, name) for name in SHAPE}
    for name in TRAINING:
        value = getattr(made.train, name)
        found[name] = float(f"{value:.4g}") if isinstance(value, float) else value
    return found


def flops(made: Plan) -> float:
    """Floating-point operations of all steps."""
    per_step = made.train.batch_size * made.model.context_length
    return made.train.steps * per_step * flops_per_token(made.model)


def carry_out(text: Text, made: Plan) -> dict[str, Any]:
    """Train as planned; what came of it."""
    config, data = replace(made.train, minutes=None), text.data
    data.context_length = made.model.context_length
    torch.manual_seed(config.seed)
    model = GPT(made.model)
    batches = Batches(data.train, data.context_length, config.batch_size, config.seed)
    start = time.process_time()
    trainer = Trainer(
        model,
        batches,
        lambda loss, whole: data.evaluate(loss, None if whole else config.eval_windows),
        config,
    )
    best: dict[str, torch.Tensor] = {}
    kept, last = 0, 0.0
    for report in trainer.run():
        if report.is_best:
            best = {name: t.clone() for name, t in model.state_dict().items()}
            kept = report.step
        last = report.validation.bits_per_byte
    model.load_state_dict(best)
    bits = last if kept == trainer.step else data.evaluate(model).bits_per_byte
    return {
        "parameters": model.n_parameters(),
        "epochs": round(made.epochs, 3),
        "flops": float(f"{flops(made):.4g}"),
        "kept_step": kept,
        "bits_per_byte": round(bits, 4),
        "last_bits_per_byte": round(last, 4),
        "cpu_seconds": round(time.process_time() - start, 1),
    }


class Results:
    """The runs so far, on disk."""

    def __init__(self) -> None:
        there = (RESULTS / "dial.json").exists()
        self.found = load("dial") if there else {"texts": {}, "runs": []}

    def of(self, text: Text, made: Plan) -> dict[str, Any] | None:
        """The run that carried this plan out."""
        wanted = settings(text, made)
        for run in self.found["runs"]:
            if all(run[name] == value for name, value in wanted.items()):
                return run
        return None

    def train(self, text: Text, made: Plan, why: str) -> None:
        """Carry out a plan, unless that was done before, and keep the result."""
        if self.of(text, made):
            return
        done = settings(text, made) | carry_out(text, made) | {"why": why}
        print(f"  {why}: {_short(done)}", flush=True)
        fresh = Results().found  # another process may have added to it
        fresh["runs"].append(done)
        fresh |= {"machine": machine(), "speed": SPEED}
        self.found = fresh
        self.save()

    def save(self, **more: Any) -> None:
        """Write them down, and `more`."""
        self.found = {"rows": [], "plans": {}} | self.found | more
        save("dial", self.found)

    def best(self, text: Text, minutes: float) -> dict[str, Any]:
        """The best run of the usual seed that costs no more than so many minutes."""
        most, usual = 1.01 * 60 * minutes * SPEED, PRESETS["tiny"].train.seed
        mine = [r for r in self.found["runs"] if r["sha256"] == text.sha256]
        mine = [r for r in mine if r["flops"] <= most and r["seed"] == usual]
        return min(mine, key=lambda r: r["bits_per_byte"])


def _short(run: dict[str, Any]) -> str:
    return (
        f"d_model {run['d_model']}, {run['n_layers']} blocks, {run['steps']} steps, "
        f"{run['epochs']:.1f} epochs, weight decay {run['weight_decay']:.2g}: "
        f"{run['bits_per_byte']:.4f} after {run['kept_step']} steps"
    )


def table(results: Results, texts: list[Text]) -> dict[str, Any]:
    """For each text and budget: the plan, what came of it, and how rivals did."""
    found: dict[str, Any] = {}
    for text in texts:
        facts, lines = text.facts(), {}
        results.found["texts"][text.name] = facts | {"expected": (expected := {})}
        for minutes in BUDGETS:
            made = text.plan(minutes)
            bits = round(expected_bits(facts["counted"], made), 4)
            expected[f"{minutes:g}"] = bits
            if (run := results.of(text, made)) is None:
                continue
            rivals = text.neighbours(minutes).items()
            done = {why: results.of(text, rival) for why, rival in rivals}
            lines[f"{minutes:g}"] = run | {
                "expected": bits,
                "best": results.best(text, minutes)["bits_per_byte"],
                "neighbours": {k: r["bits_per_byte"] for k, r in done.items() if r},
                "neighbours_wanted": len(rivals),
            }
            print(f"{text.name}, {minutes:g} minutes: {_short(run)}; ", end="")
            print(f"best of grid {lines[f'{minutes:g}']['best']:.4f}")
        found[text.name] = lines
    return found


def by_epochs(results: Results, texts: list[Text], minutes: float = 2) -> Any:
    """What a decay that grows with the epochs alone brings, where it was tried."""
    found = {}
    for text in texts:
        made = text.plan(minutes)
        decay = min(1.0, DECAY_PER_EPOCH * made.epochs)
        given = {name: getattr(made.model, name) for name in SIZES}
        stronger = text.plan(minutes, given | {"weight_decay": decay})
        if run := results.of(text, stronger):
            found[text.name] = run
    return found


def over_seeds(results: Results, texts: list[Text]) -> dict[str, Any]:
    """Mean and range of each plan that more than one seed carried out."""
    found: dict[str, Any] = {}
    for text in texts:
        for minutes in BUDGETS:
            wanted = settings(text, text.plan(minutes)).items()
            bits = [
                run["bits_per_byte"]
                for run in results.found["runs"]
                if all(run[k] == v for k, v in wanted if k != "seed")
            ]
            if len(bits) > 1:
                found.setdefault(text.name, {})[f"{minutes:g}"] = {
                    "seeds": len(bits),
                    "mean": round(statistics.mean(bits), 4),
                    "least": min(bits),
                    "most": max(bits),
                }
    return found


def qualities(seeds: dict[str, Any]) -> list[dict[str, Any]]:
    """What the seeds reached beside the goals, as rows of the summary."""
    rows = []
    for (name, minutes), goal in GOALS.items():
        if line := seeds.get(name, {}).get(minutes):
            what = f"{name} after {minutes} min. at 100 GFLOP/s, {line['seeds']} seeds"
            told = f"{line['mean']:.3f} ({line['least']:.3f} to {line['most']:.3f})"
            rows.append(row(what, f"{goal:.2f} bpb", told, line["mean"] <= goal))
    return rows


def gains(plans: dict[str, Any]) -> dict[str, float]:
    """Bits per byte that the second half of a minute brings, for each text."""
    return {
        name: round(lines["0.5"]["bits_per_byte"] - lines["1"]["bits_per_byte"], 4)
        for name, lines in plans.items()
        if {"0.5", "1"} <= set(lines)
    }


def missed(plans: dict[str, Any]) -> dict[str, float]:
    """By how much the runs missed what was expected of them, as shares of it."""
    found = {}
    for name, lines in plans.items():
        off = [line["bits_per_byte"] / line["expected"] - 1 for line in lines.values()]
        found[name] = max(off, key=abs, default=0.0)
    each = {name: round(worst, 4) for name, worst in found.items()}
    return each | {"worst": max(each.values(), key=abs, default=0.0)}


def promises(plans: dict[str, Any]) -> list[dict[str, Any]]:
    """Whether both were kept, as rows of the summary."""
    rises, behind, rows = list[tuple[float, str]](), list[tuple[float, str]](), []
    for name, lines in plans.items():
        before: float | None = None
        for minutes, line in lines.items():
            where, bits = f"{name} at {minutes} minutes", line["bits_per_byte"]
            rises += [] if before is None else [(bits - before, where)]
            before = bits
            if len(line["neighbours"]) > 1:  # or there is no grid to speak of
                behind.append((bits / line["best"] - 1, where))
    if rises:
        most, where = max(rises)
        n = sum(len(lines) > 1 for lines in plans.values())
        what = f"dial, more minutes, {len(rises)} times on {n} texts"
        told = f"at worst {most:+.4f}, {where}"
        rows.append(row(what, f"never {RISE} bpb worse", told, most <= RISE))
    if behind:
        most, where = max(behind)
        what = f"dial, {len(behind)} plans against the best of their grids"
        told = f"at worst {most:.1%} behind, {where}"
        rows.append(row(what, f"within {WITHIN:.0%}", told, most <= WITHIN))
    return rows


def main() -> None:
    """Train what is missing, then look at the promises."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS)
    parser.add_argument("--grid", action="store_true", help="the plans' neighbours too")
    parser.add_argument("--only", nargs="+", help="these neighbours only")
    parser.add_argument("--seeds", type=int, default=1, help="of each plan")
    parser.add_argument("--table", action="store_true", help="train nothing")
    args = parser.parse_args()
    results, texts = Results(), list[Text]()
    for name in args.texts:
        if documents := TEXTS[name]():
            texts.append(Text(name, documents))
            print(f"{name}: {texts[-1].data.n_tokens:,} tokens", flush=True)
        else:
            print(f"{name}: not on this machine", flush=True)
    for minutes in args.budgets if not args.table else ():
        for text in texts:
            for seed in range(1, args.seeds):
                why = f"{text.name}, {minutes:g} min., seed {seed}"
                results.train(text, text.plan(minutes, {"seed": seed}), why)
            results.train(text, text.plan(minutes), f"{text.name}, {minutes:g} minutes")
            rivals = text.neighbours(minutes) if args.grid else {}
            for why, rival in rivals.items():
                if not args.only or why in args.only:
                    results.train(text, rival, f"{text.name}, {minutes:g} min., {why}")
    plans = results.found.get("plans", {}) | table(results, texts)
    seeds = results.found.get("seeds", {}) | over_seeds(results, texts)
    rows = promises(plans) + qualities(seeds)
    print_rows(rows)
    stronger = results.found.get("by_epochs", {}) | by_epochs(results, texts)
    results.save(
        plans=plans,
        rows=rows,
        expected=missed(plans),
        gains=gains(plans),
        by_epochs=stronger,
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
