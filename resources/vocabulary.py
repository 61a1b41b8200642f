"""Learn the vocabulary of the shipped models, data/course-4k.tiktoken.

    python resources/vocabulary.py

4,096 entries from the training parts of the handbook, the stories and the shop's chats;
every digit is a token of its own, and the special tokens are the last ids. Seconds on a
CPU. What it leaves out: `handbook-4k`, which tests/text/test_tokenizer.py learns.

The shorter texts count several times, so that all three weigh about the same. Bytes per
token of each validation part, and in brackets how much a vocabulary learned from that
text alone does better:

    handbook 4.18 (2.0 %)   stories 3.80 (2.3 %)   chats 3.49 (1.2 %)

Counted once each, the longest text decides: 4.10 (4.1 %), 3.85 (0.9 %), 3.48 (1.6 %).
"""

from collections.abc import Sequence
from pathlib import Path

from tinygpt.files import shipped
from tinygpt.text.bpe import DIGITS_PATTERN, END_OF_TEXT
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.corpora import load_text
from tinygpt.text.tokenizer import COURSE_TOKENIZER, Tokenizer

DATA = Path(__file__).resolve().parent.parent / "data"
SPECIAL_TOKENS = (END_OF_TEXT, "<|user|>", "<|assistant|>", "<|end|>")


def training_parts() -> dict[str, list[str]]:
    """The documents of each text that no validation split holds."""
    handbook = load_text("handbook")
    end = len(handbook) * 9 // 10
    stories = shipped("stories.txt").read_text(encoding="utf-8").split(END_OF_TEXT)
    return {
        "handbook": [handbook[:end]],
        "stories": first_part(stories),
        "shop-chats": first_part(load_text("shop-chats").split("\n\n")),
    }


def first_part(documents: Sequence[str]) -> list[str]:
    """The first documents that are not blank, up to 90 % of their bytes."""
    whole = [document.strip("\n") for document in documents if document.strip()]
    left = 0.9 * sum(len(document.encode()) for document in whole)
    part = []
    for document in whole:
        left -= len(document.encode())
        if left < 0:
            break
        part.append(document)
    return part


def course_vocabulary() -> Tokenizer:
    """The vocabulary, learned again from the texts in data/."""
    parts = ["\n".join(part) for part in training_parts().values()]
    longest = max(map(len, parts))
    text = "\n".join(part for part in parts for _ in range(round(longest / len(part))))
    learned = train_bpe(text, 4096, DIGITS_PATTERN, SPECIAL_TOKENS)
    learned.name = COURSE_TOKENIZER
    return learned


if __name__ == "__main__":
    course_vocabulary().save(DATA / f"{COURSE_TOKENIZER}.tiktoken")
