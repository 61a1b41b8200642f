"""Command lines put together at random from the options that `--help` lists.

What it leaves out: commands that may rightly take long, that reach the network, or that
write to where the machine keeps its own files; and running them (see `fuzz`).
"""

import contextlib
import io
import re

from hypothesis import strategies as st
from spoil import NUMBERS

from tinygpt.cli.main import main as command

COMMANDS = ["train", "generate", "finetune", "chat", "export", "eval", "tokenize"]
COMMANDS += ["data", "data prepare", "info", "runs"]
# Small settings, so that what is allowed is soon done.
SMALL = {
    "train": {
        "--d-model": "8",
        "--n-layers": "1",
        "--n-heads": "2",
        "--context-length": "8",
        "--batch-size": "2",
        "--steps": "1",
        "--eval-windows": "1",
        "--tokenizer": "small.tiktoken",
        "--prompt": "the",
    },
    "generate": {"--model": "first", "--max-new-tokens": "3", "--prompt": "the"},
    "chat": {"--model": "first", "--max-new-tokens": "3"},
    "finetune": {
        "--model": "exported",
        "--epochs": "0.1",
        "--batch-size": "2",
        "--window": "8",
    },
}
# What may rightly take long, or reach the network, or write to strange places.
NEVER = {"--compile", "--fetch", "--tensorboard", "--help", "--workers", "--version"}
FEW_ONLY = {
    "--steps",
    "--epochs",
    "--minutes",
    "--max-new-tokens",
    "--grad-accumulation",
}
FEW = ["0", "1", "-1", "nan", "-inf", "x", "", "0.001", "1e400", "None"]
PATHS = [
    "text.txt",
    "runs/first/run.json",
    "chats.jsonl",
    "runs/first",
    "exported",
    "small.tiktoken",
    "first",
]
PATHS += ["beside.tiktoken", "beside.json", "new", "a/b/c", "x" * 300, "y/" * 2000]
PATHS += ["", ".", "..", "../..", "~", "/dev/full", "/dev/null", "/proc/self/mem"]
PATHS += ["precious.txt/x", "runs/*", "**", "\0", "nowhere.txt", "-", "--", "handbook"]
WORDS = [*map(str, NUMBERS), "nan", "inf", "-inf", "x", "🙂", "\ud800", "None", "True"]
WORDS += ["0.0", "1e-30", "1e-320", "0.999999", "16", "64", "cpu", "cuda", "auto"]
WORDS += ["float32", "bfloat16", "float16", "rotary", "sinusoidal", "swiglu", "muon"]
WORDS += ["rmsnorm", "post", "zero", "cosine", "linear", "web", "full", "tiny", "x"]


def options() -> dict[str, list[str]]:
    """The options of each command, as its --help lists them."""
    found = {}
    for name in COMMANDS:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            command([*name.split(), "--help"])
        words = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", said.getvalue()))
        found[name] = sorted(words - NEVER)
    return found


OPTIONS = options()


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """A command, its small settings, and up to four options with any value."""
    name = draw(st.sampled_from(COMMANDS))
    chosen: dict[str, str | None] = dict(SMALL.get(name, {}))
    for _ in range(draw(st.integers(0, 4))):
        if not OPTIONS[name]:
            break
        option = draw(st.sampled_from(OPTIONS[name]))
        pool = FEW if option in FEW_ONLY else [*PATHS, *WORDS]
        if draw(st.integers(0, 5)) == 0:
            chosen[option] = None
        else:
            chosen[option] = draw(st.sampled_from(pool))
    argv = name.split()
    for option, value in chosen.items():
        argv += [option] if value is None else [option, value]
    if draw(st.integers(0, 2)) == 0:
        argv.insert(draw(st.integers(0, len(argv))), draw(st.sampled_from(PATHS)))
    if draw(st.integers(0, 9)) == 0:
        argv = argv[: draw(st.integers(0, len(argv)))]
    if argv[:1] == ["train"] and "--steps" not in argv:
        argv += ["--steps", "1"]  # the preset's would take minutes
    return argv
