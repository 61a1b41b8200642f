"""From token ids to batches: the split, the windows.

What it leaves out: finding and reading texts (see `corpora`), encoding them (see
`tokenizer`) and moving batches to a device (the trainer's job).
"""

import mmap
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from tinygpt.errors import UserError
from tinygpt.text.joined_tokens import JoinedIds

MADV_DONTNEED: int | None = getattr(mmap, "MADV_DONTNEED", None)  # not on Windows

# Ids in memory, or memory-mapped arrays of uint16 or uint32 ids on disk.
Tokens = Int[Tensor, " N"] | Integer[np.ndarray, " N"] | JoinedIds
Batch = tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]

# Enough to tell two models apart; evaluating a tenth of a gigabyte would take longer
# than training.
MOST_VALIDATION = 1_000_000


def split_at(n: int, context_length: int) -> int:
    """How many of `n` ids, the first ones, to train on; the rest validate.

    The first 90 %, but at most a million ids validate: of 50 ids, 45 train.

    Raises:
        UserError: a part is shorter than one window, context_length + 1 ids.
    """
    cut = max(int(0.9 * n), n - MOST_VALIDATION)
    require_long_enough(cut, n - cut, context_length)
    return cut


def split_at_document(ids: Tokens, context_length: int, end_of_text: int | None) -> int:
    """As `split_at`, but the document in which the cut falls trains as a whole.

    A document that goes on for more than a twentieth of the text is cut itself.

    Raises:
        UserError: see `split_at`.
    """
    cut = split_at(len(ids), context_length)
    room = len(ids) - cut - (context_length + 1)  # what validation can spare
    reach = min(room, len(ids) // 20, MOST_VALIDATION // 2)
    ends = np.flatnonzero(np.asarray(ids[cut - 1 : cut + reach]) == end_of_text)
    return cut + int(ends[0]) if len(ends) else cut


def require_long_enough(n_train: int, n_val: int, context_length: int) -> None:
    """Check that each part of a text, of so many ids, fills a window.

    Raises:
        UserError: one is shorter than context_length + 1 ids.
    """
    shorter = min(n_train, n_val)
    if shorter < context_length + 1:
        raise UserError(
            f"The text is too short: of its {n_train + n_val} tokens {n_train} train "
            f"and {n_val} validate, but each part needs context_length + 1 = "
            f"{context_length + 1}; give a longer text or a shorter context_length"
            + (f" (at most {shorter - 1})." if shorter > 1 else ".")
        )


def epoch_random(seed: int, epoch: int) -> np.random.Generator:
    """The random numbers of one epoch, a pure function of seed and epoch."""
    return np.random.default_rng([seed, epoch])


def epoch_order(n: int, seed: int, epoch: int) -> Integer[np.ndarray, " n"]:
    """The order in which an epoch takes `n` examples: a permutation of 0 to n - 1.

    A pure function of its arguments, the same on every machine.
    """
    return epoch_random(seed, epoch).permutation(n)


RELEASE_AFTER = 1000  # windows


def _maps_of(tokens: Tokens) -> list[mmap.mmap]:
    """The memory-mapped files behind ids."""
    maps = list[mmap.mmap]()
    for ids in tokens.arrays if isinstance(tokens, JoinedIds) else [tokens]:
        base: object = ids
        while isinstance(base, np.ndarray):
            base = base.base
        if isinstance(base, mmap.mmap):
            maps.append(base)
    return maps


class Batches:
    """Windows drawn without replacement; the batch is a pure function of seed and step.

    An epoch is one permutation of `n_windows` windows, `context_length` apart, all
    shifted by the same random offset, so that the boundaries differ in every epoch.
    To resume a run only its step need be stored. With several ranks each takes its
    slice of the global batch: two ranks with batch size B see together what one rank
    with 2B sees.

    `tokens` may be a memory-mapped array: only the windows taken are read, and their
    pages are released after a while, so that memory does not grow with the file.

    Raises:
        UserError: there are fewer than context_length + 1 tokens, or a size is out of
            range.
    """

    def __init__(
        self, tokens: Tokens, context_length: int, batch_size: int, seed: int
    ) -> None:
        if context_length < 1 or batch_size < 1 or seed < 0:
            raise UserError(
                "context_length and batch_size must be at least 1 and seed at least 0, "
                f"not {context_length}, {batch_size} and {seed}."
            )
        if len(tokens) < context_length + 1:
            raise UserError(
                f"{len(tokens)} tokens are too few for one window of context_length + "
                f"1 = {context_length + 1}: give more text or a shorter context_length."
            )
        # An array shares the memory, a mapped file's too.
        self.tokens: np.ndarray | JoinedIds = (
            tokens if isinstance(tokens, JoinedIds) else np.asarray(tokens)
        )
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        # One window fewer than fits at offset 0 leaves room to shift the others.
        self.n_windows = max(1, len(tokens) // context_length - 1)
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)
        self._maps, self._taken = _maps_of(tokens), 0

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Inputs and targets [B, T] of `step`; each target is the id after its input.

        Window i of step s is number p = s * batch_size * world_size + i of an endless
        series: window `order[p % n_windows]` of epoch `p // n_windows`.
        """
        first = (step * world_size + rank) * self.batch_size
        series = np.arange(first, first + self.batch_size)
        epochs, position = np.divmod(series, self.n_windows)
        starts = [  # of one epoch, rarely of two or more
            self._epoch_starts(epoch)[position[epochs == epoch]]
            for epoch in np.unique(epochs).tolist()
        ]
        index = np.concatenate(starts)[:, None] + np.arange(self.context_length + 1)
        windows = torch.from_numpy(self.tokens[index].astype(np.int64, copy=False))
        self._taken += self.batch_size
        if self._maps and MADV_DONTNEED and self._taken >= RELEASE_AFTER:
            for file in self._maps:
                file.madvise(MADV_DONTNEED)  # a window maps 64 KB on Linux
            self._taken = 0
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def _epoch_starts(self, epoch: int) -> np.ndarray:
        """Where the windows of an epoch begin, in the epoch's order [n_windows]."""
        if epoch != self._epoch:
            random = epoch_random(self.seed, epoch)  # the order, then the offset
            starts = random.permutation(self.n_windows)
            # The last target, at offset + n_windows * context_length, must exist.
            room = len(self.tokens) - self.n_windows * self.context_length
            starts *= self.context_length  # in place: a large text has many
            starts += random.integers(min(self.context_length, room))
            self._epoch, self._starts = epoch, starts
        return self._starts


def whole_split(
    tokens: Tokens, context_length: int, batch_size: int
) -> Iterator[Batch]:
    """All of a split for evaluation, in order: every id but the first is a target once.

    Yields inputs and targets [B, T] with B = batch_size windows, fewer in the last
    batch; what remains is a batch of its own, one shorter window. Of 12 ids with
    context_length 4: targets 1-4 and 5-8, then 9-11.
    """
    ids = np.asarray(tokens)
    full = (len(ids) - 1) // context_length * context_length
    step = batch_size * context_length
    pieces = [(at, min(at + step, full), context_length) for at in range(0, full, step)]
    if full < len(ids) - 1:
        pieces.append((full, len(ids) - 1, len(ids) - 1 - full))
    for begin, end, width in pieces:
        piece = torch.from_numpy(ids[begin : end + 1].astype(np.int64))
        yield piece[:-1].view(-1, width), piece[1:].view(-1, width)
