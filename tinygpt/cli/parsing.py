"""From the words after `tinygpt` to a filled-in dataclass of `arguments`.

tyro parses everything. What trains is parsed twice: a first look at a few options finds
the defaults of all others (a preset, a file, a run to continue). What it leaves out:
loading models.
"""

import contextlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from tinygpt.cli.arguments import (
    Chat,
    Data,
    Eval,
    Export,
    Finetune,
    FinetuneOptions,
    Generate,
    Info,
    Open,
    Reward,
    RewardOptions,
    Runs,
    Tokenize,
    Train,
    TrainOptions,
)
from tinygpt.cli.paths import OptionalFile, PathOption
from tinygpt.config import FinetuneConfig
from tinygpt.errors import UserError, require
from tinygpt.reward_config import RewardConfig, kind_of, require_kind
from tinygpt.runtime.device import calm_threads
from tinygpt.settings import (
    closest,
    convert,
    find_preset,
    override,
    read_settings,
)

COMMANDS: dict[str, Callable[..., Any]] = {
    kind.__name__.lower(): kind
    for kind in (
        Train,
        Generate,
        Finetune,
        Reward,
        Chat,
        Eval,
        Open,
        Export,
        Runs,
        Tokenize,
        Data,
        Info,
    )
}
EXAMPLES = """\
tinygpt trains small GPTs on a CPU, and lets them speak. Four examples:

  tinygpt train my.txt --minutes 2
  tinygpt generate --prompt "Once" --temperature 0.6
  tinygpt finetune shop-chats --model pocket-gpt2 --renumber
  tinygpt chat --model pocket-chat

tinygpt --help lists all commands, tinygpt train --help the settings of training.
tinygpt --tyro-print-completion bash (zsh, fish) prints completion for a shell."""
SHELLS = ("bash", "zsh", "fish", "tcsh")
NARROWEST = 40  # columns; in fewer than six, tyro wraps its help forever


@dataclass
class _Start:
    """The options that decide the defaults of the others."""

    preset: str | None = None
    name: str | None = None
    out: PathOption = Path("runs")
    resume: bool = False
    config: OptionalFile = None


def parse(words: Sequence[str]) -> Any:
    """The command's dataclass, filled in; `--help` prints and leaves.

    Raises:
        UserError: a word cannot be understood, or a value is out of range.
    """
    command = f" {words[0]}" if words and words[0] in COMMANDS else ""
    if not command and words and not words[0].startswith("-"):
        hint = closest(words[0], COMMANDS) or f": choose {', '.join(COMMANDS)}"
        raise UserError(f"there is no command '{words[0]}'{hint}")
    if "completion" in "".join(words[:1]):
        _check_completion(words)
    refused = io.StringIO()
    try:
        with contextlib.redirect_stderr(refused), _columns(words):
            if command in (" train", " finetune", " reward"):
                return _parse_training(words[0], words[1:])
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                args=words,
                prog="tinygpt",
                description="Train a small GPT on a CPU, and let it speak.",
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise UserError(
            f"{_sentence(refused.getvalue())} (see tinygpt{command} --help)"
        ) from None


def _check_completion(words: Sequence[str]) -> None:
    """Check what tyro asserts: a shell that it knows, and a file to write."""
    require(
        len(words) > 1 and words[1] in SHELLS,
        f"name the shell: tinygpt {words[0]} {'|'.join(SHELLS)}",
    )
    require(
        not words[0].endswith("write-completion") or len(words) > 2,
        f"name the file: tinygpt {words[0]} {words[1]} FILE",
    )


@contextlib.contextmanager
def _columns(words: Sequence[str]) -> Iterator[None]:
    """Give tyro enough columns for its help, and for an error on one line."""
    asks = {"-h", "--help"} & set(words)
    columns = shutil.get_terminal_size().columns if asks else 10_000
    before = os.environ.get("COLUMNS")  # noqa: TID251 - tyro has no other switch
    os.environ["COLUMNS"] = str(max(NARROWEST, columns))  # noqa: TID251
    try:
        yield
    finally:
        del os.environ["COLUMNS"]  # noqa: TID251
        if before is not None:
            os.environ["COLUMNS"] = before  # noqa: TID251


def _sentence(box: str) -> str:
    """What stands in the box that tyro draws, up to its first rule or empty line.

    We promise one sentence for every mistake. tyro's public functions only draw boxes;
    its hook for errors is private and may change in any release.
    """
    said: list[str] = []
    for line in box.splitlines()[1:]:  # the first is the title
        text = line.strip("│ ")
        if text.strip("─-╰╯"):
            said.append(text)
        elif said:
            break
    return " ".join(said).rstrip(".").replace(". ", ": ") or "cannot read these words"


# --- Runs ----------------------------------------------------------------------------


def runs_in(folder: Path) -> list[Path]:
    """Run folders in `folder`, the oldest first."""
    runs = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    return [run.parent for run in runs]


def latest_run(out: Path = Path("runs")) -> Path:
    """The run that was started last.

    Raises:
        UserError: there is none in `out`.
    """
    known = runs_in(out)
    require(
        bool(known),
        f"there is no run in {out}/ yet: train one with `tinygpt train`, or give a "
        "--model",
    )
    return known[-1]


def free_name(out: Path, start: str) -> str:
    """`start`, or the first of `start`-2, -3, ... that no run in `out` has."""
    n, name = 1, start
    while (out / name / "run.json").exists():
        n, name = n + 1, f"{start}-{n + 1}"
    return name


# --- Defaults of the commands that train ---------------------------------------------


def _parse_training(command: str, words: Sequence[str]) -> Train | Finetune | Reward:
    start, _ = tyro.cli(
        _Start,
        args=words,
        prog=f"tinygpt {command}",
        return_unknown_args=True,
        add_help=False,
    )
    default: Train | Finetune | Reward = DEFAULTS[command](start)
    args = tyro.cli(
        type(default), args=words, default=default, prog=f"tinygpt {command}"
    )
    if isinstance(args, Train) and isinstance(default, Train):
        require(
            args.model.vocab_size == default.model.vocab_size,
            "the tokenizer decides how many tokens there are: choose another "
            "--tokenizer instead of a --vocab-size",
        )
        if args.train.minutes is not None and not (start.preset or start.resume):
            args.given = _given(words, start.config)
    return args


def _given(words: Sequence[str], config: Path | None) -> tuple[str, ...]:
    """The settings that options and file name; a plan chooses the others."""
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    names = [option.lstrip("-").replace("-", "_") for option in options]
    names = [name.removeprefix("no_") for name in names]
    if config is not None:
        names += read_settings(config, "model", "train")
    return tuple(names)


def _train_defaults(start: _Start) -> Train:
    """The settings of a preset or of the run to continue, then those of a file."""
    chosen = start.preset or "tiny"
    preset = find_preset(chosen)
    train, model, name = preset.train, preset.model, start.name
    if start.resume:
        names = rf"{start.preset}(-\d+)?" if start.preset else ".*"
        name = name or _latest(start.out, "train", names)
        if name and (folder := _run_folder(start.out / name)):
            model, train = folder.configs()
            require_kind(folder.path, train, "train")
    if start.config is not None:
        settings = read_settings(start.config, "model", "train")
        train, model = override(settings, train, model)
    return Train(
        name=name,
        preset=chosen,
        train=convert(TrainOptions, train),
        model=model,
    )


def _finetune_defaults(start: _Start) -> Finetune:
    """The settings of the run to continue, then those of a file."""
    config, name = _old_or_new(start, "finetune", FinetuneConfig())
    return Finetune(name=name, train=convert(FinetuneOptions, config))


def _reward_defaults(start: _Start) -> Reward:
    """The same for learning from a reward."""
    config, name = _old_or_new(start, "reward", RewardConfig())
    return Reward(name=name, train=convert(RewardOptions, config))


def _old_or_new(start: _Start, kind: str, config: Any) -> tuple[Any, str | None]:
    """The settings to start from, `config` if there are none; the name of the run."""
    name = start.name
    if start.resume:
        name = name or _latest(start.out, kind)
        if name and (folder := _run_folder(start.out / name)):
            _, config = folder.configs()
            require_kind(folder.path, config, kind)
    if start.config is not None:
        (config,) = override(read_settings(start.config, kind), config)
    return config, name


def _run_folder(path: Path) -> Any:
    """The run in `path`, or None; loads torch, as the command is going to."""
    if not (path / "run.json").exists():
        return None
    calm_threads()
    from tinygpt.training.checkpoint import RunFolder

    return RunFolder(path)


def _latest(out: Path, command: str, names: str = ".*") -> str | None:
    """The name of the latest run of this command that matches `names`, if any."""
    for path in reversed(runs_in(out)):
        if re.fullmatch(names, path.name):
            _, config = _run_folder(path).configs()
            if kind_of(config) == command:
                return path.name
    return None


DEFAULTS: dict[str, Callable[[_Start], Any]] = {
    "train": _train_defaults,
    "finetune": _finetune_defaults,
    "reward": _reward_defaults,
}
