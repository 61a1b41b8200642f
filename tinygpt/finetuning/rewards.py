"""Is an answer right? Plain checks of what the assistant of a shop says.

Each check takes the messages so far, the answer, and whether the answer ended by itself
before its limit; it gives 1.0 for right, 0.0 for wrong, and None where it does not
apply. A mean of them measures a model, and the same numbers are the rewards that
chapter 11 learns from. `judge` makes all checks of an answer at once.

The facts are those of the shop that `shop-chats` talks about (see `shop`). What it
leaves out: whether an answer is kind, well written or complete. A check sees patterns,
not sense, and a model can learn to please it without being right (Gao et al., 2023,
"Scaling Laws for Reward Model Overoptimization").
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import regex

from tinygpt.finetuning.chat import Message
from tinygpt.finetuning.chat_data import ORDER_NUMBER, Chats
from tinygpt.finetuning.shop import contradictions

Check = Callable[[Sequence[Message], str, bool], float | None]

CORRECTS = regex.compile(
    r"\b(?:no|not|wait|sorry|oops|mean|meant|wrong|mistyped|typo|instead|rather|correct"
    r"\w*)\b",
    regex.IGNORECASE,
)
ASKS = regex.compile(
    r"\b(?:tell|give|send|need|share)\b[^.!?;]*(?<!phone )\b(?:numbers?|digits)\b"
    r"|\bwith (?:the|an|your) order number,? (?:I|it|the|we)\b"
    r"|\bwrite (?:the|your) order number here\b"
    r"|\border number\b[^.!?;]*(?:\bplease\b|\btell me\b|\bhelps? me\b|\bsend it\b)"
    r"|\b(?:what|which|may|do you|is there|was|have you|shall|could|can|would)\b"
    r"[^.!?;]*(?:\bwhich order\b|(?<!phone )\b(?:numbers?|digits)\b)[^.!;]*\?"
    r"|\bwhich order\b[^.!;]*\?",
    regex.IGNORECASE,
)


def ends(messages: Sequence[Message], answer: str, ended: bool) -> float | None:
    """Whether the answer stopped by itself, and says something.

    >>> ends([], "You are welcome.", ended=False)
    0.0
    """
    return float(ended and answer.strip() != "")


def number_right(messages: Sequence[Message], answer: str, ended: bool) -> float | None:
    """Whether the answer repeats the order number that the user gave last, no other.

    Where the user corrects a number, the one before counts as another; where the user
    speaks of two orders, the answer may name both. None if the user gave no number.

    >>> said = [{"role": "user", "content": "12345, no, sorry, 12354"}]
    >>> number_right(said, "I am flagging 12354.", True)
    1.0
    >>> number_right(said, "I am flagging 12345.", True)
    0.0
    """
    given = [m["content"] for m in messages if m["role"] == "user"]
    given = [text for text in given if ORDER_NUMBER.search(text)]
    if not given:
        return None
    wanted = ORDER_NUMBER.findall(given[-1])[-1]
    known = {wanted}
    if not CORRECTS.search(given[-1]):
        known.update(n for text in given for n in _numbers(text))
    said = set(_numbers(answer))
    return float(wanted in said and said <= known)


def no_number_invented(
    messages: Sequence[Message], answer: str, ended: bool
) -> float | None:
    """Whether the answer names no order number that the user did not give."""
    given = {n for m in messages for n in _numbers(m["content"])}
    return float(set(_numbers(answer)) <= given)


def asks_for_number(
    messages: Sequence[Message], answer: str, ended: bool
) -> float | None:
    """Whether the answer asks for the order number. None if the user gave one.

    Whether one is needed, `judge` asks of the answer in the conversation.

    >>> asks_for_number([], "I am sorry. Which order is it?", True)
    1.0
    """
    if any(ORDER_NUMBER.search(m["content"]) for m in messages if m["role"] == "user"):
        return None
    return float(ASKS.search(answer) is not None and not _numbers(answer))


def _numbers(text: str) -> list[str]:
    """What may be meant as an order number: four or more digits in a row."""
    return regex.findall(r"[0-9]{4,}", text)


def keeps_facts(messages: Sequence[Message], answer: str, ended: bool) -> float | None:
    """Whether the answer contradicts no fact of the shop."""
    return float(not contradictions(answer))


# --- All checks of an answer ------------------------------------------------------

CHECKS: dict[str, Check] = {
    "ends by itself": ends,
    "number right": number_right,
    "asks for a missing number": asks_for_number,
    "invents no number": no_number_invented,
    "keeps to the facts": keeps_facts,
}


class Prompt(NamedTuple):
    """The messages up to a user's, and the answer that the conversation has there."""

    messages: list[Message]
    reference: str


def prompts(chats: Chats) -> list[Prompt]:
    """One prompt for each of the assistant's messages that follows a user's."""
    return [
        Prompt(list(chat[:i]), chat[i]["content"])
        for chat in chats
        for i in range(1, len(chat))
        if chat[i]["role"] == "assistant" and chat[i - 1]["role"] == "user"
    ]


def judge(prompt: Prompt, answer: str, ended: bool) -> dict[str, float | None]:
    """Every check of `CHECKS` by name.

    A number is missing where the reference asks for it; where it does not, the check
    of asking does not apply.
    """
    results = {
        name: check(prompt.messages, answer, ended) for name, check in CHECKS.items()
    }
    if not asks_for_number(prompt.messages, prompt.reference, True):
        results["asks for a missing number"] = None
    return results
