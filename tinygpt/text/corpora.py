"""Texts by name, file, folder or glob: found, downloaded and read.

Some texts ship with the course, some are downloaded on first use and verified; any
UTF-8 text file, folder or glob will do as well. Does not import torch, so that
processes that only encode texts stay small. What it leaves out: everything after the
text (see `tokenizer` and `dataset`).
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import has_magic
from os.path import expanduser
from pathlib import Path
from typing import TypeVar

from tinygpt.errors import UserError
from tinygpt.files import shipped, why
from tinygpt.text.downloads import download
from tinygpt.text.jsonl import Conversation, parse_chats, parse_lines, plain_text

TEXT_SUFFIXES = {".txt", ".md", ".jsonl"}
T = TypeVar("T")
MOST_TO_READ = 500_000_000  # bytes: in memory, as text and as ids, about ten times that


@dataclass(frozen=True)
class Corpus:
    """A text known by name; with a `url` it is downloaded, without one it ships."""

    name: str
    filename: str
    bytes: int
    sha256: str
    licence: str
    what: str
    url: str | None = None


_ALL = (
    Corpus(
        name="handbook",
        filename="sales_handbook.txt",
        bytes=483_192,
        sha256="ac8439fc0a4c1632897c1bbec9db85b786ffa97c2a620e9b52ba14a008926cc5",
        licence="CC0-1.0",
        what="a handbook on selling, written for this course: the default",
    ),
    Corpus(
        name="stories",
        filename="stories.txt",
        bytes=2_747_314,
        sha256="c5eecd71feba57cc9fec7ca1188b756396448fc486b20f00182cd4fb698b50db",
        licence="CC0-1.0",
        what="3,473 very short stories in simple words, written for this course",
    ),
    Corpus(
        name="support-chats",
        filename="support_chats.jsonl",
        bytes=166_267,
        sha256="e2eb5b506a8bf08041f8888000a6b6648e8d3ca377c1fc7040745381165cd0c5",
        licence="CC0-1.0",
        what="537 conversations with a shop's support, for fine-tuning",
    ),
    Corpus(
        name="shop-chats",
        filename="shop_chats.jsonl",
        bytes=1_381_765,
        sha256="d9935ba5badacde06f093e312fc32520e7ac152c6032f55272e66cd4754e8246",
        licence="CC0-1.0",
        what="4,232 conversations with the support of one shop, with order numbers",
    ),
    Corpus(
        name="sales-textbook",
        filename="sales_textbook.txt",
        bytes=460_319,
        sha256="1994f20f5becd3f0b3d7a632e5a68513cc38cf6c9737a9f38243f1b652e962da",
        licence="not shipped: see the data set's page",
        what="a textbook on selling, from Hugging Face",
        url="https://huggingface.co/datasets/goendalf666/sales-textbook_for_convincing"
        "_and_selling/raw/main/sales_textbook.txt",
    ),
    Corpus(
        name="tiny-shakespeare",
        filename="tiny_shakespeare.txt",
        bytes=1_115_394,
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        licence="not shipped: the plays are in the public domain",
        what="40,000 lines of Shakespeare, the classic of small models",
        url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/"
        "tinyshakespeare/input.txt",
    ),
    Corpus(
        name="tinystories",
        filename="tinystories.txt",
        bytes=19_447_282,
        sha256="94e431816c4cce81ff71e4408ff8d3bda9a42e8d2663986697c3954288cb38b4",
        licence="not shipped: CDLA-Sharing-1.0",
        what="22,000 short stories written by GPT-4, from Hugging Face",
        url="https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/"
        "TinyStories-valid.txt",
    ),
)
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ALL}


def fetch(corpus: Corpus, timeout: float = 20.0, retries: int = 2) -> Path:
    """Path of a downloadable corpus in the user's cache, downloaded if need be.

    Raises:
        UserError: the download failed (see `downloads.download`).
    """
    assert corpus.url is not None, f"{corpus.name} ships with the course"
    return download(
        corpus.url,
        corpus.filename,
        size=corpus.bytes,
        sha256=corpus.sha256,
        name=corpus.name,
        timeout=timeout,
        retries=retries,
    )


def load_text(name_or_path: str) -> str:
    r"""The text of a corpus by name, of a file, of a folder, or of a glob of files.

    A folder gives all its .txt, .md and .jsonl files, also those in folders below,
    sorted by path; several files are joined by a newline. A .jsonl file becomes plain
    text, with a blank line between two of its documents (see `read_lines`):
    "User: Can I pay later?\nAssistant: Yes, within 30 days.\n".

    Raises:
        UserError: the name is unknown, or a file is missing, unreadable, empty or
            binary (all such files are named), or together they are too large to be
            read into memory.
    """
    text = "\n".join(read_each(find_to_read(name_or_path), read))
    if not text.strip():
        raise UserError(f"{name_or_path} is empty: give a file with text in it.")
    return text


def find(name: str) -> list[Path]:
    """The files that a corpus's name, a path, a folder or a glob stands for, sorted.

    Raises:
        UserError: there is none, a folder cannot be read, or a corpus cannot be
            downloaded (see `fetch`).
    """
    if corpus := CORPORA.get(name):
        return [fetch(corpus) if corpus.url else shipped(corpus.filename)]
    path = Path(expanduser(name))  # noqa: PTH111 - Path.expanduser raises RuntimeError
    try:
        files = sorted(p for p in _candidates(name, path) if p.is_file())
    except OSError as error:
        raise _unreadable(path, error) from error
    if not files:
        kinds = "text files (.txt, .md, .jsonl)" if path.is_dir() else "matching files"
        raise UserError(f"{name} holds no {kinds}: check the path.")
    return files


def find_to_read(name: str) -> list[Path]:
    """As `find`, for files that are read whole.

    Raises:
        UserError: as `find`, or they have more than half a gigabyte together.
    """
    files = find(name)
    size = sum(path.stat().st_size for path in files)
    if size > MOST_TO_READ:
        raise UserError(
            f"{name} is too large to be read whole ({size / 1e6:,.0f} MB, more than "
            f"{MOST_TO_READ / 1e6:,.0f}): make a token file of it with `tinygpt data "
            "prepare`, and train on that."
        )
    return files


def _candidates(name: str, path: Path) -> list[Path]:
    """Files, and perhaps folders, that may be meant."""
    if path.is_file():
        return [path]
    if name and path.is_dir():
        return [p for p in _walk(path) if p.suffix.lower() in TEXT_SUFFIXES]
    if has_magic(name):
        return _glob(path)
    if name and "\0" not in name and os.path.lexists(path):
        path.stat()  # raises if it is a loop of links, or a link to nothing
        raise UserError(f"{name} is neither a file nor a folder: give another path.")
    raise UserError(
        f"There is no corpus, file or folder named {name!r}: give a path or one of "
        f"{', '.join(CORPORA)}."
    )


def _raise(error: OSError) -> None:
    raise error


def _walk(folder: Path) -> list[Path]:
    """All files below a folder. Path.rglob would skip folders that cannot be read."""
    return [
        Path(above) / name
        for above, _, names in os.walk(folder, onerror=_raise)
        for name in names
    ]


def _glob(path: Path) -> list[Path]:
    """What matches a pattern, hidden files left out unless the pattern names them.

    pathlib's glob does not follow links to folders, which may lead in a circle.
    """
    fixed = Path(path.anchor)
    parts = list(path.relative_to(fixed).parts)
    while parts and not has_magic(parts[0]):
        fixed /= parts.pop(0)
    if parts[-1:] == ["**"]:
        parts.append("*")  # before Python 3.13 pathlib's "**" matches folders only
    if fixed.is_dir():
        os.listdir(fixed)  # noqa: PTH208 - raises, where glob finds nothing
    hidden = any(part.startswith(".") for part in parts)
    try:
        found = list(fixed.glob("/".join(parts)))
    except ValueError as error:
        raise UserError(f"{path} is not a pattern for files ({error}).") from error
    return [
        p
        for p in found
        if hidden
        or not any(part.startswith(".") for part in p.relative_to(fixed).parts)
    ]


class UnreadableError(UserError):
    """A file has no text that can be read; `reason` says why in a few words."""

    reason: str


def read_each(paths: Sequence[Path], read: Callable[[Path], T]) -> list[T]:
    """What `read` makes of each file.

    Raises:
        UserError: files cannot be read; all of them are named.
    """
    contents, refused = list[T](), dict[Path, UnreadableError]()
    for path in paths:
        try:
            contents.append(read(path))
        except UnreadableError as error:
            refused[path] = error
    if len(refused) == 1:
        raise refused.popitem()[1]
    if refused:
        named = ", ".join(f"{path} ({error.reason})" for path, error in refused.items())
        raise UserError(
            f"{len(refused)} of {len(paths)} files cannot be read: {named}: save them "
            "as UTF-8, or take them out."
        )
    return contents


def _unreadable(path: Path, error: OSError) -> UnreadableError:
    at = str(error.filename or path)
    found = UnreadableError(f"cannot read {at[:300]!r} ({why(error)}): check the path")
    found.reason = why(error)
    return found


def holds_chats(name: str) -> bool:
    """Whether a corpus's name or a path means conversations, not running text."""
    corpus = CORPORA.get(name)
    return (corpus.filename if corpus else name).endswith(".jsonl")


def load_chats(name_or_path: str) -> list[Conversation]:
    """The conversations of a corpus by name or of .jsonl files, in order.

    Each line is one object {"messages": [{"role": "user", "content": "Hello"}, ...]}.

    Raises:
        UserError: a file is missing, unreadable or empty, or a line is not a chat.
    """
    paths = find(name_or_path)
    each = read_each(paths, lambda path: parse_chats(_decode(path), path))
    chats = [chat for chats in each for chat in chats]
    if not chats:
        raise UserError(f"{name_or_path} is empty: give a file with chats in it.")
    return chats


def read(path: Path, begin: int = 0, end: int | None = None) -> str:
    """The text of one file, or of a part of it, from byte `begin` to before `end`.

    The documents of a .jsonl file have a blank line between them; a part of it must
    begin and end where a line does, and what follows must hold a document.

    Raises:
        UserError: the file cannot be read, is not UTF-8 text, or a line of a .jsonl
            file is not a chat.
    """
    if not is_jsonl(path):
        return _decode(path, begin, end)
    documents = read_lines(path, begin, end)
    return "\n".join([*documents, ""] if end and documents else documents)


def is_jsonl(path: Path) -> bool:
    """Whether every line of the file is a JSON object: a chat or a text."""
    return path.suffix.lower() == ".jsonl"


def read_lines(path: Path, begin: int = 0, end: int | None = None) -> list[str]:
    """The documents of a .jsonl file, one a line, each with a newline at its end.

    A chat becomes a message per line, {"text": "Once ..."} that text.

    Raises:
        UserError: as `read`.
    """
    entries = parse_lines(_decode(path, begin, end), path, begin)
    return [plain_text(entry) for entry in entries]


def _decode(path: Path, begin: int = 0, end: int | None = None) -> str:
    """The text of one file, without a byte-order mark, line ends as they are."""
    try:
        with path.open("rb") as file:
            file.seek(begin)
            raw = file.read() if end is None else file.read(end - begin)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        text = raw.decode("utf-8")
        at = raw.find(b"\0")
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        found = f"not UTF-8 text (byte {raw[at]:#04x} at offset {begin + at})"
        refused = UnreadableError(
            f"{path} is {found}: save it as UTF-8 or give another file."
        )
        refused.reason = found.replace(" (", ", ").rstrip(")")
        raise refused
    return text if begin else text.removeprefix("\ufeff")
