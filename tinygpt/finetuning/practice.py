"""Copying practice: conversations in which nothing but a number can be learned.

A small model learns the sense of an answer long before it copies five digits out of a
question; a few minutes of practice before the real conversations teach it that. What it
leaves out: new numbers for real conversations (see `chat_data.renumber`).
"""

from collections.abc import Sequence

import numpy as np

from tinygpt.text.jsonl import Conversation

LONGEST_QUESTION = 24  # words around a number


def copying_practice(
    words: Sequence[str], n: int, rng: np.random.Generator, most_turns: int = 3
) -> list[Conversation]:
    """`n` conversations in which each answer is the number in the question before it.

    The words around the number are drawn at random, so that it never stands at the same
    place twice and nothing else can be learned.
    """
    pool = np.asarray(words)  # once: of a list, each draw would make its own

    def turn() -> Conversation:
        some = rng.choice(pool, int(rng.integers(0, LONGEST_QUESTION + 1))).tolist()
        number, place = (
            str(rng.integers(10_000, 100_000)),
            int(rng.integers(0, len(some) + 1)),
        )
        question = " ".join([*some[:place], number, *some[place:]])
        return [
            {"role": "user", "content": question},
            {"role": "assistant", "content": number},
        ]

    turns = rng.integers(1, most_turns + 1, n)
    return [[message for _ in range(k) for message in turn()] for k in turns]
