"""Documents: the stories, chats or files that a text is made of, and their split.

A text file may hold several, with a line `<|endoftext|>` after each; every line of a
.jsonl file is one; so is every file of a folder. In a stream of tokens each is followed
by the special token `<|endoftext|>`. What it leaves out: finding and decoding files
(see `corpora`), batches (see `dataset`).
"""

from collections.abc import Sequence
from itertools import accumulate
from os.path import expanduser
from pathlib import Path

import regex

from tinygpt.errors import UserError
from tinygpt.files import exists
from tinygpt.text.bpe import END_OF_TEXT
from tinygpt.text.corpora import find_to_read, is_jsonl, read, read_each, read_lines
from tinygpt.text.tokenizer import Tokenizer

SEPARATOR = regex.compile(rf"^{regex.escape(END_OF_TEXT)}[ \t]*(?:\r?\n|\Z)", regex.M)
MOST_VALIDATION = 4_000_000  # characters; more would take longer than they tell
LONG = 0.05  # of the text: a document so long is cut, not left on one side


def load_documents(name_or_path: str) -> list[str]:
    r"""The documents of a corpus by name, of a file, of a folder, or of a glob.

    A line `<|endoftext|>` ends a document and belongs to none: "One.\n<|endoftext|>\n
    Two.\n" holds "One.\n" and "Two.\n". White space alone is no document.

    Raises:
        UserError: as `corpora.load_text`.
    """
    each = read_each(find_to_read(name_or_path), _documents_of)
    documents = [document for part in each for document in part if document.strip()]
    if not documents:
        raise UserError(f"{name_or_path} is empty: give a file with text in it.")
    return documents


def _documents_of(path: Path) -> list[str]:
    return read_lines(path) if is_jsonl(path) else SEPARATOR.split(read(path))


def split_documents(
    documents: Sequence[str], train_fraction: float = 0.9
) -> tuple[list[str], list[str]]:
    """The documents to train on, and those to validate on.

    The first 90 % of the characters train (more of a text so large that more than four
    million would validate). The document in which the cut falls trains as a whole, so
    that nothing of it is met again in validation; only a document that makes up more
    than a twentieth of the text is cut itself. No tokenizer has a say in this, so that
    models with different ones are validated on the same text.

    >>> split_documents(["abcdefghij"])
    (['abcdefghi'], ['j'])
    """
    ends = list(accumulate(len(document) for document in documents))
    cut = max(int(train_fraction * ends[-1]), ends[-1] - MOST_VALIDATION)
    i = next(i for i, end in enumerate(ends) if end > cut)
    inside = cut - (ends[i] - len(documents[i]))  # characters of document i before it
    if len(documents[i]) > LONG * ends[-1]:
        head, tail = documents[i][:inside], documents[i][inside:]
        train, val = [*documents[:i], head], [tail, *documents[i + 1 :]]
    else:
        last = len(documents) - 1  # which validates in any case
        train, val = list(documents[: min(i + 1, last)]), list(documents[i + 1 :])
        val = val or [documents[last]]
    return [part for part in train if part], val


def split_text(name: str) -> tuple[list[str], list[str]]:
    """The documents of a text to train on, and those to validate on.

    Several texts with commas between their names ("stories,handbook") are split each by
    itself, so that all of them are trained on and validated on; one that is named twice
    trains twice.

    Raises:
        UserError: as `load_documents`.
    """
    train: list[str] = []
    val: list[str] = []
    path = Path(expanduser(name))  # noqa: PTH111 - Path.expanduser raises RuntimeError
    for part in [name] if exists(path) else name.split(","):
        to_train, to_validate = split_documents(load_documents(part))
        train += to_train
        val += to_validate
    return train, val


def encode_documents(
    documents: Sequence[str], tokenizer: Tokenizer, separate: bool = True
) -> list[int]:
    """The ids of all documents, one after the other.

    Args:
        documents: `<|endoftext|>` inside them is text like any other.
        tokenizer: one that has `<|endoftext|>`, or documents run into each other.
        separate: end each document with the id of `<|endoftext|>`.
    """
    encode, ids = tokenizer.fast_encoder(), list[int]()
    end = tokenizer.end_of_text if separate else None
    for document in documents:
        ids += encode(document)
        if end is not None:
            ids.append(end)
    return ids
