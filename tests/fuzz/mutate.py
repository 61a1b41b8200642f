"""Mutation testing: tells whether a test fails when a line of the package is wrong.

    python tests/fuzz/mutate.py --sample 400 --seed 1

A mutant is the package with one small fault, such as `<` for `<=`, made by the
operators of cosmic-ray (`pip install cosmic-ray`). Each is tested with the test files
of its own module only, in a process forked from one that has torch loaded already: a
second or two instead of ten. A mutant that no test notices survives; survivors and the
score are printed.

What it leaves out: faults that say nothing about the tests, because whatever runs the
line fails. These are changed annotations, and bit operations on floats (`x << 0.5`).
The sample takes places in the code first and a fault for each place second, so that a
line with eleven possible faults counts no more than one with two.
"""

import argparse
import ast
import contextlib
import difflib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.commands.init import _all_work_items
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parents[2]
# A module below tinygpt/, and the tests of it below tests/.
TESTS = {
    "model/attention": ["model/test_attention.py"],
    "model/masking": ["model/test_masking.py"],
    "generation/sampling": ["generation/test_generate.py"],
    "training/schedule": ["training/test_schedule.py"],
    "training/loss": ["training/test_loss.py"],
    "training/tensor_file": ["training/test_tensor_file.py"],
    "training/checkpoint": ["training/test_checkpoint.py"],
    "finetuning/lora": ["finetuning/test_lora.py"],
    "finetuning/chat": ["finetuning/test_chat.py"],
}
# Operators whose result is a TypeError for floats and tensors of them, or the same as
# that of another operator (+1 for -1).
NONSENSE = re.compile(
    r"USub_UAdd|"
    r"ReplaceBinaryOperator_(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_"
    r"(RShift|LShift|BitOr|BitAnd|BitXor)"
    r"|ReplaceBinaryOperator_Bit\w+_(?!Bit)\w+"
)
QUIET = "ignore::pytest.PytestAssertRewriteWarning"  # hypothesis is loaded before
SECONDS = 10.0  # for one mutant, at least; four times as long as the tests take whole


@dataclass(frozen=True)
class Mutant:
    """One fault at one place of one module."""

    module: str
    operator: str
    occurrence: int
    line: int
    column: int


def annotated(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end: (line, column) pairs."""
    places = []
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            found = getattr(node, name, None)
            if found is not None:
                start = (found.lineno, found.col_offset)
                places.append((start, (found.end_lineno, found.end_col_offset)))
    return places


def mutants(module: str) -> list[Mutant]:
    """All that cosmic-ray can make of a module, without those left out."""
    path = ROOT / "tinygpt" / f"{module}.py"
    source = path.read_text(encoding="utf-8")
    hidden, lines = annotated(source), source.splitlines()
    made = []
    for item in _all_work_items([path], {}):
        (spec,) = item.mutations
        if NONSENSE.search(spec.operator_name):
            continue
        if any(start <= spec.start_pos < end for start, end in hidden):
            continue
        if lines[spec.start_pos[0] - 1].strip() == "*,":  # keywords follow: no product
            continue
        where = spec.start_pos
        made.append(Mutant(module, spec.operator_name, spec.occurrence, *where))
    return made


def sample(n: int, modules: list[str], chance: random.Random) -> list[Mutant]:
    """`n` mutants: round after round, one of each place, the places in random order."""
    places: dict[tuple[str, int, int], list[Mutant]] = {}
    for mutant in [m for module in modules for m in mutants(module)]:
        where = (mutant.module, mutant.line, mutant.column)
        places.setdefault(where, []).append(mutant)
    stacks = list(places.values())
    for stack in stacks:
        chance.shuffle(stack)
    chosen: list[Mutant] = []
    while stacks and len(chosen) < n:
        chance.shuffle(stacks)
        chosen += [stack.pop() for stack in stacks][: n - len(chosen)]
        stacks = [stack for stack in stacks if stack]
    return chosen


def mutated(mutant: Mutant) -> tuple[str, str]:
    """The module's source without the fault, and with it."""
    path = ROOT / "tinygpt" / f"{mutant.module}.py"
    source = path.read_text(encoding="utf-8")
    operator = get_operator(mutant.operator)()
    return source, mutate_code(source, operator, mutant.occurrence)


def diff(mutant: Mutant) -> str:
    """The changed lines."""
    before, after = (text.splitlines() for text in mutated(mutant))
    lines = difflib.unified_diff(before, after, lineterm="", n=0)
    return "\n".join(line for line in list(lines)[2:] if not line.startswith("@@"))


def copy_tree(folder: Path) -> None:
    """What tests need of the checkout, to be spoilt in `folder`."""
    skip = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in ("tinygpt", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=skip)
    (folder / "data").symlink_to(ROOT / "data")
    shutil.copy(ROOT / "pyproject.toml", folder)


def warm_up(folder: Path) -> None:
    """Load in this process what every fork needs, but nothing of tinygpt."""
    os.environ |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    sys.path[:0] = [str(folder)]
    sys.dont_write_bytecode = True
    import beartype  # noqa: F401
    import hypothesis  # noqa: F401
    import jaxtyping  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import safetensors.torch  # noqa: F401
    import tiktoken  # noqa: F401
    import torch
    import tyro  # noqa: F401
    from transformers import GPT2LMHeadModel  # noqa: F401

    torch.set_num_threads(1)


def run_tests(folder: Path, module: str, seconds: float) -> tuple[int | None, str]:
    """The exit code of pytest, None if it took too long, and its last lines."""
    shutil.rmtree(folder / ".hypothesis", ignore_errors=True)
    log = folder / "log"
    child = os.fork()
    if not child:
        os.setsid()  # so that what it starts can be stopped with it
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = 99
        try:
            import pytest

            files = [f"tests/{name}" for name in TESTS[module]]
            options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-W", QUIET]
            code = int(pytest.main([*options, *files]))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    end, status = time.monotonic() + seconds, None
    while status is None and time.monotonic() < end:
        done, raw = os.waitpid(child, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(raw)
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    said = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return status, "\n".join(said[-4:])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sample", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=list(TESTS), choices=list(TESTS))
    args = parser.parse_args()
    chosen = sample(args.sample, args.only, random.Random(args.seed))
    chosen.sort(key=lambda mutant: args.only.index(mutant.module))
    folder = Path(tempfile.mkdtemp(prefix="mutants-"))
    try:
        copy_tree(folder)
        warm_up(folder)
        limits = {}
        for module in dict.fromkeys(mutant.module for mutant in chosen):
            start = time.monotonic()
            code, said = run_tests(folder, module, 300)
            took = time.monotonic() - start
            if code:
                sys.exit(f"the tests of {module} fail without a fault:\n{said}")
            limits[module] = max(SECONDS, 4 * took)
            print(f"{module}: tested in {took:.1f} s", flush=True)
        killed: Counter[str] = Counter()
        for mutant in chosen:
            path = folder / "tinygpt" / f"{mutant.module}.py"
            source, faulty = mutated(mutant)
            path.write_text(faulty, encoding="utf-8")
            code, _ = run_tests(folder, mutant.module, limits[mutant.module])
            path.write_text(source, encoding="utf-8")
            if code != 0:
                killed[mutant.module] += 1
            else:
                name = mutant.operator.removeprefix("core/")
                where = f"tinygpt/{mutant.module}.py:{mutant.line}"
                print(f"\nSURVIVED {where} {name}\n{diff(mutant)}", flush=True)
        of = Counter(mutant.module for mutant in chosen)
        print()
        for module, n in of.items():
            print(f"{module:<22} {killed[module]:>4} of {n:>4} killed")
        total = sum(killed.values())
        print(f"{'all':<22} {total:>4} of {len(chosen)}: {total / len(chosen):.1%}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
