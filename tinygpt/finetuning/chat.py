"""Conversations: their form, what of them is learned, packing, and answering.

The chat form is plain text, so that every tokenizer knows it:

    User: Can I return this?
    Assistant: Yes, within 30 days.<|endoftext|>

The end mark follows every answer: that is how the model learns to stop. Only the
assistant's words count in the loss. What it leaves out: the run (see `finetune`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import UserError
from tinygpt.generation.generate import generate
from tinygpt.generation.streaming import stream_text
from tinygpt.model.gpt import GPT
from tinygpt.model.masking import document_mask
from tinygpt.text.tokenizer import Tokenizer

Message = dict[str, str]  # {"role": "user" or "assistant" or "system", "content": ...}


def render(
    messages: Sequence[Message], tokenizer: Tokenizer
) -> tuple[list[int], list[bool]]:
    r"""Token ids of a conversation, and which of them are the assistant's own.

    "User: ...\n" and "Assistant:" are given; what the assistant says after that, with
    the end mark, is its own. Each part is encoded by itself, so no token crosses from
    one into the other.

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
    numbers the conversations of a window, so that none can look into another, and
    `positions` start from 0 in each.
    """

    ids: Int[Tensor, "N T"]
    targets: Int[Tensor, "N T"]
    documents: Int[Tensor, "N T"]
    positions: Int[Tensor, "N T"]

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

    A conversation longer than a window is cut at the window's end.

    Raises:
        UserError: as `render`.
    """
    rendered = [render(chat, tokenizer) for chat in chats]
    rendered = [(ids[: window + 1], own[: window + 1]) for ids, own in rendered]
    rendered.sort(key=lambda pair: -len(pair[0]))
    room: list[int] = []
    rows: list[list[tuple[list[int], list[bool]]]] = []
    for ids, own in rendered:
        n = len(ids) - 1  # every token but the last is an input
        row = next((i for i, left in enumerate(room) if left >= n), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(window)
        rows[row].append((ids, own))
        room[row] -= n
    shape = (len(rows), window)
    filler = tokenizer.end_of_text or 0
    packed = Packed(
        torch.full(shape, filler),
        torch.full(shape, IGNORE_INDEX),
        torch.full(shape, -1),
        torch.zeros(shape, dtype=torch.long),
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


class PackedBatches:
    """Batches of packed windows, each window once per epoch, in an order by seed."""

    def __init__(self, packed: Packed, batch_size: int, seed: int) -> None:
        self.packed, self.batch_size, self.seed = packed, batch_size, seed

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The arguments of `NextTokenLoss`, by seed, step and rank alone."""
        first = (step * world_size + rank) * self.batch_size
        rows = [self._row(p) for p in range(first, first + self.batch_size)]
        return self.packed[rows]

    def _row(self, place: int) -> int:
        epoch, i = divmod(place, len(self.packed))
        chance = torch.Generator().manual_seed(self.seed + 7919 * epoch)
        return int(torch.randperm(len(self.packed), generator=chance)[i])


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
