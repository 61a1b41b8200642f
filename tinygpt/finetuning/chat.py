"""Conversations: their template, what of them is learned, packing, and answering.

The template is plain text, so that every tokenizer knows it:

    User: Can I return this?
    Assistant: Yes, within 30 days.<|endoftext|>

The end mark follows every answer: that is how the model learns to stop. Only the
assistant's words, and the end mark, count in the loss. What it leaves out: training
(see `run`), templates of other models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import UserError, require
from tinygpt.generation.generate import generate
from tinygpt.generation.streaming import stream_text
from tinygpt.model.gpt import GPT
from tinygpt.model.masking import document_mask
from tinygpt.text.corpora import load_chats
from tinygpt.text.dataset import epoch_order
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.evaluation import Evaluation, evaluate

Message = dict[str, str]  # {"role": "user" or "assistant" or "system", "content": ...}


def render(
    messages: Sequence[Message], tokenizer: Tokenizer
) -> tuple[list[int], list[bool]]:
    r"""Token ids of a conversation, and which of them are the assistant's own.

    "User: ...\n" and "Assistant:" are given; what the assistant says after that, and
    the end mark, are its own. Each part is encoded by itself, so that no token belongs
    to two parts.

    Raises:
        UserError: a role is unknown, or the tokenizer has no end mark.
    """
    end = tokenizer.end_of_text
    if end is None:
        raise UserError(f"tokenizer {tokenizer.name} has no <|endoftext|> to stop at")
    ids: list[int] = []
    own: list[bool] = []
    for message in messages:
        role, content = message["role"], " " + message["content"].strip()
        if role not in ("user", "assistant", "system"):
            raise UserError(f"unknown role '{role}': use user, assistant or system")
        given, said = f"{role.capitalize()}:", content + "\n"
        answer = [*tokenizer.encode(content), end] if role == "assistant" else []
        head = tokenizer.encode(given if answer else given + said)
        ids += head + answer
        own += [False] * len(head) + [True] * len(answer)
    return ids, own


def chat_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Ids of a conversation so far and of "Assistant:", which asks for an answer.

    Raises:
        UserError: as `render`.
    """
    return render(messages, tokenizer)[0] + tokenizer.encode("Assistant:")


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


def pack(
    chats: Sequence[Sequence[Message]], tokenizer: Tokenizer, window: int
) -> Packed:
    """Fill windows with whole conversations, the longest first, each where it fits.

    A conversation longer than a window is cut to its first tokens; if its first answer
    begins after them, to the tokens around the beginning of that answer. So every
    conversation in the result has targets; those without an answer are left out.

    Raises:
        UserError: as `render`.
    """
    rendered = [render(chat, tokenizer) for chat in chats]
    answered = [_cut(ids, own, window) for ids, own in rendered if any(own)]
    answered.sort(key=lambda pair: -len(pair[0]))
    room: list[int] = []
    rows: list[list[tuple[list[int], list[bool]]]] = []
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
        left_out=len(rendered) - len(answered),
    )
    for i, row_chats in enumerate(rows):
        start = 0
        for number, (ids, own) in enumerate(row_chats):
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


def _cut(ids: list[int], own: list[bool], window: int) -> tuple[list[int], list[bool]]:
    """At most window + 1 of the tokens, some of the first answer among them."""
    answer, start = own.index(True), 0
    if answer > window:  # half of the window is for what leads to the answer, or more
        start = min(answer - (window + 1) // 2, len(ids) - (window + 1))
    here = slice(start, start + window + 1)
    return ids[here], own[here]


class PackedBatches:
    """Batches of packed windows, each window once per epoch, in an order by seed."""

    def __init__(self, packed: Packed, batch_size: int, seed: int) -> None:
        self.packed, self.batch_size, self.seed = packed, batch_size, seed
        self.n_windows = len(packed)
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The arguments of `NextTokenLoss`, by seed, step and rank alone."""
        first = (step * world_size + rank) * self.batch_size
        rows = [self._row(p) for p in range(first, first + self.batch_size)]
        return self.packed[rows]

    def _row(self, place: int) -> int:
        """The window at a place in the endless series of epochs."""
        epoch, i = divmod(place, self.n_windows)
        if epoch != self._epoch:
            order = epoch_order(self.n_windows, self.seed, epoch)
            self._epoch, self._order = epoch, order
        return int(self._order[i])


class ChatData:
    """Conversations in windows, the first 90 % to train on, the rest to validate."""

    def __init__(self, name: str, tokenizer: Tokenizer, window: int) -> None:
        """Read the conversations `name` (see `corpora.load_chats`) and pack them.

        Raises:
            UserError: they cannot be read, or a part of them holds no answer.
        """
        self.name, self.tokenizer = name, tokenizer
        chats = load_chats(name)
        cut = len(chats) * 9 // 10
        require(cut > 0, f"{name} holds {len(chats)} chats: give at least 2")
        self.train = pack(chats[:cut], tokenizer, window)
        self.val = pack(chats[cut:], tokenizer, window)
        for part, packed in (("training", self.train), ("validation", self.val)):
            require(
                len(packed) > 0,
                f"no conversation in the {part} part of {name} has an answer of the "
                "assistant, so there is nothing to learn: give more conversations",
            )

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


def cut_history(
    messages: Sequence[Message], tokenizer: Tokenizer, room: int
) -> list[Message]:
    """The latest messages whose prompt fits into `room` tokens, in whole turns.

    A turn is a user's message with the answer to it; the oldest turns go first.

    Raises:
        UserError: even the last message alone is too long.
    """
    kept = list(messages)
    while (n := len(chat_prompt(kept, tokenizer))) > room:
        later = (i for i in range(1, len(kept)) if kept[i]["role"] == "user")
        if (start := next(later, None)) is None:
            raise UserError(
                f"the message has {n} tokens, but the model has room for {room}: "
                "say it in fewer words"
            )
        kept = kept[start:]
    return kept


def answer(
    model: GPT,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    max_new_tokens: int = 120,
    temperature: float = 0.7,
    top_k: int | None = 50,
    top_p: float | None = None,
    seed: int | None = None,
) -> Iterator[str]:
    """The assistant's answer, piece by piece, until the end mark.

    A quarter of the context is kept free for the answer.

    Raises:
        UserError: the last message does not fit into the context.
    """
    room = model.config.context_length - model.config.context_length // 4
    kept = cut_history(messages, tokenizer, room)
    prompt = torch.tensor([chat_prompt(kept, tokenizer)], device=model.device)
    tokens = generate(
        model,
        prompt,
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_token=tokenizer.end_of_text,
    )
    ids = (int(token) for token in tokens)
    said = (i for i in ids if i != tokenizer.end_of_text)
    first = True
    for piece in stream_text(said, tokenizer):
        yield piece.lstrip(" ") if first else piece
        first = False
