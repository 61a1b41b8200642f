"""The files of a run: weights, the state to resume from, settings and log.

A run folder holds
    run.json             settings of model and training, and what "auto" came to mean
    tokenizer.tiktoken   the vocabulary (with a .json beside it where needed)
    best.safetensors     the weights with the lowest validation loss so far
    last.safetensors     weights, optimizer state and counters, to resume from
    log.jsonl            one line per evaluation
    losses.png           the same as a picture (see `figure`)
    model-ckpt.pt        at the end: the best weights as a plain state dict
    base                 of adapters: the model they belong to, if no file had it
    .lock                held by the process that trains
run.json comes last, with the first last.safetensors: a folder with it can be resumed.
Every file is written atomically, and checked when it is read. What it leaves out:
training (see `run`); tensors in files (see `tensor_file`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from tinygpt.config import GPTConfig, TrainConfig, from_dict
from tinygpt.errors import UserError, require
from tinygpt.files import (
    exists,
    parse_json,
    read_file,
    read_json,
    why,
    write_atomically,
)
from tinygpt.model.gpt import GPT
from tinygpt.reward_config import RUN_KINDS, kind_of
from tinygpt.runtime.fsdp import full_tensor
from tinygpt.runtime.memory import n_parameters
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.tensor_file import (
    fill,
    load_tensors,
    read_header,
    require_fit,
    save_tensors,
    sketch,
    trained,
)

FORMAT = "tinygpt run 1"
LOCK, BASE = ".lock", "base"
FILES = (  # of a run folder, besides BASE and LOCK
    "run.json", "tokenizer.tiktoken", "tokenizer.json", "best.safetensors",
    "last.safetensors", "log.jsonl", "losses.png", "model-ckpt.pt",
)  # fmt: skip


class RunFolder:
    """The folder of one run; nothing is made before something is written.

    Raises:
        UserError: from every method, with a sentence, if a file cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"

    @property
    def exists(self) -> bool:
        """Whether a run has begun here: it has a run.json."""
        return exists(self.path / "run.json")

    def require_new(self) -> None:
        """Check that a new run may use this folder; it touches nothing.

        The folder is absent or empty, or holds what a run left that was killed before
        its first checkpoint: files of a run and a lock, but no run.json.

        Raises:
            UserError: there is a run, or something that is not ours.
        """
        if self.exists:
            raise UserError(
                f"the run {self.path} exists: continue it with --resume, or give "
                "another --name"
            )
        try:
            names = {p.name for p in self.path.iterdir()} if exists(self.path) else ()
        except OSError as error:
            raise self._unwritable(error) from error
        own = {LOCK, BASE, *FILES, *(f".{name}.part" for name in FILES)}
        others = set(names) - own if LOCK in names else set(names) - {LOCK}
        if others:
            raise UserError(
                f"{self.path} is not a run and not empty (it holds {min(others)}): "
                "give another --name"
            )

    def require_resumable(self) -> None:
        """Check that there is a state to resume from; it touches nothing.

        Raises:
            UserError: there is none.
        """
        if not self.exists:
            raise UserError(
                f"there is no run in {self.path} to resume: leave out --resume, or "
                "give the --name of one"
            )
        if not exists(self.last):
            raise UserError(
                f"the run {self.path} cannot be resumed, because it has no "
                f"{self.last.name}: start another one, with another --name"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training here; makes the folder if needed.

        The lock ends with its process, however that ends.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / LOCK)
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another process is training the run {self.path} right now: wait "
                "until it is done, or give another --name"
            ) from None
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write to {self.path} ({why(error)}): choose another folder with "
            "--out, or make room"
        )

    def save_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Write the vocabulary; makes the folder if needed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:
            raise self._unwritable(error) from error
        tokenizer.save(self.path / "tokenizer.tiktoken")

    def write_settings(
        self, model: GPTConfig, train: TrainConfig, **record: Any
    ) -> None:
        """Write run.json; from then on the run exists.

        `record` goes beside the settings: what the run found out about itself.
        """
        settings = {
            "format": FORMAT,
            "model": asdict(model),
            kind_of(train): asdict(train),
            "record": record,
        }
        text = json.dumps(settings, indent=2) + "\n"
        write_atomically(
            self.path / "run.json", lambda part: part.write_text(text, encoding="utf-8")
        )

    def save_model(
        self, model: GPT, tokenizer: Tokenizer, train: TrainConfig | None = None
    ) -> None:
        """Write a model that no run has trained, for `load_model`."""
        self.save_tokenizer(tokenizer)
        self.save_best(trained(model), {})
        self.write_settings(model.config, train or TrainConfig())

    def settings(self) -> dict[str, Any]:
        """All of run.json; "model" and one of `RUN_KINDS` are objects."""
        path = self.path / "run.json"
        require(exists(path), f"{self.path} is not a run folder: it has no run.json")
        settings = read_json(path, at_most=1 << 20)
        require(
            settings.get("format") == FORMAT,
            f"{path} is not in the format '{FORMAT}'",
        )
        for names in (("model",), tuple(RUN_KINDS), ("record",)):
            found = [settings[name] for name in names if name in settings]
            require(
                all(isinstance(value, dict) for value in found)
                and (len(found) == 1 or names == ("record",)),
                f"{path} lacks settings: it needs one object '{' or '.join(names)}'",
            )
        return settings

    def configs(self) -> tuple[GPTConfig, TrainConfig]:
        """The settings of the model, and of what the run does with it."""
        settings = self.settings()
        model = from_dict(GPTConfig, settings["model"])
        kind = next(name for name in RUN_KINDS if name in settings)
        return model, from_dict(RUN_KINDS[kind], settings[kind])

    def tokenizer(self) -> Tokenizer:
        """The vocabulary that the run was trained with."""
        path, wanted = self.path / "tokenizer.tiktoken", self.configs()[0].vocab_size
        tokenizer = Tokenizer.load(path)
        require(
            tokenizer.vocab_size == wanted,
            f"{path} has {tokenizer.vocab_size} entries instead of {wanted}: "
            "it was cut off or replaced",
        )
        return tokenizer

    def save_last(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write the state to resume from."""
        save_tensors(self.last, tensors, metadata)

    def load_last(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state to resume from."""
        return load_tensors(self.last)

    def save_best(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write the trained weights that did best so far (see `trained`)."""
        save_tensors(self.best, tensors, metadata)

    def load_best(self, model: nn.Module) -> dict[str, Any]:
        """Put the best weights so far into `model`; returns their metadata."""
        tensors, metadata = load_tensors(self.best)
        fill(model, tensors, str(self.best))
        return metadata

    def load_model(self) -> tuple[GPT, Tokenizer, dict[str, Any]]:
        """The best model so far, its tokenizer, and the metadata of its weights."""
        (config, _), tokenizer = self.configs(), self.tokenizer()
        shapes, _ = read_header(self.best)
        require_fit(sketch(config, shapes, str(self.path)), shapes, str(self.best))
        model = GPT(config)
        metadata = self.load_best(model)
        return model.eval(), tokenizer, metadata

    def save_plain(self, model: nn.Module, writes: bool = True) -> None:
        """Write model-ckpt.pt, which torch alone can read.

        All ranks must ask, for each gives its own shards; one of them writes.
        """
        state = {name: full_tensor(t) for name, t in model.state_dict().items()}
        if not writes:
            return

        def write(part: Path) -> None:
            try:
                torch.save(state, part)
            except RuntimeError as error:  # a full disk, for example
                raise OSError(None, str(error).splitlines()[0]) from error

        write_atomically(self.path / "model-ckpt.pt", write)

    def log(self, record: dict[str, Any]) -> None:
        """Add one line to the log; lines of steps done again are replaced."""
        lines = [r for r in self.read_log() if r["step"] < record["step"]] + [record]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(
            self.path / "log.jsonl",
            lambda part: part.write_text(text, encoding="utf-8"),
        )

    def read_log(self) -> list[dict[str, Any]]:
        """All evaluations so far, one dictionary each with at least "step"."""
        path = self.path / "log.jsonl"
        if not exists(path):
            return []
        lines = read_file(path).splitlines()
        try:
            records = [parse_json(line) for line in lines]
        except ValueError as error:
            raise UserError(f"{path} is not a log ({error})") from error
        for record in records:
            require(
                isinstance(record, dict) and type(record.get("step")) is int,
                f"{path} is not a log: each line should be an object with a step",
            )
        return records


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows of one."""

    path: Path
    data: str = ""
    """The text or the conversations that it learned from."""
    parameters: int = 0
    steps: int = 0
    """Optimizer steps so far."""
    bits_per_byte: float | None = None
    """The best so far."""
    date: str = ""
    """When it was started."""
    problem: str = ""
    """Why nothing more is known about it, or ""."""


def list_runs(out: Path) -> list[RunSummary]:
    """The runs in the folder `out`, the one that was written last at the end.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        paths = list(out.iterdir()) if exists(out) else []
    except OSError as error:
        raise UserError(f"cannot read {out} ({why(error)})") from error
    runs = [path for path in paths if exists(path / "run.json")]
    return [_summary(path) for path in sorted(runs, key=_written)]


def _written(path: Path) -> float:
    files = (path / "run.json", path / "last.safetensors")
    return max(file.stat().st_mtime for file in files if exists(file))


def _summary(path: Path) -> RunSummary:
    folder = RunFolder(path)
    try:
        model, train = folder.configs()
        log = folder.read_log()
        bits = [line.get("bits_per_byte") for line in log]
        known = [value for value in bits if isinstance(value, float)]
        record = folder.settings().get("record", {})
        return RunSummary(
            path,
            data=train.data,
            parameters=n_parameters(model),
            steps=max((line["step"] for line in log), default=0),
            bits_per_byte=min(known, default=None),
            date=str(record.get("started", "")),
        )
    except UserError as error:
        return RunSummary(path, problem=str(error))
