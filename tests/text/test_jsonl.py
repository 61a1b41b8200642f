"""jsonl: three forms of chats read and written, and what is wrong with a line."""

import json
from pathlib import Path

import pytest

from tinygpt.errors import UserError
from tinygpt.text.corpora import load_chats
from tinygpt.text.jsonl import format_chats, parse_chats, parse_lines

FILE = Path("my.jsonl")
TURN = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello, né."},
]
LONG = [{"role": "system", "content": "Be kind."}, *TURN, *TURN]


def test_one_chat_in_three_forms() -> None:
    lines = [
        {"messages": TURN, "id": 7},
        {"conversations": [{"from": "human", "value": " Hi "}]},
        {"prompt": "Hi", "completion": " Hello, né."},
    ]
    jsonl = "\n\n".join(map(json.dumps, lines))
    assert parse_chats(jsonl, FILE) == [TURN, TURN[:1], TURN]


@pytest.mark.parametrize("form", ["messages", "conversations"])
def test_what_is_written_is_read_again(form: str) -> None:
    assert parse_chats(format_chats([TURN, LONG], form), FILE) == [TURN, LONG]


def test_a_prompt_holds_one_turn() -> None:
    assert parse_chats(format_chats([TURN], "prompt"), FILE) == [TURN]
    with pytest.raises(UserError, match="chat 2 is more than a prompt"):
        format_chats([TURN, LONG], "prompt")


def test_the_corpora_are_written_and_read_again() -> None:
    for name in ("shop-chats", "support-chats"):
        chats = load_chats(name)
        assert parse_chats(format_chats(chats, "conversations"), FILE) == chats


def test_a_text_stays_as_it_is() -> None:
    line = json.dumps({"text": "Once  \n upon", "messages": TURN})
    assert parse_lines(line, FILE) == ["Once  \n upon"]
    assert parse_chats(line, FILE) == [TURN]


def messages(*roles: str) -> str:
    return json.dumps({"messages": [{"role": r, "content": "Hi"} for r in roles]})


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (messages("judge"), "unknown role 'judge': use system, user or assistant"),
        (messages(), "the chat has no messages"),
        (messages("assistant"), "message 1 is the assistant's, but no user"),
        (messages("system", "assistant"), "message 2 is the assistant's, but no user"),
        (messages("user", "assistant", "assistant"), "message 3 is the assistant's"),
        (messages("user", "user"), "messages 1 and 2 are both the user's: join them"),
        (messages("user", "system"), "message 2 is the system's: put it first"),
        (messages("system", "system"), "message 2 is the system's: put it first"),
        ('{"prompt": "Hi", "completion": " "}', "message 2 is empty: write"),
        ('{"messages": [{"role": "user", "content": ""}]}', "message 1 is empty"),
        ('{"conversations": [{"from": "bot", "value": "Hi"}]}', "speaker 'bot': use"),
        ('{"conversations": [{"from": 1, "value": "Hi"}]}', "is not a chat like"),
        ('{"conversations": "Hi"}', "is not a chat like"),
        ('{"messages": {"role": "user"}}', "is not a chat like"),
        ('{"messages": [{"role": "user", "content": null}]}', "is not a chat like"),
        ('{"messages": [{"role": [], "content": "Hi"}]}', "is not a chat like"),
        ('{"prompt": "Hi"}', "is not a chat like"),
        ('{"prompt": "Hi", "completion": 3}', "is not a chat like"),
        ('{"text": "Hi"}', "is not a chat like"),
        ("[]", "is not a chat like"),
        ("3", "is not a chat like"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(line: str, sentence: str) -> None:
    with pytest.raises(UserError, match=r"^my\.jsonl line 2") as caught:
        parse_chats(messages("user") + "\n" + line, FILE)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
