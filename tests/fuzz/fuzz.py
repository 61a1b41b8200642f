"""Fuzzing: files and commands that nobody would write, thousands of them.

    make fuzz                                       two minutes
    python tests/fuzz/fuzz.py --seconds 600 --only commands

Hypothesis spoils the files of a run, of a model in Hugging Face's format, of a
tokenizer and of conversations, and puts command lines together at random. Whatever it
finds, loading and running either succeed or end in a UserError (exit code 2 after one
line), within seconds, and no file that was there before is harmed. Anything else is
listed at the end, one example for each place in the code; an example that was worth a
repair becomes a case of the ordinary tests.

What it leaves out: making the files and the commands (see `spoil`, `command_lines`).
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch
from command_lines import command_lines
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from spoil import spoil
from tiny_run import words

from tinygpt.cli.main import main as command
from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.run import load_model
from tinygpt.formats.huggingface import export_hf
from tinygpt.model.gpt import GPT
from tinygpt.text.corpora import load_chats, load_text
from tinygpt.text.tokenizer import Tokenizer

LOADING, RUNNING = 5.0, 30.0  # seconds; a shared machine may be slow
GIBIBYTES = 6  # of memory beyond what the process has at the start


class TooSlow(BaseException):
    """The watchdog's bark: no `except Exception` may swallow it."""


@contextlib.contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """Raise TooSlow after so many seconds; end the process where that cannot help."""

    def bark(*_: object) -> None:
        raise TooSlow(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, bark)
    faulthandler.dump_traceback_later(4 * seconds, exit=True, file=sys.__stderr__)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def outcome(call: Callable[[], object], seconds: float = LOADING) -> str:
    """Either "done" or the sentence of a UserError; everything else is raised."""
    try:
        with watchdog(seconds):
            call()
    except UserError as error:
        sentence = str(error)
        assert sentence.strip(), "a UserError without a sentence"
        assert "\n" not in sentence.strip(), f"more than one line: {sentence!r}"
        assert len(sentence) < 20_000, f"{len(sentence)} characters: {sentence[:200]!r}"
        return sentence
    return "done"


class Bench:
    """The folder in which everything happens, and what is spoilt there."""

    def __init__(self, home: Path) -> None:
        self.home, self.kept, self.work = home, home / "kept", home / "outer" / "work"
        self.kept.mkdir()
        for name in ("HOME", "XDG_CACHE_HOME", "TINYGPT_CACHE", "TIKTOKEN_CACHE_DIR"):
            os.environ[name] = str(home / "home")
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            os.environ[name] = "http://127.0.0.1:9"  # no network: refused at once
        nowhere = io.StringIO()
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            command(words(self.kept, "first", steps=2, eval_windows=1))
        _, tokenizer = load_model(str(self.kept / "runs" / "first"))
        small = {"context_length": 16, "d_model": 8, "n_heads": 2, "n_layers": 1}
        model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **small))
        export_hf(model, tokenizer, self.kept / "exported")
        tokenizer.pattern = r"\S+|\s+"  # so that there is a file beside it
        tokenizer.save(self.kept / "beside.tiktoken")
        chats = [
            {
                "messages": [
                    {"role": "user", "content": f"why does the buyer ask {n}"},
                    {"role": "assistant", "content": "the seller calls"},
                ]
            }
            for n in range(6)
        ]
        text = "\n".join(map(json.dumps, chats))
        (self.kept / "chats.jsonl").write_text(text, encoding="utf-8")
        (self.kept / "precious.txt").write_text("mine", encoding="utf-8")
        (self.kept / "runs" / "precious.txt").write_text("mine", encoding="utf-8")

    def fresh(self) -> Path:
        """The work folder as it was at first, as the current folder."""
        os.chdir(self.home)
        shutil.rmtree(self.home / "outer", ignore_errors=True)
        shutil.copytree(self.kept, self.work)
        shutil.copy(self.kept / "precious.txt", self.home / "outer")
        os.chdir(self.work)
        return self.work

    def run_files(self, data: st.DataObject) -> None:
        """A spoilt run is loaded, and trained on."""
        run = self.fresh() / "runs" / "first"
        names = sorted(p.name for p in run.iterdir() if p.suffix not in (".pt", ""))
        trains_on = data.draw(st.integers(0, 4)) == 0
        for name in {data.draw(st.sampled_from(names)) for _ in range(2)}:
            if (run / name).is_file():
                spoil(data, run / name)
        outcome(lambda: load_model(str(run)))
        if trains_on:
            go_on = ["--resume", "--name", "first", "--steps", "3", "--prompt", ""]
            self.run_command(["train", *go_on])

    def model_files(self, data: st.DataObject) -> None:
        """A spoilt folder in Hugging Face's format is loaded."""
        folder = self.fresh() / "exported"
        spoil(data, data.draw(st.sampled_from(sorted(folder.iterdir()))))
        outcome(lambda: load_model(str(folder)))

    def tokenizer_files(self, data: st.DataObject) -> None:
        """A spoilt tokenizer is loaded and used."""
        path = self.fresh() / "beside.tiktoken"
        spoil(data, data.draw(st.sampled_from([path, path.with_suffix(".json")])))

        def use() -> None:
            tokenizer = Tokenizer.load(path)
            tokenizer.decode(tokenizer.encode("the buyer\n asks", allow_special=True))

        outcome(use)

    def chats(self, data: st.DataObject) -> None:
        """Spoilt conversations are loaded, as such and as text, and tuned on."""
        path = self.fresh() / "chats.jsonl"
        tunes = data.draw(st.integers(0, 11)) == 0
        spoil(data, path)
        outcome(lambda: load_chats(str(path)))
        outcome(lambda: load_text(str(path)))
        if tunes:
            small = [str(path), "--model", "exported", "--name", "tuned"]
            few = ["--epochs", "1", "--batch-size", "2", "--window", "8"]
            self.run_command(["finetune", *small, *few])

    def commands(self, data: st.DataObject) -> None:
        """A command line put together at random is run."""
        self.fresh()
        self.run_command(data.draw(command_lines()))

    def run_command(self, argv: list[str]) -> None:
        """Run one command; it may end with 0 or 2 and harm nothing."""
        out, err = io.StringIO(), io.StringIO()
        before = {p: p.read_bytes() for p in self.precious(argv)}
        stdin, sys.stdin = sys.stdin, io.StringIO("the buyer\nasks\n/quit\n")
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = exit_code(argv)
        except BaseException as error:
            error.add_note(f"tinygpt {argv}")
            raise
        finally:
            sys.stdin = stdin
            os.chdir(self.home)
        assert code in (0, 2), f"exit code {code} of tinygpt {argv}"
        if code == 2:
            last = err.getvalue().rstrip().rpartition("\n")[2].rpartition("\r")[2]
            assert last.startswith("tinygpt: "), f"{argv} ends with {last[:300]!r}"
            assert "Traceback" not in err.getvalue(), argv
        for path, content in before.items():
            assert path.is_file(), f"{path} is gone after tinygpt {argv}"
            assert path.read_bytes() == content, f"{path} changed by tinygpt {argv}"

    def precious(self, argv: list[str]) -> list[Path]:
        """Files that a command has no business with."""
        kept = [p for p in (self.home / "outer").rglob("*") if p.name == "precious.txt"]
        if "--resume" not in argv:
            kept += (self.work / "runs" / "first").iterdir()
        return [path for path in kept if path.is_file()]


def exit_code(argv: list[str]) -> int:
    """Run one command in this process; what the shell would see."""
    try:
        with watchdog(RUNNING):
            command(argv)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


# --- All of it ---------------------------------------------------------------------

TARGETS = ("run_files", "model_files", "tokenizer_files", "chats", "commands")


def where(error: BaseException) -> str:
    """The kind of an error and the place in the package where it left it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "tinygpt/" in f.filename] or frames[-1:]
    last = ours[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


def fuzz(bench: Bench, target: str, seconds: float) -> tuple[int, dict[str, str]]:
    """How many examples there were, and the first of every kind that went wrong."""
    found: dict[str, str] = {}
    seen: Counter[str] = Counter()
    end = time.monotonic() + seconds

    @settings(
        max_examples=25,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def check(data: st.DataObject) -> None:
        seen[target] += 1
        drawn = Recorder(data)
        try:
            getattr(bench, target)(drawn)
        except (Exception, TooSlow, SystemExit) as error:
            if "hypothesis" in type(error).__module__:
                raise
            notes = " ".join(getattr(error, "__notes__", []))
            trace = "".join(traceback.format_exception(error)[-4:])
            found.setdefault(where(error), f"{notes}\n{drawn}\n{trace}")

    while time.monotonic() < end:
        check()
    return seen[target], found


class Recorder:
    """Draws for a target and remembers what it drew."""

    def __init__(self, data: st.DataObject) -> None:
        self.data, self.drawn = data, []  # type: ignore[var-annotated]

    def draw(self, strategy: st.SearchStrategy[Any]) -> Any:
        value = self.data.draw(strategy)
        self.drawn.append(value)
        return value

    def __str__(self) -> str:
        return ", ".join(repr(value)[:120] for value in self.drawn)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--only", nargs="*", default=TARGETS, choices=TARGETS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    limit = used * resource.getpagesize() + GIBIBYTES * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    home = Path(tempfile.mkdtemp(prefix="fuzz-"))
    wrong = 0
    try:
        bench = Bench(home)
        for target in args.only:
            n, found = fuzz(bench, target, args.seconds / len(args.only))
            wrong += len(found)
            print(
                f"{target}: {n:,} examples, {len(found)} kinds of failure", flush=True
            )
            for place, example in found.items():
                print(f"\n--- {target}: {place}\n{example}", flush=True)
    finally:
        os.chdir(ROOT)
        shutil.rmtree(home, ignore_errors=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
