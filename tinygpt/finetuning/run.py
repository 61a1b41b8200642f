"""Fine-tuning: teach a trained GPT to answer, with its old knowledge as a start.

It loads a model, makes batches of conversations (see `chat`) or of plain text, adds
adapters (see `lora`) if asked, and hands all to the trainer. What it leaves out:
learning from preferences, and tools.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tinygpt.config import FinetuneConfig, from_dict
from tinygpt.errors import UserError
from tinygpt.finetuning.chat import PackedBatches, pack
from tinygpt.finetuning.lora import add_lora, merge, remove_lora
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.model.attention import MultiHeadAttention
from tinygpt.model.gpt import GPT
from tinygpt.runtime.distributed import World
from tinygpt.text.corpora import holds_chats, load_chats, load_text
from tinygpt.text.dataset import Batches, split_tokens, whole_split
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training import checkpoint
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.evaluation import Evaluation, evaluate
from tinygpt.training.trainer import EvalReport, Trainer

PROMPTS = (
    "I need to cancel my order please",
    "My parcel has not arrived yet.",
    "Do you have a gift card?",
)


@dataclass
class Finetuning:
    """A fine-tuning run, ready to start."""

    config: FinetuneConfig
    model: GPT
    tokenizer: Tokenizer
    trainer: Trainer
    n_train: int
    """Training windows."""
    n_val: int
    """Validation windows."""
    is_chat: bool
    """Whether the data are conversations."""


def load_model(source: str | Path) -> tuple[GPT, Tokenizer]:
    """A model by GPT-2 name, from a folder in GPT-2's format, or from a run folder.

    Raises:
        UserError: there is no such model, or a file cannot be used.
    """
    if not RunFolder(source).exists:
        return load_gpt2(source)
    model, tokenizer, _ = load_run(source)
    return model, tokenizer


def load_run(path: str | Path) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """The best model of a run folder, its tokenizer, and what was noted with it.

    Adapters of a LoRA run become part of their base, so that nothing else need know.

    Raises:
        UserError: there is no run, a file cannot be used, or the base is gone.
    """
    folder = RunFolder(path)
    made = folder.settings().get("finetune", {}) if folder.exists else {}
    if not made.get("lora"):
        return checkpoint.load_run(path)
    config = from_dict(FinetuneConfig, made)
    try:
        model, tokenizer = load_model(config.model)
    except UserError as error:
        raise UserError(
            f"{path} holds only adapters, and their base {config.model} cannot be "
            f"loaded ({error})"
        ) from error
    _adapt(model, config)
    facts = folder.load_best(model)
    merge(model)
    remove_lora(model)
    return model.eval(), tokenizer, facts


def _adapt(model: GPT, config: FinetuneConfig) -> None:
    add_lora(
        model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
    )


def open_run(
    path: Path, config: FinetuneConfig, resume: bool
) -> tuple[RunFolder, FinetuneConfig]:
    """The folder of a new run, or of one that goes on, with its own settings then.

    Raises:
        UserError: the run exists and shall not go on, or is no fine-tuning run.
    """
    folder = RunFolder(path)
    if not folder.exists:
        return folder, config
    if not resume:
        raise UserError(
            f"the run {path} exists: go on with it by --resume, or give another --name"
        )
    made = folder.settings().get("finetune")
    if made is None:
        raise UserError(f"{path} is no fine-tuning run: give another --name")
    return folder, from_dict(FinetuneConfig, made)


def prepare(config: FinetuneConfig, world: World | None = None) -> Finetuning:
    """Load the model and the data, and build the trainer.

    The last tenth of the conversations (of the text) validates.

    Raises:
        UserError: model, data, sizes or device cannot be used.
    """
    model, tokenizer = load_model(config.model)
    torch.manual_seed(config.seed)
    if config.scratch:
        model = GPT(model.config)
    set_dropout(model, config.dropout)
    if config.lora:
        _adapt(model, config)
    model.recompute = config.recompute
    window = config.window or model.config.context_length
    if window > model.config.context_length:
        raise UserError(
            f"window {window} is longer than the model's context of "
            f"{model.config.context_length} tokens"
        )
    size = config.batch_size
    lengths = torch.tensor(tokenizer.byte_lengths)
    batches: PackedBatches | Batches
    if holds_chats(config.data):
        chats = load_chats(config.data)
        cut = len(chats) * 9 // 10
        if not cut:
            raise UserError(f"{config.data} holds {len(chats)} chats: give at least 2")
        train = pack(chats[:cut], tokenizer, window)
        val = pack(chats[cut:], tokenizer, window)
        batches = PackedBatches(train, size, config.seed)
        n_train, n_val, is_chat = len(train), len(val), True

        def val_batches() -> Iterator[tuple[Tensor, ...]]:
            return (val[i : i + 16] for i in range(0, len(val), 16))
    else:
        ids = tokenizer.encode(load_text(config.data))
        train_ids, val_ids = split_tokens(ids, window)
        batches = Batches(train_ids, window, size, config.seed)
        n_train, is_chat = batches.n_windows, False
        n_val = len(val_ids) // window

        def val_batches() -> Iterator[tuple[Tensor, ...]]:
            return whole_split(val_ids, window, 16)

    def look(model: nn.Module, whole: bool) -> Evaluation:
        device = next(model.parameters()).device
        on_device = (tuple(t.to(device) for t in batch) for batch in val_batches())
        return evaluate(model, on_device, lengths)

    config = config.with_steps(n_train, world.size if world else 1)
    trainer = Trainer(model, batches, look, config, world)
    return Finetuning(config, model, tokenizer, trainer, n_train, n_val, is_chat)


def finetune_in(
    folder: RunFolder, run: Finetuning, resume: bool, show_progress: bool = False
) -> Iterator[EvalReport]:
    """Fine-tune and keep everything in `folder`, as `pretrain.train_in` does.

    Raises:
        UserError: the folder cannot be written or holds another model's state.
    """
    trainer = run.trainer
    if resume and folder.can_resume:
        trainer.load_state(*folder.load_last())
    elif trainer.world.is_main:
        folder.start(run.model.config, run.config, run.tokenizer)
    yield from folder.follow(trainer, show_progress)


def set_dropout(model: GPT, dropout: float) -> None:
    """Use `dropout` wherever the model has some."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(module, MultiHeadAttention):
            module.dropout = dropout
