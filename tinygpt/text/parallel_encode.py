"""A text of any size encoded by several processes, piece by piece.

The ids of the pieces, concatenated, are exactly those that `encode_documents` gives for
the text's documents; memory does not grow with the text. Does not import torch, to keep
the workers small. What it leaves out: where the ids are stored (see `token_file`).
"""

import os
import re
import signal
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import numpy as np

from tinygpt.errors import UserError
from tinygpt.text.bpe import END_OF_TEXT
from tinygpt.text.corpora import is_jsonl, read, read_lines
from tinygpt.text.documents import SEPARATOR
from tinygpt.text.tokenizer import Tokenizer

PIECE = 1 << 20  # bytes of text that a worker encodes at a time

# --- Pieces of the text ------------------------------------------------------------

# No known pattern continues a word past a line end, unless the next line starts with
# white space (also beyond ASCII: U+00A0, U+3000, ...) or a slash.
_START = rb"(?:[!-.0-~\xc3-\xdf\xe4-\xf4]|\xe3[\x81-\xbf])"
# Before a line that ends a document white space stands at the end of a text.
_END = END_OF_TEXT.encode()
_LINE = re.compile(rb"\n(?!" + re.escape(_END) + rb")(?=" + _START + rb")")
# In a text without line ends: a space between a letter or digit and a letter.
_SPACE = re.compile(rb"(?<=[A-Za-z0-9])(?= [A-Za-z])")
_WINDOW = 1 << 16


class Piece(NamedTuple):
    """A part of the text that can be encoded by itself."""

    parts: list[tuple[Path, int, int | None]]
    """File, first byte, and the byte after the last; None is the end of the file."""
    context: str
    """How the last part continues in its file: white space before a word is split
    differently from white space at the end of a text. Its ids are dropped again."""
    reached: tuple[int, int]
    """File and byte that come next."""
    size: int
    """Bytes of the files."""


def pieces(files: list[Path], index: int = 0, begin: int = 0) -> Iterator[Piece]:
    """The text of all files, in order; of each, documents and parts of documents.

    Starts at byte `begin` of file `index`, which an earlier piece has `reached`.

    Raises:
        OSError: a file cannot be opened.
    """
    parts: list[tuple[Path, int, int | None]] = []
    held = 0  # bytes of `parts`
    while index < len(files):
        size = files[index].stat().st_size
        while cut := _cut(files[index], max(begin, begin + PIECE - held), size):
            end, context = cut
            parts.append((files[index], begin, end))
            yield Piece(parts, context, (index, end), held + end - begin)
            parts, held, begin = [], 0, end
        parts.append((files[index], begin, None))
        held, index, begin = held + size - begin, index + 1, 0
        if index == len(files) or held >= PIECE:
            yield Piece(parts, "", (index, 0), held)
            parts, held = [], 0


def _cut(path: Path, at: int, size: int) -> tuple[int, str] | None:
    """The first place from byte `at` on where the text can be cut, and its context."""
    if at >= size:
        return None
    is_text = not is_jsonl(path)  # there, a line is a document
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            window = file.read(_WINDOW)
            seen = len(window) - (len(_END) if at + len(window) < size else 0)
            if (found := _LINE.search(window)) and found.end() <= seen:
                return at + found.end(), "x"
            if is_text and (found := _SPACE.search(window)):
                return at + found.end(), " x"
            at += max(1, len(window) - len(_END) - 1)  # a match, seen to its end
    return None


def require_splittable(tokenizer: Tokenizer) -> None:
    """Check that no word of the tokenizer crosses a place where `pieces` cuts.

    Raises:
        UserError: one does.
    """
    befores = ("a", "A1", "it's", "?!", " ", "\t ", "\r", "\n \n", "\u3000", "\u6f22.")
    afters = ("a", "Abc", "12", "'s", "-", "\u00e9", "\u6f22", "\u301c", "\U0001f600")
    places = [(before + "\n", "x", after) for before in befores for after in afters]
    places += [(a, " x", f" {b}") for a in ("a", "Z", "9", "it's") for b in ("a", "Bc")]
    encode = tokenizer.encode
    for before, context, after in places:
        ids = encode(before + context)[: -len(encode(context))]
        if ids + encode(after) != encode(before + after):
            raise UserError(
                f"The pattern of the tokenizer {tokenizer.name!r} makes words that "
                "cross lines, so a text cannot be encoded piece by piece: train on the "
                "text itself."
            )


# --- Encoding ----------------------------------------------------------------------


class Encoded(NamedTuple):
    """What has become of a piece."""

    ids: bytes
    n_ids: int
    n_bytes: int
    """UTF-8 bytes of the text in documents."""
    n_documents: int
    """Documents that end here."""


class _Encoder:
    """Encodes a piece; every document that ends in it is followed by its token."""

    def __init__(self, tokenizer: Tokenizer, dtype: str) -> None:
        self.encode = tokenizer.fast_encoder()
        self.end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        self.dtype = np.dtype(dtype).newbyteorder("<")

    def __call__(self, piece: Piece) -> Encoded:
        *whole, last = [_documents(*part) for part in piece.parts]
        documents = [document for part in whole for document in part]
        rest = ""
        if piece.context:  # what follows is no white space, so this is no blank end
            *last, rest = last
        documents = [d for d in [*documents, *last] if d.strip()]
        ids = list[int]()
        for document in documents:
            ids += self.encode(document) + self.end
        if rest:
            dropped = len(self.encode(piece.context))
            ids += self.encode(rest + piece.context)[:-dropped]
        size = sum(len(text.encode()) for text in [*documents, rest])
        raw = np.array(ids, self.dtype).tobytes()
        return Encoded(raw, len(ids), size, len(documents))


def _documents(path: Path, begin: int, end: int | None) -> list[str]:
    """The documents of a part of a file, as `load_documents` finds them, blank or not.

    Where the part ends inside the file the last one is not complete, or empty.
    """
    if not is_jsonl(path):
        return SEPARATOR.split(read(path, begin, end))
    return read_lines(path, begin, end) + [""] * (end is not None)


_encoder: _Encoder  # a worker's own: set up once, not sent along with every piece


def _start_worker(tokenizer: Tokenizer, dtype: str) -> None:
    global _encoder
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, too
    Thread(target=_exit_with_parent, daemon=True).start()
    _encoder = _Encoder(tokenizer, dtype)


def _exit_with_parent() -> None:
    """End the worker if the parent is killed: the executor would leave it waiting."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(piece: Piece) -> Encoded:
    return _encoder(piece)


def encode_pieces(
    todo: Iterator[Piece], tokenizer: Tokenizer, dtype: str, workers: int
) -> Generator[tuple[Piece, Encoded], None, None]:
    """Every piece in order, with its ids.

    `dtype` is the ids' type, such as "uint16". At most two pieces per worker are in
    flight, so memory does not grow with the text; closing the generator ends the
    workers after the pieces they are at.

    Raises:
        UserError: the text cannot be read, or a worker has died.
    """
    if workers == 1:
        encode = _Encoder(tokenizer, dtype)
        yield from ((piece, encode(piece)) for piece in todo)
        return
    executor = ProcessPoolExecutor(
        workers,
        mp_context=get_context("spawn"),  # fork would copy the locks of our threads
        initializer=_start_worker,
        initargs=(tokenizer, dtype),
    )
    pending: deque[tuple[Piece, Future[Encoded]]] = deque()
    try:
        for piece in todo:
            pending.append((piece, executor.submit(_encode, piece)))
            if len(pending) == 2 * workers:
                first, future = pending.popleft()
                yield first, future.result()
        for first, future in pending:
            yield first, future.result()
    except BrokenProcessPool as error:
        raise UserError(
            "A process that encodes the text has died, perhaps out of memory: give the "
            "same command again to continue, with fewer --workers."
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)
