"""Conversations: their template, what of them is learned, and answering.

The template is plain text, so that every tokenizer knows it:

    User: Can I return this?
    Assistant: Yes, within 30 days.<|endoftext|>

The end mark follows every answer: that is how the model learns to stop. Only the
assistant's words, and the end mark, count in the loss. What it leaves out: windows
and batches (see `chat_data`), training (see `run`), templates of other models.
"""

from collections.abc import Iterator, Sequence

import torch

from tinygpt.errors import UserError
from tinygpt.generation.generate import generate
from tinygpt.generation.streaming import stream_text
from tinygpt.model.gpt import GPT
from tinygpt.text.tokenizer import Tokenizer

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
