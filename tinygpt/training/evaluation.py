"""How good is it? Loss in three units, simple baselines, and what was memorised.

Nats per token is what training minimises; bits per byte does not depend on the
tokenizer, so different vocabularies can be compared. What it leaves out: tasks,
benchmarks, human judgement.
"""

import lzma
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import require
from tinygpt.training.loss import NextTokenLoss


@dataclass(frozen=True)
class Evaluation:
    """A loss on some text, in every unit."""

    nats_per_token: float
    """Mean over all targets."""
    tokens: int
    """Targets."""
    text_nats: float
    """Sum over the targets that are text: special tokens, which stand for no byte, are
    left out."""
    bytes: int
    """Bytes of the targets that are text."""
    whole_split: bool = True
    """Whether it covers all of the text that was meant, or a sample of it."""

    @property
    def perplexity(self) -> float:
        """exp(nats per token): as unsure as a fair choice among this many tokens."""
        return math.exp(min(self.nats_per_token, 700.0))  # 700: the largest float

    @property
    def selection_loss(self) -> float:
        """What decides which weights are the best: the lower, the better."""
        return self.nats_per_token

    def __str__(self) -> str:
        return (
            f"Validation Loss: {self.nats_per_token:.3f} | "
            f"{self.bits_per_byte:.3f} bits per byte"
        )

    def record(self) -> dict[str, Any]:
        """The same as a part of a line of a log."""
        return {
            "validation_loss": self.nats_per_token,
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
            "whole_split": self.whole_split,
        }

    @property
    def bits_per_byte(self) -> float:
        """Bits needed per byte of text (Gao et al., 2020, "The Pile", section 3.1)."""
        return self.text_nats / math.log(2) / self.bytes


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, ...]],
    byte_lengths: Sequence[int] | Int[Tensor, " V"],
) -> Evaluation:
    """The loss over all `batches`, each target counted once; dropout is off meanwhile.

    Args:
        model: gives logits, or is a `NextTokenLoss` around such a model.
        batches: (ids, targets[, mask, positions]), the arguments of `NextTokenLoss`.
        byte_lengths: bytes of each token of the vocabulary; 0 for special tokens.

    Raises:
        UserError: `batches` hold no target, or none that is text.
    """
    loss = model if isinstance(model, NextTokenLoss) else NextTokenLoss(model)
    lengths = torch.as_tensor(byte_lengths)
    was_training, nats, text_nats, tokens, size = model.training, 0.0, 0.0, 0, 0
    model.eval()
    for ids, targets, *rest in batches:
        losses = loss(ids, targets, *rest, reduction="none").cpu().double()  # [B, T]
        counted = targets.cpu() != IGNORE_INDEX
        lengths_here = lengths[targets.cpu()[counted]]
        nats += losses[counted].sum().item()
        text_nats += losses[counted][lengths_here > 0].sum().item()
        tokens += int(counted.sum())
        size += int(lengths_here.sum())
    model.train(was_training)
    require(
        size > 0,
        "there is no text to validate on: give more of it, or longer answers",
    )
    return Evaluation(nats / tokens, tokens, text_nats, size)


def unigram(
    train: Int[Tensor, " N"], text: Int[Tensor, " M"], vocab_size: int
) -> float:
    """Nats per token when every token is guessed by its frequency in `train`.

    Each count is raised by 1, so that no token is impossible (Laplace).
    """
    counts = torch.bincount(train, minlength=vocab_size).double() + 1
    return -(counts / counts.sum()).log()[text].mean().item()


def bigram(train: Int[Tensor, " N"], text: Int[Tensor, " M"], vocab_size: int) -> float:
    """Nats per token when each token is guessed from the one before it.

    Counts of pairs are smoothed by the unigram guess with a weight that grows with
    the number of different followers (Witten and Bell, 1991; Chen and Goodman, 1999,
    section 2.6): p(b|a) = (count(ab) + followers(a) p(b)) / (count(a) + followers(a)).
    The first token of `text`, which follows nothing, is left out.
    """
    counts = torch.bincount(train, minlength=vocab_size).double() + 1
    alone = counts / counts.sum()  # [V]
    pairs, n_pairs = (train[:-1] * vocab_size + train[1:]).unique(return_counts=True)
    first = pairs // vocab_size
    seen = torch.bincount(train[:-1], minlength=vocab_size).double()  # [V]
    followers = torch.bincount(first, minlength=vocab_size).double()  # [V]
    before, after = text[:-1], text[1:]
    wanted = before * vocab_size + after
    place = torch.searchsorted(pairs, wanted).clamp_max(len(pairs) - 1)
    count = torch.where(pairs[place] == wanted, n_pairs[place], 0).double()
    guess = (count + followers[before] * alone[after]) / (
        seen[before] + followers[before]
    ).clamp_min(1)
    # A token never seen before another has no followers: only the unigram is left.
    guess = torch.where(seen[before] > 0, guess, alone[after])
    return -guess.log().mean().item()


def baselines(
    train: Int[Tensor, " N"],
    val: Int[Tensor, " M"],
    vocab_size: int,
    decode_bytes: Callable[[list[int]], bytes],
) -> dict[str, float]:
    """Bits per byte of `val` for predictors that need no network.

    uniform, unigram and bigram guess tokens; gzip and xz see the bytes of the training
    text first and are charged for what the validation text adds to the file.
    """
    train_bytes, val_bytes = decode_bytes(train.tolist()), decode_bytes(val.tolist())
    per_token = len(val) / math.log(2) / len(val_bytes)

    def added(compress: Callable[[bytes], bytes]) -> float:
        more = len(compress(train_bytes + val_bytes)) - len(compress(train_bytes))
        return 8 * more / len(val_bytes)

    return {
        "uniform": math.log(vocab_size) * per_token,
        "unigram": unigram(train, val, vocab_size) * per_token,
        "bigram": bigram(train, val, vocab_size) * per_token,
        "gzip": added(lambda data: zlib.compress(data, 9)),
        "xz": added(lambda data: lzma.compress(data, preset=9)),
    }


def longest_copy(sample: str, text: str) -> str:
    """The longest run of words of `sample` that stands word for word in `text`.

    Words are what white space separates. Of several longest runs, the first; empty if
    no word of `sample` occurs. A long run means that the model recites.

    >>> longest_copy("he said listen until they finish", "Listen: listen until they go")
    'listen until they'
    """
    words, source = sample.split(), text.split()

    def first_run(length: int) -> list[str] | None:
        """The first run of `length` words of the sample that the text has too."""
        known = {tuple(source[i : i + length]) for i in range(len(source) - length + 1)}
        for i in range(len(words) - length + 1):
            if tuple(words[i : i + length]) in known:
                return words[i : i + length]
        return None

    best: list[str] = []
    low, high = 1, min(len(words), len(source))
    while low <= high:  # if a run of n words is copied, so is one of n - 1
        middle = (low + high) // 2
        if run := first_run(middle):
            best, low = run, middle + 1
        else:
            high = middle - 1
    return " ".join(best)
