"""Runs as objects: stands in for what `training.run` is going to offer itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.finetuning import run as tuning
from tinygpt.model.gpt import GPT
from tinygpt.runtime.distributed import World
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training import run as pretraining
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.trainer import EvalReport, Trainer


@dataclass
class Run:
    """A run, ready to start."""

    path: Path
    model: GPT
    tokenizer: Tokenizer
    trainer: Trainer
    folder: RunFolder
    work: Any
    resume: bool

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C ended the training."""
        return self.trainer.interrupted

    def summary(self) -> str:
        """What is about to be trained, on one line."""
        if isinstance(self.work, tuning.Finetuning):
            c, w = self.work.config, self.work
            trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
            return (
                f"{self.path}: {c.model} on {c.data}, {w.n_train} training and "
                f"{w.n_val} validation windows, {c.steps} steps; {trained:,} of "
                f"{self.model.n_parameters():,} parameters train"
            )
        corpus, trainer = self.work.corpus, self.trainer
        return (
            f"{self.path}: {self.model.n_parameters():,} parameters, "
            f"{len(corpus.train):,} training and {len(corpus.val):,} validation tokens "
            f"of {trainer.config.data}, {trainer.device.type}, "
            f"{str(trainer.dtype).removeprefix('torch.')}"
        )

    def reports(self, show_progress: bool = False) -> Iterator[EvalReport]:
        """Train, save, and yield an evaluation now and then."""
        start: Any = pretraining.train_in
        if isinstance(self.work, tuning.Finetuning):
            start = tuning.finetune_in
        return start(self.folder, self.work, self.resume, show_progress)


def pretrain(
    path: Path,
    model_config: GPTConfig,
    train_config: TrainConfig,
    *,
    tokenizer: Tokenizer | None = None,
    resume: bool = False,
    world: World | None = None,
) -> Run:
    """A run that trains a new model, or goes on."""
    folder, own = pretraining.open_run(path, model_config, train_config, resume)
    work = pretraining.prepare(model_config, train_config, world, own or tokenizer)
    tokenizer = work.corpus.tokenizer
    return Run(path, work.model, tokenizer, work.trainer, folder, work, resume)


def finetune(
    path: Path,
    config: FinetuneConfig,
    *,
    base: tuple[GPT, Tokenizer] | None = None,
    resume: bool = False,
    world: World | None = None,
) -> Run:
    """A run that fine-tunes a model, or goes on."""
    folder, config = tuning.open_run(path, config, resume)
    work = tuning.prepare(config, world)
    return Run(path, work.model, work.tokenizer, work.trainer, folder, work, resume)
