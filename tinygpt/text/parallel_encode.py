"""A text of any size cut into tokens by several processes, piece by piece.

The pieces' ids, one after the other, are exactly the ids that `Tokenizer.encode` gives
for the whole text; memory does not grow with the text. Loads no torch, to keep the
processes small. What it leaves out: where the ids go (see `token_file`).
"""

import re
import signal
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinygpt.errors import UserError
from tinygpt.text.corpora import read
from tinygpt.text.tokenizer import Tokenizer

PIECE = 1 << 20  # bytes of text that a process cuts at a time

# --- Pieces of the text ------------------------------------------------------------

# After a line end no known pattern goes on with a word of the line before, unless the
# new line starts with white space (also beyond ASCII: U+00A0, U+3000, ...) or a slash.
_START = rb"(?:[!-.0-~\xc3-\xdf\xe4-\xf4]|\xe3[\x81-\xbf])"
_LINE = re.compile(rb"\n(?=" + _START + rb")")
_MARK = rb"\xef\xbb\xbf"  # a byte-order mark, dropped at the start of a file
_FIRST = re.compile(rb"(?:" + _MARK + rb"|(?!" + _MARK + rb"))" + _START)
# Where lines have no end: a space between a letter or digit and a letter.
_SPACE = re.compile(rb"(?<=[A-Za-z0-9])(?= [A-Za-z])")
_WINDOW = 1 << 16


class Piece(NamedTuple):
    """Some of the text, which can be cut into tokens by itself."""

    parts: list[tuple[Path, int, int | None]]
    """File, first byte, and the byte after the last; None is the end of the file."""
    joint: str
    """What stands between the last part and the next file."""
    context: str
    """How the text goes on: white space is cut otherwise before a word than at the end
    of a text. Its tokens are dropped again."""
    reached: tuple[int, int]
    """File and byte that come next."""
    size: int
    """Bytes of the files."""


def pieces(files: list[Path], index: int = 0, begin: int = 0) -> Iterator[Piece]:
    """The texts joined by newlines, as `load_text` joins them.

    From byte `begin` of file `index` onwards, which an earlier piece has `reached`.
    """
    parts: list[tuple[Path, int, int | None]] = []
    held = 0  # bytes of `parts`
    while index < len(files):
        size = files[index].stat().st_size
        while cut := _cut(files[index], max(begin, begin + PIECE - held), size):
            end, context = cut
            parts.append((files[index], begin, end))
            yield Piece(parts, "", context, (index, end), held + end - begin)
            parts, held, begin = [], 0, end
        parts.append((files[index], begin, None))
        held, index, begin = held + size - begin, index + 1, 0
        if index == len(files):
            yield Piece(parts, "", "", (index, 0), held)
        elif held >= PIECE and _FIRST.match(_first_bytes(files[index])):
            yield Piece(parts, "\n", "x", (index, 0), held)
            parts, held = [], 0


def _cut(path: Path, at: int, size: int) -> tuple[int, str] | None:
    """The first place from `at` on where the text can be cut, and its context."""
    if at >= size:
        return None
    is_text = path.suffix.lower() != ".jsonl"  # there, a line is a chat
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            window = file.read(_WINDOW)
            if found := _LINE.search(window):
                return at + found.end(), "x"
            if is_text and (found := _SPACE.search(window)):
                return at + found.end(), " x"
            at += max(1, len(window) - 4)  # what is searched for has up to 4 bytes
    return None


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)


def insist_on_lines(tokenizer: Tokenizer) -> None:
    """Raise a UserError if the tokenizer's words reach over the places of `pieces`."""
    befores = ("a", "A1", "it's", "?!", " ", "\t ", "\r", "\n \n", "\u3000", "\u6f22.")
    afters = ("a", "Abc", "12", "'s", "-", "\u00e9", "\u6f22", "\u301c", "\U0001f600")
    places = [(before + "\n", "x", after) for before in befores for after in afters]
    places += [(a, " x", f" {b}") for a in ("a", "Z", "9", "it's") for b in ("a", "Bc")]
    encode = tokenizer.encode
    for before, context, after in places:
        ids = encode(before + context)[: -len(encode(context))]
        if ids + encode(after) != encode(before + after):
            raise UserError(
                f"the pattern of the tokenizer {tokenizer.name} makes words that cross "
                "lines, so a text cannot be cut up for it: train on the text itself"
            )


# --- Cutting them into tokens ------------------------------------------------------

# tiktoken's stack overflows in white space from some 10^6 characters on; ours does not.
# A run of twice this length holds a whole block of it.
_BLOCK = 50_000


class _Encoder:
    """Piece -> its ids as bytes, their number, the bytes of its text."""

    def __init__(self, tokenizer: Tokenizer, dtype: str) -> None:
        self.slow, self.fast = tokenizer.encode, tokenizer.to_tiktoken().encode_ordinary
        self.dtype = np.dtype(dtype).newbyteorder("<")

    def __call__(self, piece: Piece) -> tuple[bytes, int, int]:
        try:
            text = "\n".join(read(*part) for part in piece.parts) + piece.joint
        except OSError as error:
            raise UserError(
                f"cannot read the text ({error}): check its path"
            ) from error
        blocks = (text[i : i + _BLOCK] for i in range(0, len(text), _BLOCK))
        encode = self.slow if any(map(str.isspace, blocks)) else self.fast
        ids = encode(text + piece.context)
        n = len(ids) - len(encode(piece.context))
        return np.array(ids[:n], self.dtype).tobytes(), n, len(text.encode())


def _work(calls: Connection, encoder: tuple[Tokenizer, str]) -> None:
    """A process of its own: answer every piece, until the caller is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller gets it, too, and ends us
    encode = _Encoder(*encoder)
    while True:
        try:
            piece = calls.recv()
        except EOFError:
            return
        try:
            calls.send(encode(piece))
        except UserError as error:
            calls.send(error)


@contextmanager
def _processes(encoder: tuple[Tokenizer, str], n: int) -> Iterator[list[Connection]]:
    """Lines to `n` processes; they end when the lines are closed, or we are killed."""
    context = get_context("spawn")  # fork would copy the locks of our threads
    with ExitStack() as stack:
        lines = []
        for _ in range(n):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(theirs, encoder), daemon=True)
            worker.start()
            theirs.close()
            stack.callback(worker.join)
            lines.append(ours)
        for line in lines:  # closed before the first join: callbacks run backwards
            stack.callback(line.close)
        yield lines


def encoded(
    todo: Iterator[Piece], encoder: tuple[Tokenizer, str], workers: int
) -> Generator[tuple[Piece, tuple[bytes, int, int]], None, None]:
    """Every piece in order, with its ids as bytes, their number, its bytes of text.

    `encoder` is the tokenizer and the ids' type, such as "uint16"; at most two pieces
    wait per process.

    Raises:
        UserError: the text cannot be read, or a process has ended.
    """
    if workers == 1:
        encode = _Encoder(*encoder)
        yield from ((piece, encode(piece)) for piece in todo)
        return
    with _processes(encoder, workers) as lines:
        waiting: deque[tuple[Connection, Piece]] = deque()
        try:
            for line, piece in zip(cycle(lines), todo):
                line.send(piece)
                waiting.append((line, piece))
                if len(waiting) == 2 * workers:
                    line, piece = waiting.popleft()
                    yield piece, _answer(line)
            for line, piece in waiting:
                yield piece, _answer(line)
        except (EOFError, ConnectionError) as error:
            raise UserError(
                "a process that cuts the text has ended, maybe for want of memory: "
                "give the same command again to go on, with fewer --workers"
            ) from error


def _answer(line: Connection) -> tuple[bytes, int, int]:
    answer: Any = line.recv()
    if isinstance(answer, UserError):
        raise answer
    return answer
