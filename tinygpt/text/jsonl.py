"""Lines of JSON: chats `{"messages": [...]}` and texts `{"text": "Once ..."}`.

What it leaves out: finding and decoding files (see `corpora`).
"""

import json
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError

Conversation = list[dict[str, str]]  # messages, each with "role" and "content"


def parse_chats(jsonl: str, path: Path) -> list[Conversation]:
    """Chats, one JSON object with `messages` per line; white space is folded.

    Raises:
        UserError: a line is no chat.
    """
    entries = parse_lines(jsonl, path, texts=False)
    return [entry for entry in entries if not isinstance(entry, str)]


def parse_lines(
    jsonl: str, path: Path, begin: int = 0, texts: bool = True
) -> list[Conversation | str]:
    """What each line holds: a chat or, where `texts` may stand, a text.

    `begin` is where in the file `jsonl` begins, for the complaint about a bad line.

    Raises:
        UserError: a line is neither.
    """
    entries: list[Conversation | str] = []
    # Not splitlines(): JSON strings may contain U+2028 and the like unescaped.
    for number, line in enumerate(jsonl.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = _parse_entry(json.loads(line), texts)
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            after = f" after byte {begin}" if begin else ""
            or_text = ' or a text like {"text": "Once"}' if texts else ""
            raise UserError(
                f"{path} line {number}{after} is not a chat like "
                '{"messages": [{"role": "user", "content": "Hello"}]}'
                f"{or_text}: correct the line or give a .txt file."
            ) from error
        entries.append(entry)
    return entries


def _parse_entry(value: Any, texts: bool) -> Conversation | str:
    if texts and isinstance(value.get("text"), str):
        text: str = value["text"]
        text.encode("utf-8")  # raises for an escaped lone surrogate
        return text
    chat = [
        {"role": said["role"], "content": " ".join(said["content"].split())}
        for said in value["messages"]
    ]
    # Raises for a lone surrogate, and for a role that is not a string.
    "".join(said["role"] + said["content"] for said in chat).encode("utf-8")
    return chat


def plain_text(entry: Conversation | str) -> str:
    r"""A text as it is, a chat as a message per line; a newline at the end.

    >>> plain_text([{"role": "user", "content": "Can I pay later?"}])
    'User: Can I pay later?\n'
    """
    if isinstance(entry, str):
        return entry if entry.endswith("\n") else entry + "\n"
    return "".join(f"{m['role'].capitalize()}: {m['content']}\n" for m in entry)
