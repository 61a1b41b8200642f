"""Train a GPT on a text: corpus, tokenizer, model and trainer put together.

Nothing new happens here; each part is made by its own module and handed to the next.
The same parts measure what came of it. What it leaves out: printing (see `cli`) and
fine-tuning (see `finetune`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.errors import UserError
from tinygpt.generation.generate import generate
from tinygpt.model.gpt import GPT
from tinygpt.runtime.distributed import World
from tinygpt.text.corpora import holds_chats, load_text
from tinygpt.text.dataset import Batches, Tokens, split_at, split_tokens, whole_split
from tinygpt.text.token_file import SUFFIX, open_tokens
from tinygpt.text.tokenizer import Tokenizer, get_tokenizer
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.evaluation import Evaluation, baselines, evaluate, longest_copy
from tinygpt.training.trainer import EvalReport, Trainer

MOST_KNOWN = 1_000_000  # tokens that the baselines and the memorisation report take


class Corpus:
    """A text as token ids, split, with the means to evaluate a model on it."""

    def __init__(self, name: str, tokenizer: Tokenizer, context_length: int) -> None:
        """Read the text `name` (see `texts.load_text`) and cut it 90 to 10.

        Of a token file the training part stays on disk.

        Raises:
            UserError: the text cannot be read, or is too short.
        """
        self.tokenizer, self.context_length = tokenizer, context_length
        self.train: Tokens
        if Path(name).suffix == SUFFIX:
            ids = open_tokens(Path(name).expanduser(), tokenizer)
            cut = split_at(len(ids), context_length)
            self.train, self.val = ids[:cut], _in_memory(ids[cut:])
        else:
            encoded = torch.tensor(tokenizer.encode(load_text(name)), dtype=torch.long)
            self.train, self.val = split_tokens(encoded, context_length)

    @cached_property
    def byte_lengths(self) -> Int[Tensor, " V"]:
        """Bytes of every token."""
        return torch.tensor(self.tokenizer.byte_lengths)

    @cached_property
    def known(self) -> Int[Tensor, " N"]:
        """What the model may learn from; of a big text, the last million tokens."""
        return _in_memory(self.train[-MOST_KNOWN:])

    @cached_property
    def train_text(self) -> str:
        """The text of the tokens that are `known`."""
        return self.tokenizer.decode(self.known.tolist())

    def evaluate(
        self, model: nn.Module, windows: int | None = None, batch_size: int = 16
    ) -> Evaluation:
        """The model's loss on the whole validation split, or on `windows` of it.

        The sample's windows are spread evenly, and the same every time.
        """
        device = next(model.parameters()).device
        n_windows = len(self.val) // self.context_length
        if windows is None or windows >= n_windows:
            batches = whole_split(self.val, self.context_length, batch_size)
        else:
            last = len(self.val) - self.context_length - 1
            starts = torch.linspace(0, last, windows).long()
            index = starts.unsqueeze(1) + torch.arange(self.context_length + 1)
            taken = self.val[index]  # [windows, T + 1]
            batches = ((t[:, :-1], t[:, 1:]) for t in taken.split(batch_size))
        on_device = ((x.to(device), y.to(device)) for x, y in batches)
        evaluation = evaluate(model, on_device, self.byte_lengths)
        is_whole = windows is None or windows >= n_windows
        return replace(evaluation, whole_split=is_whole)

    def baselines(self) -> dict[str, float]:
        """Bits per byte of predictors without a network on the validation split."""
        t = self.tokenizer
        return baselines(self.known, self.val, t.vocab_size, t.decode_bytes)


def _in_memory(ids: Tokens) -> Int[Tensor, " N"]:
    """The ids as a tensor of int64."""
    return torch.from_numpy(np.asarray(ids).astype(np.int64))


@dataclass
class Pretraining:
    """Everything that one training run needs, ready to start."""

    corpus: Corpus
    model: GPT
    trainer: Trainer


def open_run(
    path: Path, model: GPTConfig, train: TrainConfig, resume: bool
) -> tuple[RunFolder, Tokenizer | None]:
    """The folder of a new run, or of one that goes on, with its own tokenizer then.

    Raises:
        UserError: the run exists and shall not go on, or not in this way.
    """
    folder = RunFolder(path)
    if not folder.exists:
        return folder, None
    if not resume:
        raise UserError(
            f"the run {path} exists: go on with it by --resume, or give another --name"
        )
    if "finetune" in folder.settings():
        raise UserError(
            f"{path} is a fine-tuning run: go on with it by `tinygpt finetune --resume`"
        )
    old_model, old_train = folder.configs()
    pairs: list[tuple[str, object, object]] = [
        (field.name, old_model, model) for field in fields(model)
    ]
    pairs += [(n, old_train, train) for n in ("data", "tokenizer", "optimizer")]
    changed = [n for n, old, new in pairs if getattr(old, n) != getattr(new, n)]
    if changed:
        raise UserError(
            f"a run that goes on keeps its model, text and optimizer: leave "
            f"{', '.join(changed)} as it was, or start another run"
        )
    return folder, folder.tokenizer()


def prepare(
    model_config: GPTConfig,
    train_config: TrainConfig,
    world: World | None = None,
    tokenizer: Tokenizer | None = None,
) -> Pretraining:
    """Build the model and its trainer; the tokenizer decides the vocabulary size.

    A run that goes on brings its own `tokenizer`; otherwise the config names it.

    Raises:
        UserError: text, tokenizer, sizes or device cannot be used.
    """
    c = train_config
    tokenizer = tokenizer or get_tokenizer(c.tokenizer)
    corpus = Corpus(c.data, tokenizer, model_config.context_length)
    torch.manual_seed(c.seed)
    model = GPT(replace(model_config, vocab_size=tokenizer.vocab_size))
    batches = Batches(corpus.train, model_config.context_length, c.batch_size, c.seed)

    def look(model: nn.Module, whole: bool) -> Evaluation:
        return corpus.evaluate(model, None if whole else c.eval_windows)

    trainer = Trainer(model, batches, look, c, world=world)
    return Pretraining(corpus, model, trainer)


def train_in(
    folder: RunFolder,
    run: Pretraining,
    resume: bool,
    show_progress: bool = False,
) -> Iterator[EvalReport]:
    """Train and keep everything in `folder`; with `resume`, go on if there is a state.

    Raises:
        UserError: the folder cannot be written or holds another model's state.
    """
    trainer = run.trainer
    if resume and folder.can_resume:
        trainer.load_state(*folder.load_last())
        if trainer.world.is_main:
            folder.change(trainer.config)
    elif trainer.world.is_main:
        folder.start(run.model.config, trainer.config, run.corpus.tokenizer)
    yield from folder.follow(trainer, show_progress)


def draw_in(path: Path, looks: Iterable[EvalReport]) -> Iterator[EvalReport]:
    """Hand on `looks` and draw each of them for TensorBoard.

    Raises:
        UserError: tensorboard is not installed, or `path` cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter

        board = SummaryWriter(path)
    except ImportError as error:
        raise UserError(
            "--tensorboard needs one more package: pip install tensorboard"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error}") from error
    with board:
        for look in looks:
            record = look.record()
            step = record.pop("step")
            for name, value in record.items():
                board.add_scalar(name, value, step)
            board.flush()
            yield look


def prompt_ids(prompt: str, model: GPT, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a prompt that the model can go on with.

    Raises:
        UserError: the prompt is empty, or longer than the model's context.
    """
    ids, length = tokenizer.encode(prompt), model.config.context_length
    if not ids:
        raise UserError("the prompt is empty: give the model a word to go on with")
    if len(ids) > length:
        raise UserError(
            f"the prompt has {len(ids)} tokens, but the model's context holds "
            f"{length}: shorten the --prompt"
        )
    return ids


def measure(
    path: Path,
    model: GPT,
    tokenizer: Tokenizer,
    facts: dict[str, Any],
    data: str | None = None,
) -> Iterator[str]:
    """Lines on how good the model of the run `path` is: losses, baselines, recitation.

    The text is the validation part of `data`, or of the run's own; `facts` are
    those noted with the weights.

    Raises:
        UserError: the run or the text cannot be used, or the run's own is no text but
            conversations, of which a fine-tuning run learns the answers alone.
    """
    folder = RunFolder(path)
    _, train = folder.configs()
    name = data or train.data
    if not data and "finetune" in folder.settings() and holds_chats(name):
        raise UserError(
            f"{path} learned from conversations, and its log.jsonl holds the loss on "
            "them: give a text to measure it on by --data"
        )
    corpus = Corpus(name, tokenizer, model.config.context_length)
    loss = corpus.evaluate(model)
    yield f"{path}, weights of step {facts.get('step')}, validation part of {name}:"
    yield f"  nats per token  {loss.nats_per_token:8.4f}  ({loss.tokens:,} tokens)"
    yield f"  perplexity      {loss.perplexity:8.2f}"
    yield f"  bits per byte   {loss.bits_per_byte:8.4f}  ({loss.bytes:,} bytes)"
    less = len(corpus.known) < len(corpus.train)
    of = f", which know {MOST_KNOWN:,} tokens of the training text" if less else ""
    yield f"Bits per byte of predictors without a network{of}:"
    for kind, bits in corpus.baselines().items():
        yield f"  {kind:<15} {bits:8.4f}"
    start = corpus.val[:8].unsqueeze(0)[:, : model.config.context_length]
    tokens = generate(model, start, 200, temperature=0.8, seed=train.seed)
    sample = tokenizer.decode([int(token) for token in tokens])
    copied = longest_copy(sample, corpus.train_text)
    yield "Longest run of a 200-token sample that stands word for word in the training"
    yield f"text: {len(copied.split())} words\n  {copied!r}"
