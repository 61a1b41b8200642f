"""A training run: train, and keep in a folder what comes of it.

`Run` is what pretraining and fine-tuning share: it lets the trainer train, writes best
and last weights and the log, and resumes. `pretrain` makes the run that trains a new
GPT on a text. What it leaves out: printing (see `cli`) and fine-tuning (see
`finetuning.run`).
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import UserError
from tinygpt.files import exists, why
from tinygpt.model.gpt import GPT
from tinygpt.reward_config import kind_of, require_kind
from tinygpt.runtime.display import Progress
from tinygpt.runtime.distributed import World, torchrun_job
from tinygpt.runtime.fsdp import is_sharded
from tinygpt.runtime.memory import require_memory
from tinygpt.text.dataset import Batches
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.checkpoint import BASE, RunFolder
from tinygpt.training.dial import plan_for
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.plan import Plan
from tinygpt.training.report import EvalReport
from tinygpt.training.tensor_file import trained
from tinygpt.training.text_data import TextData, tokenizer_for
from tinygpt.training.trainer import BatchSource, Trainer

BROKEN_STATE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError)


@runtime_checkable
class Data(Protocol):
    """What a run learns from: its `str` says how much of what it is."""

    @property
    def n_tokens(self) -> int:
        """Tokens of the training part."""

    def evaluate(self, model: nn.Module, windows: int | None = None) -> Evaluation:
        """The loss on the validation part, or on a sample of `windows` windows."""


class Run:
    """A run, ready to train; until `reports` is called it has written nothing.

    Attributes:
        path: the folder.
        folder: the same as a `RunFolder`.
        model: the `GPT` that is trained.
        tokenizer: its `Tokenizer`.
        trainer: the `Trainer`.
        data: what it learns from.
        config: the settings as they were given.
    """

    def __init__(
        self,
        path: Path,
        model: GPT,
        tokenizer: Tokenizer,
        data: Data,
        batches: BatchSource,
        config: TrainConfig,
        *,
        resume: bool = False,
        world: World | None = None,
        loss: Callable[[nn.Module], nn.Module] = NextTokenLoss,
    ) -> None:
        """Put the parts together; with `resume`, go back to the last checkpoint.

        Raises:
            UserError: the device is not there, or the checkpoint does not fit.
        """
        self.path, self.folder, self.model = path, RunFolder(path), model
        self.tokenizer, self.data, self.config = tokenizer, data, config
        self.resumed = resume
        self.plan: Plan | None = None  # how the settings were found
        self.base: tuple[GPT, Tokenizer] | None = None  # to keep beside adapters
        if isinstance(config, FinetuneConfig):
            n_windows = getattr(batches, "n_windows", 1)
            config = config.with_steps(n_windows, world.size if world else 1)

        def evaluate(model: nn.Module, whole: bool) -> Evaluation:
            windows = config.last_windows if whole else config.eval_windows
            return data.evaluate(model, windows)

        self.trainer = Trainer(model, batches, evaluate, config, world, loss)
        if resume:
            try:
                self.trainer.load_state(*self.folder.load_last())
            except (*BROKEN_STATE, ValueError) as error:
                raise UserError(
                    f"{self.folder.last} is not the state of a run ({why(error)})"
                ) from error
            if not exists(self.folder.best):
                self.trainer.best = math.inf  # somebody removed it: judge anew

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the training."""
        return self.trainer.interrupted

    def summary(self) -> str:
        """What is about to be trained, on one line."""
        trains = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        total, c = self.model.n_parameters(), self.trainer.config
        of = "" if trains == total else f"{trains:,} of "
        length = f"{c.steps:,} steps" if c.minutes is None else f"{c.minutes:g} minutes"
        dtype = str(self.trainer.dtype).removeprefix("torch.")
        return (
            f"{self.path}: {of}{total:,} parameters, {self.data}, {length}, "
            f"{self.trainer.device.type}, {dtype}"
        )

    def reports(self, show_progress: Progress = False) -> Iterator[EvalReport]:
        """Train to the end; save, then yield, one report after the other.

        Best weights and log are written at every report, the state to resume from
        every `checkpoint_interval` steps and at the end. Of several processes only the
        main one writes. In the end the model holds the best weights.

        Args:
            show_progress: a bar on standard error, or lines (see `runtime.display`).

        Raises:
            UserError: another process trains this run, the folder cannot be written, or
                a loss is not finite.
        """
        trainer, world, folder = self.trainer, self.trainer.world, self.folder
        writes, due = world.is_main, 0
        gathers = writes or is_sharded(self.model)  # every rank gives its own shards
        with folder.locked() if writes else nullcontext():
            if writes:
                self._begin()
            world.barrier()  # all ranks have read before one writes
            for report in trainer.run(show_progress):
                if gathers and report.is_best:
                    best = trained(self.model)
                    if writes:
                        folder.save_best(best, report.record())
                if writes and not report.is_extra:
                    folder.log(report.record())
                if gathers and (report.step >= due or report.is_last):
                    state = trainer.state()
                    if writes:
                        folder.save_last(*state)
                        self._write_settings()
                    due = report.step + trainer.config.checkpoint_interval
                yield report
            world.barrier()  # the best weights are on the disk
            if gathers and not self.interrupted:
                folder.load_best(self.model)
                if all(p.requires_grad for p in self.model.parameters()):
                    folder.save_plain(self.model, writes)

    def _begin(self) -> None:
        """Under the lock, look again whether the folder is as it was."""
        if self.resumed:
            self.folder.require_resumable()
            self._write_settings()
        else:
            self.folder.require_new()
            self.folder.save_tokenizer(self.tokenizer)
            if self.base:
                RunFolder(self.path / BASE).save_model(*self.base)

    def _write_settings(self) -> None:
        if self.folder.exists and not self.resumed:
            return  # once is enough
        record: dict[str, Any] = {"started": f"{datetime.now():%Y-%m-%d %H:%M}"}
        if self.folder.exists:
            record |= self.folder.settings().get("record", {})
        record |= {"tokens": self.data.n_tokens, **self.trainer.choices()}
        if isinstance(self.data, TextData):
            record["opening"] = self.data.opening()  # words for whoever tries it out
        job, _ = torchrun_job()
        record |= {"job": job} if job else {}
        record |= {"plan": self.plan.record()} if self.plan else {}
        self.folder.write_settings(self.model.config, self.config, **record)
        self.resumed = False


def pretrain(
    path: Path,
    model_config: GPTConfig,
    train_config: TrainConfig,
    *,
    tokenizer: Tokenizer | None = None,
    resume: bool = False,
    given: Collection[str] | None = None,
    world: World | None = None,
) -> Run:
    """The run that trains a new GPT on a text, in the folder `path`.

    Args:
        path: the run's folder, which is made when the training begins.
        model_config: the model; the tokenizer decides its vocabulary size.
        train_config: the training.
        tokenizer: used in place of the one that `train_config` names.
        resume: continue the run in `path`, with its own tokenizer.
        given: names of settings that are kept as they are while a plan chooses the
            others for `train_config.minutes`; None: there is no plan.
        world: this process among the others.

    Raises:
        UserError: text, tokenizer, sizes or device cannot be used; there is a run in
            `path` and `resume` is False, or none and `resume` is True.
    """
    folder, c = RunFolder(path), train_config
    resume = resume or restarted(folder)
    if resume:
        folder.require_resumable()
        tokenizer = folder.tokenizer()
        model_config = replace(model_config, vocab_size=tokenizer.vocab_size)
        require_same(folder, model_config, c, ("data", "tokenizer", "optimizer"))
    else:
        folder.require_new()
        if tokenizer is not None:
            c = replace(c, tokenizer=tokenizer.name)
    tokenizer = tokenizer or tokenizer_for(c.tokenizer, c.data)
    model_config = replace(model_config, vocab_size=tokenizer.vocab_size)
    ranks = world or World()
    require_memory(model_config, c, ranks.pick_device(c.device), ranks.size)
    text, plan = TextData(c.data, tokenizer, model_config.context_length), None
    if given is not None and c.minutes is not None and not resume:
        plan = plan_for(model_config, c, text, given, world)
        model_config, c = plan.model, plan.train
        require_memory(model_config, c, ranks.pick_device(c.device), ranks.size)
    torch.manual_seed(c.seed)
    model = GPT(model_config)
    batches = Batches(text.train, text.context_length, c.batch_size, c.seed)
    run = Run(path, model, tokenizer, text, batches, c, resume=resume, world=world)
    run.plan = plan
    return run


def restarted(folder: RunFolder) -> bool:
    """Whether torchrun has restarted the processes that began this very run.

    It repeats their command, which says nothing of resuming.
    """
    job, restarts = torchrun_job()
    if not job or not restarts or not folder.exists:
        return False
    return bool(folder.settings().get("record", {}).get("job") == job)


def require_same(
    folder: RunFolder,
    model: GPTConfig | None,
    train: TrainConfig,
    names: Iterable[str],
) -> None:
    """Check that a resumed run keeps its model and those settings of training.

    Raises:
        UserError: one is another, or the run is of another kind.
    """
    old_model, old_train = folder.configs()
    require_kind(folder.path, old_train, kind_of(train))
    pairs: list[tuple[str, Any, Any]] = [(n, old_train, train) for n in names]
    if model is not None:
        pairs += [(setting.name, old_model, model) for setting in fields(model)]
    changed = [n for n, old, new in pairs if getattr(old, n) != getattr(new, n)]
    if changed:
        raise UserError(
            "a resumed run keeps its model, data and optimizer: leave "
            f"{', '.join(changed)} as it was, or start another run"
        )


def draw_in(path: Path, reports: Iterable[EvalReport]) -> Iterator[EvalReport]:
    """Yield `reports`, and write each of them into `path` for TensorBoard.

    Raises:
        UserError: tensorboard is not installed, or `path` cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError(
            "--tensorboard needs one more package: pip install tensorboard"
        ) from error
    board = None
    try:
        for report in reports:
            try:  # after the first report, so that the run has made its folder
                board = board or SummaryWriter(path)
            except OSError as error:
                raise UserError(f"cannot write to {path} ({why(error)})") from error
            record = report.record()
            step = record.pop("step")
            for name, value in record.items():
                board.add_scalar(name, value, step)
            board.flush()
            yield report
    finally:
        if board:
            board.close()
