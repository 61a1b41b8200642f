"""A run so small that a test can afford it: its text, its settings, its command line.

Dropout and Muon are on, so that chance and every kind of state matter.
"""

import random
from pathlib import Path
from typing import Any

import torch

from tinygpt.cli.main import main
from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.text.bpe_training import train_bpe

WORDS = ("the", "buyer", "asks", "why", "a", "seller", "listens", "and", "calls")
TEXT = " ".join(random.Random(3).choices(WORDS, k=700)) + "\n"
VOCAB_SIZE = 283
MODEL = {
    "context_length": 8,
    "d_model": 12,
    "n_heads": 2,
    "n_layers": 1,
    "d_ff": 20,
    "dropout": 0.1,
}
TRAIN = {
    "steps": 40,
    "batch_size": 3,
    "eval_interval": 10,
    "eval_windows": 5,
    "checkpoint_interval": 10,
}
# Every module of a GPT that can have hooks; "" is the GPT itself.
PARTS = [
    "",
    "token_embedding",
    "positions",
    "rotary",
    "embedding_norm",
    "dropout",
    "blocks.0",
    "blocks.0.norm1",
    "blocks.0.attention",
    "blocks.0.attention.qkv",
    "blocks.0.attention.output",
    "blocks.0.dropout",
    "blocks.0.norm2",
    "blocks.0.feed_forward",
    "blocks.0.feed_forward.input",
    "blocks.0.feed_forward.output",
    "norm",
    "head",
]


def write_text(folder: Path) -> tuple[Path, Path]:
    """A text and a vocabulary in `folder`; their paths."""
    text, vocabulary = folder / "text.txt", folder / "small.tiktoken"
    text.write_text(TEXT, encoding="utf-8")
    train_bpe(TEXT, VOCAB_SIZE).save(vocabulary)
    return text, vocabulary


def configs(folder: Path, **other: Any) -> tuple[GPTConfig, TrainConfig]:
    """Settings of model and training; `other` changes some of the latter."""
    text, vocabulary = write_text(folder)
    fixed = {"device": "cpu", "dtype": "float32", "optimizer": "muon"}
    train = TRAIN | fixed | {"data": str(text), "tokenizer": str(vocabulary)}
    return GPTConfig(**MODEL), TrainConfig(**(train | other))


def words(folder: Path, name: str, **other: Any) -> list[str]:
    """The command that trains the run `name` below `folder`."""
    text, vocabulary = write_text(folder)
    options = {
        **MODEL,
        **TRAIN,
        "tokenizer": vocabulary,
        "device": "cpu",
        "dtype": "float32",
        "out": folder / "runs",
        "name": name,
        "prompt": "",
        **other,
    }
    text = options.pop("data", text)
    said = [(f"--{key.replace('_', '-')}", str(v)) for key, v in options.items()]
    return ["train", str(text), *(word for pair in said for word in pair)]


def exit_code(argv: list[str]) -> int:
    """Run one command in this process; what the shell would see."""
    try:
        main(argv)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def assert_same_tensors(
    mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]
) -> None:
    """Bit for bit."""
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name
