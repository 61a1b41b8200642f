"""chat: the form of a conversation, which tokens count, the cut history.

A model of two thin blocks stands in for GPT-2; what is proven does not depend on size.
"""

import json
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_chat import CHAT, END, TOKENIZER, small_model, write_chats
from torch import Tensor

from tinygpt.errors import UserError
from tinygpt.finetuning import chat
from tinygpt.finetuning.chat import answer, chat_prompt, cut_history, render
from tinygpt.llm import LLM
from tinygpt.model.gpt import GPT


@pytest.fixture
def chats(tmp_path: Path) -> str:
    """Twenty conversations, all of one kind, so that they can be learned at once."""
    return write_chats(tmp_path)


QUESTION = [{"role": "user", "content": "Hello?"}]


def as_file(path: Path, *chats: list[dict[str, str]]) -> str:
    lines = [json.dumps({"messages": chat}) for chat in chats]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_a_conversation_reads_as_documented() -> None:
    ids, _ = render(CHAT, TOKENIZER)
    assert TOKENIZER.decode(ids) == (
        "User: Hi there\nAssistant: Good day!<|endoftext|>"
        "User: Bye\nAssistant: See you.<|endoftext|>"
    )


def test_only_the_assistants_tokens_count_token_by_token() -> None:
    ids, own = render(CHAT, TOKENIZER)
    expected = [
        ("User: Hi there\nAssistant:", False),
        (" Good day!<|endoftext|>", True),
        ("User: Bye\nAssistant:", False),
        (" See you.<|endoftext|>", True),
    ]
    text, i = "", 0
    for part, mine in expected:
        text = ""
        while text != part:
            assert own[i] is mine, (part, text)
            text += TOKENIZER.decode([ids[i]])
            i += 1
    assert i == len(ids)


def test_an_end_mark_typed_by_a_user_is_plain_text() -> None:
    ids, own = render([{"role": "user", "content": "<|endoftext|>"}], TOKENIZER)
    assert END not in ids
    assert not any(own)


def test_training_and_chatting_use_the_same_form() -> None:
    ids, own = render(CHAT, TOKENIZER)
    prompt = chat_prompt(CHAT[:3], TOKENIZER)
    assert ids[: len(prompt)] == prompt
    assert own[len(prompt)]
    assert not own[len(prompt) - 1]


def test_history_is_cut_by_whole_turns() -> None:
    history = [*CHAT, {"role": "user", "content": "One more thing"}]
    room = len(chat_prompt(history, TOKENIZER)) - 1
    assert cut_history(history, TOKENIZER, room) == history[2:]
    assert cut_history(history, TOKENIZER, room + 1) == history
    with pytest.raises(UserError, match="fewer words"):
        cut_history(history, TOKENIZER, room=3)
    instructed = [{"role": "system", "content": "Be brief."}, *QUESTION]
    room = len(chat_prompt(QUESTION, TOKENIZER))
    assert cut_history(instructed, TOKENIZER, room) == QUESTION


# --- Answers -----------------------------------------------------------------------


def test_an_answer_loses_its_first_space_and_the_end_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def say(model: GPT, prompt: Tensor, n: int, **options: Any) -> Iterator[Tensor]:
        asked.append((prompt.tolist(), n, options))
        yield from torch.tensor([*TOKENIZER.encode(" On its way"), END])

    monkeypatch.setattr(chat, "generate", say)
    how: dict[str, Any] = {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "seed": 4}
    said = list(answer(small_model(), TOKENIZER, QUESTION, 17, **how))
    assert "".join(said) == "On its way"
    assert len(said) > 2
    prompt = [chat_prompt(QUESTION, TOKENIZER)]
    assert asked == [(prompt, 17, how | {"stop_token": END})]


def test_without_further_settings_it_answers_as_the_front_door_does() -> None:
    own, door = signature(answer).parameters, signature(LLM.reply).parameters
    for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed"):
        assert own[name].default == door[name].default


def test_a_quarter_of_the_context_is_kept_for_the_answer() -> None:
    model = small_model(context_length=64)

    def asked(n_tokens: int) -> list[dict[str, str]]:
        """A question whose prompt has so many tokens."""
        head = len(chat_prompt([{"role": "user", "content": "x"}], TOKENIZER)) - 1
        return [{"role": "user", "content": "x" * (n_tokens - head)}]

    list(answer(model, TOKENIZER, asked(48), max_new_tokens=1))
    with pytest.raises(UserError, match="has 49 tokens, but the model has room for 48"):
        list(answer(model, TOKENIZER, asked(49), max_new_tokens=1))


# --- Bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "words"),
    [([{"role": "robot", "content": "Hi"}], "unknown role 'robot'")],
)
def test_bad_messages(messages: list[dict[str, str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        render(messages, TOKENIZER)
