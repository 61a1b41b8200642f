"""A model, a tokenizer and a conversation so small that a test can afford them."""

import json
from dataclasses import replace
from pathlib import Path

from tinygpt.config import GPTConfig
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe_training import train_bpe

TOKENIZER = train_bpe("User: Where is it? Assistant: It is on its way. " * 3, 280)
END = TOKENIZER.end_of_text
CHAT = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Good day!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you."},
]


def small_model(**changes: object) -> GPT:
    base = GPTConfig(
        vocab_size=280, context_length=64, d_model=12, n_heads=3, n_layers=2
    )
    return GPT(replace(base, **changes)).eval()  # type: ignore[arg-type]


def write_chats(folder: Path, first: int = 0, n: int = 20) -> str:
    """A file of `n` conversations, all of one kind, about orders from `first` on."""
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"Where is order {order}?"},
                {"role": "assistant", "content": "It is on its way."},
            ]
        }
        for order in range(first, first + n)
    ]
    path = folder / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return str(path)
