"""Lines of JSON: chats in three common forms, and texts `{"text": "Once ..."}`.

    {"messages": [{"role": "user", "content": "Hi"}, ...]}         OpenAI
    {"conversations": [{"from": "human", "value": "Hi"}, ...]}     ShareGPT
    {"prompt": "Hi", "completion": "Hello."}                       one turn

What it leaves out: finding and decoding files (see `corpora`); pictures, tools, and
other fields, which are ignored.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from tinygpt.errors import UserError

Conversation = list[dict[str, str]]  # messages, each with "role" and "content"
Form = Literal["messages", "conversations", "prompt"]

ROLES = ("system", "user", "assistant")
SHAREGPT = {"system": "system", "human": "user", "gpt": "assistant"}
EXAMPLE = '{"messages": [{"role": "user", "content": "Hello"}]}'


class _WrongError(Exception):
    """A chat that can be told apart but not used; says what is wrong and what to do."""


def parse_chats(jsonl: str, path: Path) -> list[Conversation]:
    """Chats, one JSON object per line in one of the three forms; white space is folded.

    Raises:
        UserError: a line is no chat, a role is unknown, a content is empty, or the
            messages are not in order: perhaps a system message, then user and
            assistant in turn.
    """
    entries = parse_lines(jsonl, path, texts=False)
    return [entry for entry in entries if not isinstance(entry, str)]


def parse_lines(
    jsonl: str, path: Path, begin: int = 0, texts: bool = True
) -> list[Conversation | str]:
    """What each line holds: a chat or, where `texts` may stand, a text.

    `begin` is where in the file `jsonl` begins, for the complaint about a bad line.

    Raises:
        UserError: a line is neither, or as `parse_chats`.
    """
    entries: list[Conversation | str] = []
    after = f" after byte {begin}" if begin else ""
    # Not splitlines(): JSON strings may contain U+2028 and the like unescaped.
    for number, line in enumerate(jsonl.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}{after}"
        try:
            entry = _parse_entry(json.loads(line), texts)
        except _WrongError as wrong:
            raise UserError(f"{where}: {wrong}") from wrong
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            or_text = ' or a text like {"text": "Once"}' if texts else ""
            raise UserError(
                f"{where} is not a chat like {EXAMPLE}{or_text}: correct the line or "
                "give a .txt file."
            ) from error
        entries.append(entry)
    return entries


def _parse_entry(value: Any, texts: bool) -> Conversation | str:
    if texts and isinstance(value.get("text"), str):
        text: str = value["text"]
        text.encode("utf-8")  # raises for an escaped lone surrogate
        return text
    if "messages" in value:
        said = [(m["role"], m["content"]) for m in value["messages"]]
    elif "conversations" in value:
        said = [(_from_sharegpt(m["from"]), m["value"]) for m in value["conversations"]]
    else:
        said = [("user", value["prompt"]), ("assistant", value["completion"])]
    chat = [{"role": role, "content": " ".join(text.split())} for role, text in said]
    # Raises for a lone surrogate, and for a role that is not a string.
    "".join(m["role"] + m["content"] for m in chat).encode("utf-8")
    _require_order(chat)
    return chat


def _from_sharegpt(name: Any) -> Any:
    """The role that ShareGPT calls `name`; roles of the other form are known, too."""
    if not isinstance(name, str) or name in ROLES:
        return name
    if name not in SHAREGPT:
        raise _WrongError(f"unknown speaker '{name}': use {', '.join(SHAREGPT)}")
    return SHAREGPT[name]


def _require_order(chat: Conversation) -> None:
    """Raise for a chat in which somebody speaks out of turn or says nothing."""
    if not chat:
        raise _WrongError("the chat has no messages: add some or remove the line")
    before = ""
    for number, message in enumerate(chat, start=1):
        role = message["role"]
        if role not in ROLES:
            raise _WrongError(f"unknown role '{role}': use system, user or assistant")
        if not message["content"]:
            raise _WrongError(
                f"message {number} is empty: write its content or remove the line"
            )
        if role == "system" and number > 1:
            raise _WrongError(f"message {number} is the system's: put it first")
        if role == "assistant" and before != "user":
            raise _WrongError(
                f"message {number} is the assistant's, but no user spoke before it: "
                "let user and assistant take turns"
            )
        if role == "user" and before == "user":
            raise _WrongError(
                f"messages {number - 1} and {number} are both the user's: join them or "
                "add the answer between them"
            )
        before = role


def format_chats(chats: Sequence[Conversation], form: Form = "messages") -> str:
    r"""The chats as lines of JSON in one of the three forms; `parse_chats` reads them.

    Args:
        chats: conversations.
        form: "messages" (OpenAI), "conversations" (ShareGPT), or "prompt", which can
            hold only one message of a user and the answer to it.

    Raises:
        UserError: a chat has more than "prompt" can hold.

    >>> hello = [{"role": "user", "content": "Hi"}]
    >>> format_chats([hello], "conversations")
    '{"conversations": [{"from": "human", "value": "Hi"}]}\n'
    """
    names = {role: name for name, role in SHAREGPT.items()}
    lines: list[dict[str, Any]] = []
    for number, chat in enumerate(chats, start=1):
        if form == "messages":
            lines += [{"messages": chat}]
        elif form == "conversations":
            turns = [{"from": names[m["role"]], "value": m["content"]} for m in chat]
            lines += [{"conversations": turns}]
        elif [m["role"] for m in chat] == ["user", "assistant"]:
            prompt, completion = (m["content"] for m in chat)
            lines += [{"prompt": prompt, "completion": completion}]
        else:
            raise UserError(
                f"chat {number} is more than a prompt and a completion: write messages "
                "or conversations"
            )
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def plain_text(entry: Conversation | str) -> str:
    r"""A text as it is, a chat as a message per line; a newline at the end.

    >>> plain_text([{"role": "user", "content": "Can I pay later?"}])
    'User: Can I pay later?\n'
    """
    if isinstance(entry, str):
        return entry if entry.endswith("\n") else entry + "\n"
    return "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in entry)
