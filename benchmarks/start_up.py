"""How soon it answers: the import, the help, and the first generated token.

Every measurement is a new Python process, from its start. Two lower bounds are measured
beside them: Python that does nothing, and Python that imports torch. `tinygpt generate`
reads a run of the default preset from disk; the clock stops at the first piece of text
after the prompt. What it leaves out: a cold disk.

    python benchmarks/start_up.py [--quick]
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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

from tinygpt.config import replace
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.text.tokenizer import get_tokenizer
from tinygpt.training.checkpoint import RunFolder

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "The salesperson"


def whole(*words: str) -> Callable[[], float]:
    """A function that runs Python with `words` and says how many seconds it took."""

    def measure() -> float:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, *words], check=True, stdout=subprocess.PIPE, cwd=ROOT
        )
        return time.perf_counter() - start

    return measure


def first_token(run: Path) -> Callable[[], float]:
    """A function that says how soon `tinygpt generate` goes on after the prompt."""
    words = ["-m", "tinygpt", "generate", "--model", str(run), "--prompt", PROMPT]

    def measure() -> float:
        start = time.perf_counter()
        command = [sys.executable, *words, "--max-new-tokens", "8"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            process.stdout.read(len(PROMPT) + 1)
            seconds = time.perf_counter() - start
            process.stdout.read()
        return seconds

    return measure


def make_run(folder: Path) -> Path:
    """A run of the default preset with untrained weights, on disk."""
    preset, tokenizer = PRESETS["tiny"], get_tokenizer("handbook-4k")
    config = replace(preset.model, vocab_size=tokenizer.vocab_size)
    run = RunFolder(folder / "run")
    run.save_model(GPT(config), tokenizer, preset.train)
    return run.path


def main() -> None:
    """Start all of them in turn."""
    args = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "python": whole("-c", "pass"),
            "import tinygpt": whole("-c", "import tinygpt"),
            "tinygpt --help": whole("-m", "tinygpt", "--help"),
            "import torch": whole("-c", "import torch"),
            "tinygpt generate": first_token(make_run(Path(folder))),
        }
        measured = pairs(sides, args.pairs)
    beside = {
        "import tinygpt": "python",
        "tinygpt --help": "python",
        "tinygpt generate": "import torch",
    }
    against = {a: ratio(measured[a], measured[b]) for a, b in beside.items()}
    seconds = {name: median(v) for name, v in measured.items()}
    names = {"tinygpt generate": "tinygpt generate, first token"}
    rows = [
        row(
            f"start-up, {names.get(a, a)}",
            "",
            f"{seconds[a]:.2f} s; `{b}` {seconds[b]:.2f} s: {span(against[a])}",
        )
        for a, b in beside.items()
    ]
    print_rows(rows)
    result = {
        "machine": machine(),
        "seconds": seconds,
        "against": against,
        "rows": rows,
    }
    save("start_up", result, args.quick)


if __name__ == "__main__":
    main()
