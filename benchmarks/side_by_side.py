"""What the benchmarks share: sides that take turns, ratios, results on disk.

A ratio is the median over pairs; a pair is one measurement of each side, one right
after the other, and the side that begins changes from pair to pair. So whatever else
the machine does in the meantime falls on both sides alike. What it leaves out: what is
measured.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LITGPT = Path(__file__).parent.parent / ".venv" / "litgpt"  # `make bench` puts it there
PACKAGES = (
    "torch",
    "transformers",
    "ctranslate2",
    "litgpt",
    "tokenizers",
    "tiktoken",
    "numpy",
)


def processor() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def features() -> list[str]:
    """The processor's instructions that matter here, as far as Linux tells them."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8").split()) if info.exists() else set()
    return [f for f in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f in words]


def machine() -> dict[str, Any]:
    """What a result depends on: processor, system, threads, versions, command."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": processor(),
        "features": features(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "versions": versions,
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def pairs(
    sides: dict[str, Callable[[], float]], n: int = 5, warmup: int = 1
) -> dict[str, list[float]]:
    """`n` measurements of every side, in turn; each call returns its own measure."""
    for _ in range(warmup):
        for measure in sides.values():
            measure()
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(n):
        names = list(sides) if turn % 2 == 0 else list(sides)[::-1]
        for name in names:
            measured[name].append(sides[name]())
    return measured


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median and range, over the pairs, of ours / theirs."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "median": round(statistics.median(each), 3),
        "low": round(min(each), 3),
        "high": round(max(each), 3),
        "pairs": len(each),
    }


def median(values: list[float]) -> float:
    """The median, to four digits that count."""
    return float(f"{statistics.median(values):.4g}")


def key(text: str) -> str:
    """What a text is called in a result: its name, or that of its file."""
    return Path(text).name


def in_a_process(*words: str, **environment: str) -> dict[str, Any]:
    """Run a Python file of this folder on its own; the last line it prints is JSON."""
    done = subprocess.run(
        [sys.executable, *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        cwd=Path(__file__).parent,
    )
    return json.loads(done.stdout.splitlines()[-1])


def arguments(description: str | None) -> argparse.Namespace:
    """The command line that the benchmarks have in common."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer sizes and pairs: a first look"
    )
    parser.add_argument("--pairs", type=int, help="measurements of each side")
    args = parser.parse_args()
    args.pairs = args.pairs or (2 if args.quick else 5)
    return args


def row(what: str, goal: str, result: str, reached: bool | None = None) -> dict:
    """A line of the summary: goal beside result; `reached` is None without a goal."""
    return {"row": what, "goal": goal, "result": result, "reached": reached}


def span(ratio: dict[str, float], unit: str = "x") -> str:
    """A ratio in words: its median, and its range over the pairs."""
    return f"{ratio['median']:.2f}{unit} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def print_rows(rows: list[dict]) -> None:
    """The rows as a table."""
    said = {True: "yes", False: "no", None: ""}
    table = [("row", "goal", "result", "reached")]
    table += [(r["row"], r["goal"], r["result"], said[r["reached"]]) for r in rows]
    widths = [max(len(line[i]) for line in table) for i in range(4)]
    for line in table:
        print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def save(name: str, result: dict[str, Any], quick: bool = False) -> None:
    """Write results/NAME.json; a quick look goes to results/quick/ and is not kept."""
    folder = RESULTS / "quick" if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def load(name: str, quick: bool = False) -> dict[str, Any]:
    """Read results/NAME.json, or results/quick/NAME.json."""
    path = RESULTS / "quick" / f"{name}.json" if quick else RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))
