"""Fine-tuning: a trained GPT learns to answer.

`finetune` loads a model, reads conversations (see `chat`) or plain text, adds adapters
(see `lora`) if asked, and makes a `Run` of the same kind as pretraining. `load_model`
loads any model by name or from a folder. What it leaves out: the training itself (see
`training.run`); learning from preferences; tools.
"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinygpt.config import FinetuneConfig
from tinygpt.errors import UserError, require
from tinygpt.files import exists, shipped
from tinygpt.finetuning.chat import add_speakers, has_speakers
from tinygpt.finetuning.chat_data import ChatData, PackedBatches, chat_parts
from tinygpt.finetuning.lora import add_lora, merge, remove_lora
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.formats.model_files import PRETRAINED_NAMES
from tinygpt.model.attention import MultiHeadAttention
from tinygpt.model.gpt import GPT
from tinygpt.runtime.distributed import World
from tinygpt.runtime.memory import require_memory
from tinygpt.text.corpora import CORPORA, holds_chats, load_chats
from tinygpt.text.dataset import Batches
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.checkpoint import BASE, RunFolder
from tinygpt.training.run import Run, require_same, restarted
from tinygpt.training.tensor_file import read_header, require_fit
from tinygpt.training.text_data import TextData

PROMPTS = (  # for the support of a shop, whose chats ship
    "I need to cancel my order please",
    "My parcel has not arrived yet.",
    "Do you have a gift card?",
)
TINY = "tiny"  # ships as a run folder
MODEL_NAMES = (TINY, *PRETRAINED_NAMES)
KEPT = (  # settings that a resumed run cannot change
    "model",
    "data",
    "scratch",
    "window",
    "renumber",
    "template",
    "optimizer",
    "lora",
    "lora_targets",
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
)


def prompts(data: str) -> list[str]:
    """Three things to say to a model before and after it learns from the chats `data`.

    Of one's own chats, the shortest of the users' messages that validate.

    Raises:
        UserError: as `load_chats` and `chat_parts`.
    """
    if data in CORPORA:
        return list(PROMPTS)
    messages = [m for chat in chat_parts(load_chats(data)).val for m in chat]
    said = dict.fromkeys(m["content"] for m in messages if m["role"] == "user")
    return sorted(said, key=len)[:3]


# --- Loading ----------------------------------------------------------------------


def find_run(name: str | Path, out: Path = Path("runs")) -> str | Path:
    """`out/name` if that is a run and no file or folder has the name; or the name.

    So a run comes before a model of the same name that ships or is fetched.

    Raises:
        UserError: the name is empty, or a path that cannot be looked up.
    """
    require(str(name) != "", "the name of the model is empty")
    try:
        if str(name) not in MODEL_NAMES and Path(name).stat():
            return name
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError) as error:  # too long, a loop of links, no permission
        raise UserError(f"cannot read {name}: {error}") from error
    return out / name if RunFolder(out / name).exists else name


def load_model(source: str | Path) -> tuple[GPT, Tokenizer]:
    """A model by one of `MODEL_NAMES`, from a run folder, or in GPT-2's format.

    The adapters of a LoRA run become part of their base.

    Raises:
        UserError: there is no such model, or a file of it cannot be used.
    """
    return _load_model(source, ())


def load_run(path: str | Path) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """The best model of a run folder, its tokenizer, and the metadata of its weights.

    Raises:
        UserError: there is no run, a file cannot be used, or the base of its adapters
            is gone.
    """
    return _load_run(Path(path), ())


def _load_model(source: str | Path, above: tuple[Path, ...]) -> tuple[GPT, Tokenizer]:
    if source == TINY:
        source = shipped(f"{TINY}/run.json").parent
    if source in PRETRAINED_NAMES or not RunFolder(source).exists:
        return load_gpt2(source)
    model, tokenizer, _ = _load_run(Path(source), above)
    return model, tokenizer


def _load_run(
    path: Path, above: tuple[Path, ...]
) -> tuple[GPT, Tokenizer, dict[str, Any]]:
    """`above` are the runs whose adapters have this one as their base."""
    folder = RunFolder(path)
    require(folder.exists, f"there is no run in {path}: train one with `tinygpt train`")
    _, config = folder.configs()
    if not isinstance(config, FinetuneConfig) or not config.lora:
        return folder.load_model()
    base = _base_of(folder, config)
    above = (*above, path.resolve())
    try:
        own = RunFolder(base).exists and Path(base).resolve() in above
        require(not own, "it would be its own base")
        model, tokenizer = _load_model(base, above)
    except UserError as error:
        raise UserError(
            f"{path} holds only adapters, and their base {base} cannot be loaded "
            f"({error})"
        ) from error
    with torch.device("meta"):  # to compare sizes before memory is taken for them
        outline = GPT(model.config)
        _adapt(outline, config)
    shapes, _ = read_header(folder.best)
    require_fit(outline, shapes, str(folder.best))
    _adapt(model, config)
    metadata = folder.load_best(model)
    merge(model)
    remove_lora(model)
    return model.eval(), tokenizer, metadata


def _base_of(folder: RunFolder, config: FinetuneConfig) -> str | Path:
    """The model that adapters belong to: kept in the run's folder, or elsewhere."""
    own = folder.path / BASE
    return own if RunFolder(own).exists else config.model


# --- Fine-tuning ------------------------------------------------------------------


def finetune(
    path: Path,
    config: FinetuneConfig,
    *,
    base: tuple[GPT, Tokenizer] | None = None,
    resume: bool = False,
    world: World | None = None,
) -> Run:
    """The run that fine-tunes a model, in the folder `path`.

    A tenth of the conversations (see `chat_data.chat_parts`), or the last tenth of the
    text, validates.

    Args:
        path: the run's folder, which is made when the training begins.
        config: the settings.
        base: model and tokenizer to start from, in place of `config.model`; the model
            stays as it is.
        resume: continue the run in `path`.
        world: this process among the others.

    Raises:
        UserError: model, data, sizes or device cannot be used; there is a run in `path`
            and `resume` is False, or none and `resume` is True.
    """
    folder = RunFolder(path)
    config = replace(config, model=absolute(config.model))
    resume = resume or restarted(folder)
    if resume:
        folder.require_resumable()
        require_same(folder, None, config, KEPT)
    else:
        folder.require_new()
    keeps_base = base is not None and config.lora and not resume
    if keeps_base:
        config = replace(config, model=str((folder.path / BASE).resolve()))
    model, tokenizer = _start(folder, config, base, resume)
    chats = holds_chats(config.data)
    if chats and config.template != "text":
        if not config.lora:
            model, tokenizer = add_speakers(model, tokenizer)
        require(
            config.template == "auto" or has_speakers(tokenizer),
            f"adapters leave the embedding of {config.model} alone, so it cannot learn "
            "tokens for the speakers: give --template text, or leave out --lora",
        )
    window = config.window or model.config.context_length
    require(
        window <= model.config.context_length,
        f"window {window} is longer than the model's context of "
        f"{model.config.context_length} tokens",
    )
    ranks = world or World()
    device = ranks.pick_device(config.device)
    require_memory(model.config, config, device, ranks.size)
    data: ChatData | TextData
    batches: PackedBatches | Batches
    if chats:
        data = ChatData(config.data, tokenizer, window)
        renew = data.renumbered if config.renumber else None
        batches = PackedBatches(data.train, config.batch_size, config.seed, renew)
    else:
        require(
            not config.renumber,
            f"{config.data} is text, not chats, so no numbers of it are renewed: leave "
            "out --renumber",
        )
        data = TextData(config.data, tokenizer, window)
        batches = Batches(data.train, window, config.batch_size, config.seed)
    torch.manual_seed(config.seed)
    if config.scratch:
        model = GPT(model.config)
    set_dropout(model, config.dropout)
    if config.lora:
        _adapt(model, config)
    model.recompute = config.recompute
    run = Run(path, model, tokenizer, data, batches, config, resume=resume, world=world)
    run.base = base if keeps_base else None
    return run


def _start(
    folder: RunFolder,
    config: FinetuneConfig,
    base: tuple[GPT, Tokenizer] | None,
    resume: bool,
) -> tuple[GPT, Tokenizer]:
    """The model before its adapters, and its tokenizer."""
    if base is not None and not resume:
        # One that `load` gave asks for no gradients.
        return deepcopy(base[0]).requires_grad_(True), base[1]
    if resume and not config.lora:  # the checkpoint holds all weights
        model_config, _ = folder.configs()
        return GPT(model_config), folder.tokenizer()
    return load_model(_base_of(folder, config) if resume else config.model)


def absolute(model: str) -> str:
    """The same model, wherever the program is started next time."""
    if model in MODEL_NAMES or not exists(Path(model)):
        return model
    return str(Path(model).resolve())


def _adapt(model: GPT, config: FinetuneConfig) -> None:
    add_lora(
        model,
        config.lora_targets,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
    )


def set_dropout(model: GPT, dropout: float) -> None:
    """Use `dropout` wherever the model has some."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(module, MultiHeadAttention):
            module.dropout = dropout
