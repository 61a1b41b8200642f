"""Conversations: their template, what of them is learned, and answering.

Where the vocabulary has tokens for the speakers, they mark who speaks, and nothing that
is typed can become one:

    <|user|>Can I return this?<|end|><|assistant|>Yes, within 30 days.<|end|>

In any other vocabulary the template is plain text, in which a name with a colon marks
the speaker; in what a user says, such a name is taken apart:

    User: Can I return this?
    Assistant: Yes, within 30 days.<|endoftext|>

The end mark follows every answer: that is how the model learns to stop. Only the
assistant's words, and the end mark, count in the loss. What it leaves out: packing into
windows (see `chat_data`), training (see `run`), templates of other models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import regex
import torch

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.generation.generate import generate
from tinygpt.generation.streaming import stream_text
from tinygpt.model.gpt import GPT
from tinygpt.text.tokenizer import Tokenizer

Message = dict[str, str]  # {"role": "user" or "assistant" or "system", "content": ...}
ROLES = ("system", "user", "assistant")
SPEAKERS = ("<|user|>", "<|assistant|>", "<|end|>")
NAME = regex.compile(r"\b(User|Assistant|System):")


def has_speakers(tokenizer: Tokenizer) -> bool:
    """Whether the vocabulary has tokens for who speaks."""
    return all(token in tokenizer.special_tokens for token in SPEAKERS)


def end_of_answer(tokenizer: Tokenizer) -> int:
    """The id that ends an answer: that of <|end|>, or else of <|endoftext|>.

    Raises:
        UserError: the tokenizer has neither.
    """
    end = tokenizer.end_of_text
    if has_speakers(tokenizer):
        end = tokenizer.special_tokens["<|end|>"]
    if end is None:
        raise UserError(f"tokenizer {tokenizer.name} has no <|endoftext|> to stop at")
    return end


def render(
    messages: Sequence[Message], tokenizer: Tokenizer
) -> tuple[list[int], list[bool]]:
    r"""Token ids of a conversation, and which of them are the assistant's own.

    What the assistant says, and the end mark after it, are its own. Each part is
    encoded by itself, so that no token belongs to two parts. A system message is text
    before the first speaker.

    Raises:
        UserError: a role is unknown, or the tokenizer has no end mark.
    """
    end, special = end_of_answer(tokenizer), tokenizer.special_tokens
    ids: list[int] = []
    own: list[bool] = []
    for message in messages:
        role, content = message["role"], message["content"].strip()
        if role not in ROLES:
            raise UserError(f"unknown role '{role}': use user, assistant or system")
        if not has_speakers(tokenizer):
            head, said = _as_text(role, content, tokenizer)
        elif role == "system":
            head, said = tokenizer.encode(content + "\n"), []
        else:
            head, said = [special[f"<|{role}|>"]], [*tokenizer.encode(content), end]
        ids += head + said
        own += [False] * len(head) + [role == "assistant"] * len(said)
    return ids, own


def _as_text(
    role: str, content: str, tokenizer: Tokenizer
) -> tuple[list[int], list[int]]:
    r"""A message of the plain template: what introduces it, and what is said.

    "User: ...\n" is one part, as it always was; "Assistant:" and the answer are two.
    """
    if role == "assistant":
        said = [*tokenizer.encode(" " + content), end_of_answer(tokenizer)]
        return tokenizer.encode("Assistant:"), said
    typed = NAME.sub(r"\1 :", " ".join(content.split()))
    return tokenizer.encode(f"{role.capitalize()}: {typed}\n"), []


def chat_prompt(messages: Sequence[Message], tokenizer: Tokenizer) -> list[int]:
    """Ids of a conversation so far, and of what asks the assistant for an answer.

    Raises:
        UserError: as `render`.
    """
    ids, _ = render(messages, tokenizer)
    if has_speakers(tokenizer):
        return [*ids, tokenizer.special_tokens["<|assistant|>"]]
    return ids + tokenizer.encode("Assistant:")


@torch.no_grad()
def add_speakers(model: GPT, tokenizer: Tokenizer) -> tuple[GPT, Tokenizer]:
    """Model and tokenizer with tokens for the speakers, as `SPEAKERS` names them.

    The embedding gets a row for each, and so does the head: the mean of the old rows,
    so that a new token is at first no likelier than the others (Hewitt, 2021,
    "Initializing New Word Embeddings for Pretrained Language Models"). A vocabulary
    that has them stays as it is.
    """
    new = [token for token in SPEAKERS if token not in tokenizer.special_tokens]
    if not new:
        return model, tokenizer
    first = max(model.config.vocab_size, tokenizer.vocab_size)
    ids = {token: first + i for i, token in enumerate(new)}
    known = tokenizer.special_tokens | ids
    config: GPTConfig = replace(model.config, vocab_size=first + len(new))
    wider = GPT(config).to(model.device)
    old = model.state_dict()
    for name, weight in wider.state_dict().items():
        n = len(old[name]) if weight.ndim else 0
        if weight.shape == old[name].shape:
            weight.copy_(old[name])
        else:  # the embedding, the head, its bias
            weight[:n] = old[name]
            weight[n:] = old[name].mean(0)
    widened = Tokenizer(tokenizer.name, tokenizer.ranks, tokenizer.pattern, known)
    return wider.train(model.training), widened


def cut_history(
    messages: Sequence[Message], tokenizer: Tokenizer, room: int
) -> list[Message]:
    """The latest messages whose prompt fits into `room` tokens, in whole turns.

    A turn is a user's message with the answer to it; the oldest turns go first. A
    system message stays as long as the last message leaves room for it.

    Raises:
        UserError: even the last message alone is too long.
    """
    system = [m for m in messages[:1] if m["role"] == "system"]
    kept = list(messages[len(system) :])
    while (n := len(chat_prompt(system + kept, tokenizer))) > room:
        later = (i for i in range(1, len(kept)) if kept[i]["role"] == "user")
        if (start := next(later, None)) is not None:
            kept = kept[start:]
        elif system:
            system = []
        else:
            raise UserError(
                f"the message has {n} tokens, but the model has room for {room}: "
                "say it in fewer words"
            )
    return system + kept


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
    stop = end_of_answer(tokenizer)
    prompt = torch.tensor([chat_prompt(kept, tokenizer)], device=model.device)
    tokens = generate(
        model,
        prompt,
        max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop_token=stop,
    )
    ids = (int(token) for token in tokens)
    # A special token that is not the end, such as a speaker's, is no text either.
    said = (i for i in ids if i not in tokenizer.special_tokens.values())
    first = True
    for piece in stream_text(said, tokenizer):
        yield piece.lstrip(" ") if first else piece
        first = False
