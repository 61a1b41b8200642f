"""A run on disk: save, load, resume.

A run folder holds
    run.json             settings of model and training
    tokenizer.tiktoken   the vocabulary (with a .json beside it where needed)
    best.safetensors     the weights with the lowest validation loss so far
    last.safetensors     weights, optimizer and counters, to resume from
    log.jsonl            one line per look at the losses
    model-ckpt.pt        at the end: the best weights as a plain state dict
Every file is written beside its place, as .NAME.part, and then moved there, so a file
is either whole or absent. Reading never runs code from a file. What it leaves out: what
the tensors mean; model and trainer know.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig, from_dict
from tinygpt.errors import UserError, require
from tinygpt.files import write_atomically
from tinygpt.model.gpt import GPT
from tinygpt.runtime.fsdp import full_tensor, is_sharded, shard_like
from tinygpt.text.tokenizer import Tokenizer

FORMAT = "tinygpt run 1"
OF_ONE_RUN = (
    "run.json",
    "last.safetensors",
    "best.safetensors",
    "log.jsonl",
    "model-ckpt.pt",
)


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write `tensors` of any shape and `facts` (JSON, in the header) as one file.

    Raises:
        OSError: the file cannot be written; or safetensors' own SafetensorError.
    """
    whole = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    header = {"format": "pt", "facts": json.dumps(facts)}
    write_atomically(path, lambda part: save_file(whole, part, header))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save_tensors` wrote.

    Raises:
        UserError: the file is missing, truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(facts)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({error}): "
            "it may be cut off or come from another program"
        ) from error


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """A plain state dict such as model-ckpt.pt, without running code from the file.

    Raises:
        UserError: the file is missing, truncated or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except Exception as error:  # bytes of another kind make torch fail in any way
        raise UserError(
            f"{path} is not a state dict that can be read safely: "
            "it may be cut off or come from another program"
        ) from error
    if not isinstance(state, dict) or not all(
        torch.is_tensor(t) for t in state.values()
    ):
        raise UserError(f"{path} holds no state dict: names with tensors were expected")
    return state


@torch.no_grad()
def fill(model: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy `tensors` into the model's parameters by name.

    A tied weight may stand under either or both of its names; parameters that are not
    trained (the base of adapters) may be absent.

    Raises:
        UserError: a tensor is missing, left over or of another shape.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    held = {id(own[name]) for name in tensors if name in own}
    wanted = {name: p for name, p in own.items() if p.requires_grad}
    missing = [name for name, p in wanted.items() if id(p) not in held]
    extra = [name for name in tensors if name not in own]
    if missing or extra:
        word, names = ("lacks", missing) if missing else ("has the unknown", extra)
        raise UserError(
            f"{source} {word} tensor {names[0]} ({len(names)} in all): "
            "it belongs to a model of another shape"
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise UserError(
                f"{source} holds {name} as {list(tensor.shape)}, "
                f"but the model wants {list(own[name].shape)}"
            )
    for name, tensor in tensors.items():
        own[name].copy_(shard_like(own[name], tensor))


def trained(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights that are trained, whole; of adapters, only them."""
    named: dict[str, Tensor] = dict(model.named_parameters())
    return {n: full_tensor(p.detach()) for n, p in named.items() if p.requires_grad}


class RunFolder:
    """One run's folder; makes nothing until `start`.

    Raises:
        UserError: from every method, with a sentence, if a file cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def exists(self) -> bool:
        """Whether a run was started here."""
        return (self.path / "run.json").is_file()

    @property
    def can_resume(self) -> bool:
        """Whether there is a state to resume from."""
        return (self.path / "last.safetensors").is_file()

    def start(
        self,
        model: GPTConfig,
        train: TrainConfig,
        tokenizer: Tokenizer,
    ) -> None:
        """Make the folder and write what will not change; an old run is cleared."""
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            for old in OF_ONE_RUN:
                (self.path / old).unlink(missing_ok=True)
            tokenizer.save(self.path / "tokenizer.tiktoken")
        settings = {"format": FORMAT, "entries": tokenizer.vocab_size}
        kind = "finetune" if isinstance(train, FinetuneConfig) else "train"
        self._write_settings(settings | {"model": asdict(model), kind: asdict(train)})

    def change(self, train: TrainConfig) -> None:
        """Write new training settings for a run that goes on with them."""
        self._write_settings(self.settings() | {"train": asdict(train)})

    def _write_settings(self, settings: dict[str, Any]) -> None:
        text = json.dumps(settings, indent=2) + "\n"
        with self._writing():
            write_atomically(
                self.path / "run.json", lambda p: p.write_text(text, encoding="utf-8")
            )

    def settings(self) -> dict[str, Any]:
        """All of run.json."""
        path = self.path / "run.json"
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            require(
                settings["format"] == FORMAT, f"{path} has another format than ours"
            )
        except OSError as error:
            raise UserError(f"{self.path} is not a run folder: no run.json") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a run's description: {error}") from error
        return settings

    def configs(self) -> tuple[GPTConfig, TrainConfig]:
        """The settings that the run was started with."""
        settings = self.settings()
        try:
            model = from_dict(GPTConfig, settings["model"])
            if "finetune" in settings:
                return model, from_dict(FinetuneConfig, settings["finetune"])
            return model, from_dict(TrainConfig, settings["train"])
        except (KeyError, TypeError) as error:
            raise UserError(f"{self.path}/run.json lacks settings: {error}") from error

    def tokenizer(self) -> Tokenizer:
        """The vocabulary that the run was trained with."""
        path, wanted = self.path / "tokenizer.tiktoken", self.settings().get("entries")
        tokenizer = Tokenizer.load(path)
        require(
            tokenizer.vocab_size == wanted,
            f"{path} has {tokenizer.vocab_size} entries instead of {wanted}: "
            "it was cut off or replaced",
        )
        return tokenizer

    def save_last(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write the state to resume from."""
        with self._writing():
            save_tensors(self.path / "last.safetensors", tensors, facts)

    def load_last(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state to resume from."""
        return load_tensors(self.path / "last.safetensors")

    def save_best(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Write the trained weights that did best so far (see `trained`)."""
        with self._writing():
            save_tensors(self.path / "best.safetensors", tensors, facts)

    def load_best(self, model: torch.nn.Module) -> dict[str, Any]:
        """Put the best weights so far into `model`; what was noted with them."""
        path = self.path / "best.safetensors"
        tensors, facts = load_tensors(path)
        fill(model, tensors, str(path))
        return facts

    def load_model(self) -> tuple[GPT, Tokenizer, dict[str, Any]]:
        """The best model so far, its tokenizer, and what was noted with it."""
        config, _ = self.configs()
        model = GPT(config)
        facts = self.load_best(model)
        return model.eval(), self.tokenizer(), facts

    def follow(self, trainer: Any, show_progress: bool = False) -> Iterator[Any]:
        """Run a `Trainer` and keep what it does: best, last, log, the final weights.

        All is saved before a look is handed on; the state to resume from only after
        `checkpoint_interval` steps, and at the end. Of several processes only the main
        one writes. In the end the model holds the best weights.
        """
        trainer.world.barrier()  # all have read before one writes
        model, writes, due = trainer.model, trainer.world.is_main, 0
        gathers = writes or is_sharded(model)  # of shares, every process gives its own
        for look in trainer.run(show_progress):
            if gathers and look.is_best:
                best = trained(model)
                if writes:
                    self.save_best(best, look.record())
            if writes and not look.is_extra:
                self.log(look.record())
            if gathers and (look.step >= due or look.is_last):
                state = trainer.state()
                if writes:
                    self.save_last(*state)
                due = look.step + trainer.config.checkpoint_interval
            yield look
        trainer.world.barrier()  # the best weights are on the disk
        if gathers and not trainer.interrupted:
            self.finish(model, writes)

    def finish(self, model: torch.nn.Module, writes: bool = True) -> None:
        """Give `model` its best weights, and write them as the plain model-ckpt.pt.

        Adapters are not written so: without their base they are no model.
        """
        self.load_best(model)
        if all(p.requires_grad for p in model.parameters()):
            path = self.path / "model-ckpt.pt"
            state = {name: full_tensor(t) for name, t in model.state_dict().items()}
            if writes:
                with self._writing():
                    write_atomically(path, lambda part: torch.save(state, part))

    def log(self, record: dict[str, Any]) -> None:
        """Add one line to the log; lines of steps done again are replaced."""
        path = self.path / "log.jsonl"
        lines = [r for r in self.read_log() if r["step"] < record["step"]] + [record]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with self._writing():
            write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))

    def read_log(self) -> list[dict[str, Any]]:
        """All looks so far, one dictionary each."""
        path = self.path / "log.jsonl"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            return [json.loads(line) for line in lines]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a log ({error}): remove it") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"cannot write to {self.path} ({error}): choose another folder with "
                "--out, or make room"
            ) from error


def load_run(path: str | Path) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """The best model of a run folder and its tokenizer.

    Raises:
        UserError: there is no run, or one of its files cannot be used.
    """
    folder = RunFolder(path)
    if not folder.exists:
        raise UserError(f"there is no run in {path}: train one with `tinygpt train`")
    return folder.load_model()
