"""practice: every answer is the number in the question, and stands at any place."""

import re

import numpy as np

from tinygpt.finetuning.chat_data import pack
from tinygpt.finetuning.practice import copying_practice
from tinygpt.text.tokenizer import get_tokenizer


def test_practice_asks_for_nothing_but_the_number() -> None:
    chats = copying_practice(["lamp", "rope"], 200, np.random.default_rng(2))
    assert len(chats) == 200
    places = set()
    for chat in chats:
        for question, answer in zip(chat[::2], chat[1::2], strict=True):
            assert (question["role"], answer["role"]) == ("user", "assistant")
            words = question["content"].split()
            assert words.count(answer["content"]) == 1
            assert re.fullmatch(r"\d{5}", answer["content"])
            places.add(words.index(answer["content"]))
    assert len(places) > 15
    assert {len(chat) for chat in chats} == {2, 4, 6}
    packed = pack(chats, get_tokenizer("course-4k"), 128)
    assert packed.left_out == 0
