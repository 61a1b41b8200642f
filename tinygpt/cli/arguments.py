"""What can be typed after `tinygpt`: one dataclass per command, and the parsing.

Loads neither torch nor any module that does (a run's own settings aside), so `--help`
answers at once. What it leaves out: doing anything (see `cli`).
"""

import argparse
import contextlib
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import UserError, require
from tinygpt.presets import PRESETS
from tinygpt.runtime.device import calm_threads

PresetName = Literal[
    "tiny", "pocket", "seed", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"
]


@dataclass
class Train:
    """Train a GPT on a text, keep the run in a folder, and let the model speak.

    Every setting of model and training below starts from the preset.
    """

    preset: PresetName = "tiny"
    """Where all other settings start."""
    name: str | None = None
    """The run's name; the preset's name, numbered if it is taken."""
    out: Path = Path("runs")
    """The folder that holds the runs."""
    resume: bool = False
    """Go on with the run `name`, or the latest (of the preset, if one is given); start
    it if there is none."""
    prompt: str = "The salesperson"
    """What the sample at the end starts with; empty for no sample."""
    tensorboard: bool = False
    """Write the losses for TensorBoard, too (needs the package tensorboard)."""
    train: tyro.conf.OmitArgPrefixes[TrainConfig] = field(
        default_factory=lambda: PRESETS["tiny"].train
    )
    model: tyro.conf.OmitArgPrefixes[GPTConfig] = field(
        default_factory=lambda: PRESETS["tiny"].model
    )


@dataclass
class RunChoice:
    """Which trained model to use."""

    run: Path | None = None
    """A run's folder, also of fine-tuning; the latest in ./runs if not given."""


@dataclass
class Sampling:
    """How the next token is chosen."""

    max_new_tokens: int = 100
    """How many tokens to write at most."""
    temperature: float = 0.8
    """Below 1 is safer, above 1 is wilder; 0 always takes the likeliest token."""
    top_k: int | None = 50
    """Choose among this many likeliest tokens only."""
    top_p: float | None = None
    """Choose among the likeliest tokens that share this probability only."""
    seed: int | None = None
    """The same seed writes the same text again."""

    def __post_init__(self) -> None:
        for name, good in {
            "max_new_tokens": self.max_new_tokens >= 0,
            "temperature": 0 <= self.temperature < math.inf,
            "top_k": self.top_k is None or self.top_k >= 1,
            "top_p": self.top_p is None or 0 < self.top_p <= 1,
            "seed": self.seed is None or 0 <= self.seed < 2**63,
        }.items():
            option, value = name.replace("_", "-"), getattr(self, name)
            require(good, f"--{option} {value} is out of range: see the --help")


@dataclass
class Generate(Sampling, RunChoice):
    """Let a trained model go on with a text; the words come as they are made."""

    prompt: str = "The salesperson"
    """The text to go on with."""
    cache: bool = True
    """Remember keys and values of past tokens: the same text, sooner."""


@dataclass
class Finetune:
    """Fine-tune a trained model on conversations or text, in full or with LoRA.

    At the end the model as it was and the model as it is answer the same questions
    with the same seed.
    """

    name: str | None = None
    """The run's name; "finetune", numbered if it is taken."""
    out: Path = Path("runs")
    """The folder that holds the runs."""
    resume: bool = False
    """Go on with the run `name` as it was started; start it if there is none."""
    tensorboard: bool = False
    """Write the losses for TensorBoard, too (needs the package tensorboard)."""
    config: tyro.conf.OmitArgPrefixes[FinetuneConfig] = field(
        default_factory=FinetuneConfig
    )


@dataclass
class Chat(Sampling):
    """Talk to a fine-tuned model in the terminal.

    /reset forgets what was said, /quit leaves, Ctrl-C stops an answer.
    """

    model: str | None = None
    """A run folder, a folder in GPT-2's format, pocket-gpt2, gpt2, ...; the latest run
    in ./runs if not given."""


@dataclass
class Export:
    """Write a trained model for other programs: transformers, or a web page."""

    model: Annotated[str, tyro.conf.Positional]
    """A run folder, or another model that `chat` takes."""
    out: Path
    """The folder to make."""
    format: Literal["hf", "web"] = "hf"
    """hf: config.json, model.safetensors and tokenizer.json, as on the Hub. web: one
    script file for book/_static/tinygpt.js."""
    dtype: Literal["float32", "float16"] = "float32"
    """How hf stores a number; float16 halves the file. web always takes float16."""


@dataclass
class Eval(RunChoice):
    """Measure a trained model: bits per byte, baselines, memorisation."""

    data: str | None = None
    """A corpus or file, of which the last 10 % are used (a million tokens at most); the
    run's own if not given."""


@dataclass
class Tokenize:
    """Show how a text is cut into tokens, or train a new vocabulary."""

    text: Annotated[str | None, tyro.conf.Positional] = None
    """The text to cut; standard input if not given."""
    tokenizer: str = "handbook-4k"
    """handbook-4k, gpt2, cl100k_base, o200k_base, or a .tiktoken file."""
    train_on: str | None = None
    """Train a vocabulary on the first 90 % of this corpus or file instead."""
    vocab_size: int = 4096
    """Entries of the new vocabulary."""
    save: Path | None = None
    """Where to write the new vocabulary."""


@dataclass
class Prepare:
    """Cut a text of any size into tokens, on disk, for `train --data NAME.tokens`.

    Give the same command again to go on after it was stopped.
    """

    text: Annotated[str, tyro.conf.Positional]
    """A corpus, text file, folder or glob."""
    out: Path
    """The token file to make, NAME.tokens."""
    tokenizer: str = "handbook-4k"
    """handbook-4k, gpt2, cl100k_base, o200k_base, or a .tiktoken file."""
    workers: int | None = None
    """Processes that cut the text; one for each core if not given."""

    def __post_init__(self) -> None:
        good = self.workers is None or 1 <= self.workers <= 1024
        require(good, f"--workers {self.workers} is out of range: see the --help")


@dataclass
class Data:
    """List the texts that come by name, fetch one of them, or prepare a big text."""

    fetch: str | None = None
    """Download and verify this corpus now, and say where it lies."""
    prepare: Annotated[
        Annotated[None, tyro.conf.subcommand("list", description="List the texts.")]
        | Annotated[Prepare, tyro.conf.subcommand("prepare")],
        tyro.conf.OmitArgPrefixes,
        tyro.conf.OmitSubcommandPrefixes,
    ] = None


@dataclass
class Info:
    """Show versions, devices and the presets with their sizes."""


COMMANDS: dict[str, Callable[..., Any]] = {
    kind.__name__.lower(): kind
    for kind in (
        Train,
        Generate,
        Finetune,
        Chat,
        Export,
        Eval,
        Tokenize,
        Data,
        Info,
    )
}


def parse(words: Sequence[str]) -> Any:
    """The command's dataclass, filled in; `--help` prints and leaves.

    Raises:
        UserError: a word cannot be understood, or a value is out of range.
    """
    refused = io.StringIO()
    try:
        with contextlib.redirect_stderr(refused):
            if words[:1] == ["train"]:
                return _parse_train(words[1:])
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                args=words,
                prog="tinygpt",
                description="Train a small GPT on a CPU, and let it speak.",
            )
    except SystemExit as end:
        if not end.code:
            raise
        command = f" {words[0]}" if words and words[0] in COMMANDS else ""
        raise UserError(
            f"{_sentence(refused.getvalue())} (see tinygpt{command} --help)"
        ) from None


def _sentence(box: str) -> str:
    """What stands in the box that tyro draws, up to its first ruler or empty line."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith("╭")]
    end = next((i for i, line in enumerate(lines) if not line.strip("─╰╯")), None)
    return " ".join(lines[:end]).rstrip(".").replace(". ", ": ")


def runs_in(folder: Path) -> list[Path]:
    """Run folders below `folder`, the oldest first."""
    runs = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    return [run.parent for run in runs]


def choose_run(given: Path | None, out: Path = Path("runs")) -> Path:
    """The run that the user means.

    Raises:
        UserError: none is given, and there is none in `out`.
    """
    known = runs_in(out) if given is None else [given]
    require(
        bool(known), f"there is no run in {out}/ yet: train one with `tinygpt train`"
    )
    return known[-1]


def run_path(out: Path, name: str | None, start: str) -> Path:
    """The folder of the run `name`; without a name, the first free one of `start`.

    Raises:
        UserError: `name` is no plain name.
    """
    if name is None:
        n, name = 1, start
        while (out / name / "run.json").exists():
            n, name = n + 1, f"{start}-{n + 1}"
    require(
        bool(name) and Path(name).name == name,
        f"'{name}' is no name for a run: give one word without slashes",
    )
    return out / name


def _parse_train(words: Sequence[str]) -> Train:
    start = _defaults(words)
    args = tyro.cli(Train, args=words, default=start, prog="tinygpt train")
    require(
        args.model.vocab_size == start.model.vocab_size,
        "the tokenizer decides how many tokens there are: choose another --tokenizer "
        "instead of a --vocab-size",
    )
    return args


def _defaults(words: Sequence[str]) -> Train:
    """The defaults of `train`: the preset's, or those of the run to be resumed."""
    peek = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, exit_on_error=False
    )
    peek.add_argument("--preset")
    peek.add_argument("--resume", action="store_true")
    peek.add_argument("--name")
    peek.add_argument("--out", type=Path, default=Path("runs"))
    try:
        seen, _ = peek.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"{error} (see tinygpt train --help)") from None
    preset = PRESETS.get(seen.preset or "tiny")
    if preset is None:
        raise UserError(
            f"there is no preset '{seen.preset}': choose {', '.join(PRESETS)}"
        )
    start = Train(seen.preset or "tiny", train=preset.train, model=preset.model)
    if seen.resume:
        fitting = re.compile(rf"{seen.preset}(-\d+)?" if seen.preset else ".*")
        known = [run.name for run in runs_in(seen.out) if fitting.fullmatch(run.name)]
        start.name = seen.name or (known[-1] if known else None)
        if start.name and (seen.out / start.name / "run.json").exists():
            calm_threads()
            from tinygpt.training.checkpoint import RunFolder

            folder = RunFolder(seen.out / start.name)
            if "finetune" not in folder.settings():  # those are refused when opened
                start.model, start.train = folder.configs()
    return start
