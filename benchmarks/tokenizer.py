"""Byte-pair encoding: learning a vocabulary and using it, against the fast libraries.

Training: 4,096 entries from the handbook, byte level, with GPT-2's pattern, against
Hugging Face's `tokenizers` (Rust). Encoding: the handbook in our vocabulary, against
`tiktoken` (Rust) with the same entries. Ours is Python, written to be read. What
it leaves out: decoding, and special tokens.

    python benchmarks/tokenizer.py [--quick]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import tokenizers
from side_by_side import (
    arguments,
    machine,
    median,
    pairs,
    print_rows,
    ratio,
    row,
    save,
    span,
)
from tokenizers import decoders, models, pre_tokenizers, trainers

from tinygpt.text.bpe import END_OF_TEXT
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.corpora import load_text
from tinygpt.text.tokenizer import Tokenizer, get_tokenizer

VOCAB_SIZE = 4096


def timed(work: Callable[[], object], per: float = 1.0) -> Callable[[], float]:
    """A function that does `work` and says how many `per` a second it did."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return per / (time.perf_counter() - start)

    return measure


def train_theirs(text: str) -> tokenizers.Tokenizer:
    """The same kind of vocabulary, by Hugging Face's library."""
    theirs = tokenizers.Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    theirs.train_from_iterator([text], trainer)
    return theirs


def fresh(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with nothing remembered from earlier texts."""
    t = tokenizer
    return Tokenizer(t.name, t.ranks, t.pattern, t.special_tokens)


def main() -> None:
    """Train and encode, in turn."""
    args = arguments(__doc__)
    n = args.pairs
    text = load_text("handbook")
    megabytes = len(text.encode()) / 1e6

    ours = train_bpe(text, VOCAB_SIZE)
    theirs = train_theirs(text)
    a, b = len(ours.encode(text)), len(theirs.encode(text).ids)
    training = pairs(
        {
            "ours": timed(lambda: train_bpe(text, VOCAB_SIZE)),
            "tokenizers": timed(lambda: train_theirs(text)),
        },
        n,
        warmup=0,
    )

    tokenizer = get_tokenizer("handbook-4k")
    fast = tokenizer.to_tiktoken()
    assert fast.encode_ordinary(text) == tokenizer.encode(text)
    encoding = pairs(
        {
            "ours": timed(lambda: fresh(tokenizer).encode(text), megabytes),
            "tiktoken": timed(lambda: fast.encode_ordinary(text), megabytes),
        },
        n,
    )
    result: dict[str, Any] = {
        "machine": machine(),
        "training": {
            "seconds": {k: median([1 / x for x in v]) for k, v in training.items()},
            "ratio": ratio(training["ours"], training["tokenizers"]),
            "tokens": {"ours": a, "tokenizers": b},
        },
        "encoding": {
            "megabytes_per_second": {k: median(v) for k, v in encoding.items()},
            "ratio": ratio(encoding["ours"], encoding["tiktoken"]),
        },
    }
    seconds = result["training"]["seconds"]
    speed = result["encoding"]["megabytes_per_second"]
    result["rows"] = [
        row(
            "tokenizer, training on the handbook, against tokenizers",
            "",
            f"{seconds['ours']:.2f} s against {seconds['tokenizers']:.2f} s: "
            + span(result["training"]["ratio"]),
        ),
        row(
            "tokenizer, encoding, against tiktoken",
            "",
            f"{speed['ours']:.2f} MB/s against {speed['tiktoken']:.2f} MB/s: "
            + span(result["encoding"]["ratio"]),
        ),
    ]
    print_rows(result["rows"])
    save("tokenizer", result, args.quick)


if __name__ == "__main__":
    main()
