"""Conversations as data: their parts, packed windows, batches.

`chat_parts` splits conversations into those to train on, to validate on and to test on;
`renumber` gives one new order numbers; `pack` fills windows with whole conversations;
`ChatData` does all this for a run. What it leaves out: the template (see `chat`),
training (see `run`), other ways to vary a conversation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import regex
import torch
from jaxtyping import Int
from torch import Tensor, nn

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import require
from tinygpt.finetuning.chat import Message, render
from tinygpt.model.masking import document_mask
from tinygpt.text.corpora import load_chats
from tinygpt.text.dataset import epoch_order
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.evaluation import Evaluation, evaluate

SPLIT_SEED = 11  # not that of a run: all runs keep the same conversations back
FEW = 1000  # conversations: fewer have no test part
TESTED = 200  # conversations
ORDER_NUMBER = regex.compile(r"(?<![0-9])[0-9]{5}(?![0-9])")

Chats = Sequence[Sequence[Message]]


class ChatParts(NamedTuple):
    """Conversations to train on, to validate on while training, and to test at last."""

    train: list[Sequence[Message]]
    val: list[Sequence[Message]]
    test: list[Sequence[Message]]


def chat_parts(chats: Chats, seed: int = SPLIT_SEED) -> ChatParts:
    """The conversations in an order drawn by `seed`, cut in three.

    Of 1,000 or more conversations the first 200 test, of fewer none: so few would say
    nothing sure, and are missed in training. A tenth of the rest validates.

    Raises:
        UserError: there are fewer than 2 conversations.

    >>> [len(part) for part in chat_parts([[]] * 4232)]
    [3628, 404, 200]
    """
    n = len(chats)
    require(n > 1, f"there are {n} chats: give at least 2")
    drawn = [chats[i] for i in epoch_order(n, seed, 0).tolist()]
    n_test = TESTED if n >= FEW else 0
    test, rest = drawn[:n_test], drawn[n_test:]
    cut = len(rest) * 9 // 10
    return ChatParts(rest[:cut], rest[cut:], test)


def renumber(chat: Sequence[Message], rng: np.random.Generator) -> list[Message]:
    """The conversation with other order numbers: five digits, the first of them not 0.

    A number becomes the same new one wherever it stands, and two numbers become two. A
    model that meets a conversation again with other numbers cannot know them by heart:
    it has to copy.

    >>> chat = [{"role": "user", "content": "Is it 12345 or 54321? 12345!"}]
    >>> renumber(chat, np.random.default_rng(0))[0]["content"]
    'Is it 86555 or 67326? 86555!'
    """
    found = [n for message in chat for n in ORDER_NUMBER.findall(message["content"])]
    old = list(dict.fromkeys(found))  # each once, in the order of the conversation
    drawn = 10_000 + rng.choice(90_000, len(old), replace=False)
    new = dict(zip(old, map(str, drawn.tolist()), strict=True))
    return [
        message | {"content": ORDER_NUMBER.sub(lambda n: new[n[0]], message["content"])}
        for message in chat
    ]


@dataclass(frozen=True)
class Packed:
    """Conversations packed into N windows of T tokens.

    `targets` is IGNORE_INDEX where the next token is not the assistant's; `documents`
    numbers the conversations of a window, so that none attends to another, and
    `positions` start from 0 in each.
    """

    ids: Int[Tensor, "N T"]
    targets: Int[Tensor, "N T"]
    documents: Int[Tensor, "N T"]
    positions: Int[Tensor, "N T"]
    left_out: int
    """Conversations without an answer, of which nothing can be learned."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The arguments of `NextTokenLoss`: ids, targets, mask and positions."""
        mask = document_mask(self.documents[rows])  # [B, 1, T, T]
        return self.ids[rows], self.targets[rows], mask, self.positions[rows]


Piece = tuple[list[int], list[bool]]  # ids, and which are the assistant's own


def pack(chats: Chats, tokenizer: Tokenizer, window: int) -> Packed:
    """Fill windows with whole conversations, the longest first, each where it fits.

    A conversation longer than a window is cut between turns; a turn that is longer
    itself, to the tokens around the beginning of its answer. So every piece in the
    result has targets; conversations without an answer are left out.

    Raises:
        UserError: as `render`.
    """
    cut = [list(pieces(chat, tokenizer, window)) for chat in chats]
    answered = [piece for parts in cut for piece in parts]
    answered.sort(key=lambda piece: -len(piece[0]))
    room: list[int] = []
    rows: list[list[Piece]] = []
    for ids, own in answered:
        n = len(ids) - 1  # every token but the last is an input
        row = next((i for i, left in enumerate(room) if left >= n), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(window)
        rows[row].append((ids, own))
        room[row] -= n
    shape = (len(rows), window)
    packed = Packed(
        torch.full(shape, tokenizer.end_of_text or 0),
        torch.full(shape, IGNORE_INDEX),
        torch.full(shape, -1),
        torch.zeros(shape, dtype=torch.long),
        left_out=sum(not parts for parts in cut),
    )
    for i, row_pieces in enumerate(rows):
        start = 0
        for number, (ids, own) in enumerate(row_pieces):
            here = slice(start, start + len(ids) - 1)
            targets = [
                t if mine else IGNORE_INDEX
                for t, mine in zip(ids[1:], own[1:], strict=True)
            ]
            packed.ids[i, here] = torch.tensor(ids[:-1])
            packed.targets[i, here] = torch.tensor(targets)
            packed.documents[i, here] = number
            packed.positions[i, here] = torch.arange(len(targets))
            start = here.stop
    return packed


def pieces(
    chat: Sequence[Message], tokenizer: Tokenizer, window: int
) -> Iterator[Piece]:
    """The conversation in pieces of whole turns, as many in each as fit the window.

    A turn begins with a user's message. Pieces without an answer are left out.
    """
    ids: list[int] = []
    own: list[bool] = []
    begins = [i for i, m in enumerate(chat) if m["role"] == "user" and i > 0]
    for begin, end in zip([0, *begins], [*begins, len(chat)], strict=True):
        turn = render(chat[begin:end], tokenizer)
        if ids and len(ids) + len(turn[0]) > window + 1:
            if any(own):
                yield _around_answer(ids, own, window)
            ids, own = [], []
        ids, own = ids + turn[0], own + turn[1]
    if any(own):
        yield _around_answer(ids, own, window)


def _around_answer(ids: list[int], own: list[bool], window: int) -> Piece:
    """At most window + 1 of the tokens, some of the first answer among them."""
    answer, start = own.index(True), 0
    if answer > window:  # half of the window is for what leads to the answer, or more
        start = min(answer - (window + 1) // 2, len(ids) - (window + 1))
    here = slice(start, start + window + 1)
    return ids[here], own[here]


class PackedBatches:
    """Batches of packed windows, each window once per epoch, in an order by seed.

    Args:
        packed: the windows.
        batch_size: windows in a batch.
        seed: of all random numbers.
        renew: makes the windows of an epoch with its random numbers, if they are not
            the same in all. Should they be more or fewer than those of `packed`, since
            new numbers have other tokens, an epoch leaves some out or repeats some: it
            always takes as many.
    """

    def __init__(
        self,
        packed: Packed,
        batch_size: int,
        seed: int,
        renew: Callable[[np.random.Generator], Packed] | None = None,
    ) -> None:
        self.packed, self.batch_size, self.seed = packed, batch_size, seed
        self.n_windows, self.renew = len(packed), renew
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The arguments of `NextTokenLoss`, by seed, step and rank alone."""
        first = (step * world_size + rank) * self.batch_size
        rows = [self._row(p) for p in range(first, first + self.batch_size)]
        return tuple(torch.cat(parts) for parts in zip(*rows, strict=True))

    def _row(self, place: int) -> tuple[Tensor, ...]:
        """The window at a place in the endless series of epochs."""
        epoch, i = divmod(place, self.n_windows)
        if epoch != self._epoch:
            if self.renew:
                self.packed = self.renew(np.random.default_rng([self.seed, epoch, 1]))
            order = epoch_order(len(self.packed), self.seed, epoch)
            self._epoch, self._order = epoch, order
        return self.packed[[int(self._order[i % len(self._order)])]]


class ChatData:
    """Conversations in windows, to train on and to validate (see `chat_parts`)."""

    def __init__(self, name: str, tokenizer: Tokenizer, window: int) -> None:
        """Read the conversations `name` (see `corpora.load_chats`) and pack them.

        Raises:
            UserError: they cannot be read, or a part of them holds no answer.
        """
        self.name, self.tokenizer = name, tokenizer
        chats = load_chats(name)
        require(len(chats) > 1, f"{name} holds {len(chats)} chats: give at least 2")
        self.window, self.parts = window, chat_parts(chats)
        self.train = pack(self.parts.train, tokenizer, window)
        self.val = pack(self.parts.val, tokenizer, window)
        for part, packed in (("training", self.train), ("validation", self.val)):
            require(
                len(packed) > 0,
                f"no conversation in the {part} part of {name} has an answer of the "
                "assistant, so there is nothing to learn: give more conversations",
            )

    def renumbered(self, rng: np.random.Generator) -> Packed:
        """The training windows with new order numbers (see `renumber`)."""
        chats = [renumber(chat, rng) for chat in self.parts.train]
        return pack(chats, self.tokenizer, self.window)

    def __str__(self) -> str:
        left_out = self.train.left_out + self.val.left_out
        return (
            f"{len(self.train):,} training and {len(self.val):,} validation windows of "
            f"{self.name}"
            + (f" ({left_out} chats without an answer left out)" if left_out else "")
        )

    @property
    def n_tokens(self) -> int:
        """Tokens of the training part."""
        return int((self.train.documents >= 0).sum())

    def evaluate(
        self, model: nn.Module, windows: int | None = None, batch_size: int = 16
    ) -> Evaluation:
        """The model's loss on all validation windows, or on `windows` of them.

        The sample is spread evenly, and is the same every time.
        """
        device = next(model.parameters()).device
        n = len(self.val)
        whole = windows is None or windows >= n
        rows = torch.arange(n) if whole else torch.linspace(0, n - 1, windows).long()
        on_device = (
            tuple(part.to(device) for part in self.val[some])
            for some in rows.split(batch_size)
        )
        result = evaluate(model, on_device, self.tokenizer.byte_lengths)
        return replace(result, whole_split=whole)
