"""Texts by name, file, folder or glob: found, fetched and read.

Two texts ship with the course, two are downloaded on first use and verified; any
UTF-8 text file, folder or glob will do as well. Loads no torch, so that processes which
only cut texts into tokens stay small. What it leaves out: everything after the text
(see `tokenizer` and `dataset`).
"""

import json
from dataclasses import dataclass
from glob import glob, has_magic
from os.path import expanduser
from pathlib import Path

from tqdm import tqdm

from tinygpt.errors import UserError
from tinygpt.files import shipped

Chat = list[dict[str, str]]  # messages, each with "role" and "content"

TEXT_SUFFIXES = {".txt", ".md", ".jsonl"}


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
        name="support-chats",
        filename="support_chats.jsonl",
        bytes=166_267,
        sha256="e2eb5b506a8bf08041f8888000a6b6648e8d3ca377c1fc7040745381165cd0c5",
        licence="CC0-1.0",
        what="537 conversations with a shop's support, for fine-tuning",
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
)
CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in _ALL}


def fetch(corpus: Corpus, timeout: float = 20.0, retries: int = 2) -> Path:
    """Path of a downloadable corpus in the user's cache, downloaded if need be.

    The cache is `pooch.os_cache("tinygpt")`, or the folder that the environment
    variable TINYGPT_CACHE names. A file that lies there already, put by hand or by an
    earlier run, is used if its sha256 is right and replaced otherwise. pooch writes to
    a temporary file, verifies it and renames it, so that nothing half-written stays;
    it waits 1 s before the first retry, 2 s before the second. `timeout` is the longest
    silence of the server in seconds. Raises `UserError` with the reason and what to do.
    """
    # Loaded here: few need them, and pooch's tqdm.auto warns in notebooks.
    import pooch
    import requests

    assert corpus.url is not None, f"{corpus.name} ships with the course"
    url, size = corpus.url, corpus.bytes

    def download(url: str, part: str, _: object) -> None:
        with (
            requests.get(url, stream=True, timeout=timeout) as response,
            Path(part).open("wb") as file,
            tqdm(total=size, unit="B", unit_scale=True, desc=corpus.name) as bar,
        ):
            response.raise_for_status()
            for chunk in response.iter_content(chunk_size=2**14):
                bar.update(file.write(chunk))
                if file.tell() > size:  # not our file: no need to see its end
                    break

    cache = pooch.create(
        path=pooch.os_cache("tinygpt"),
        base_url="",
        registry={corpus.filename: corpus.sha256},
        urls={corpus.filename: url},
        env="TINYGPT_CACHE",
        retry_if_failed=retries,
    )
    path = cache.abspath / corpus.filename
    try:
        return Path(cache.fetch(corpus.filename, downloader=download))
    except (OSError, ValueError) as error:
        reason = _why(error, corpus, timeout)
        if path.exists():
            reason += "; the file that is there has another sha256"
        raise UserError(
            f"{corpus.name} could not be downloaded from {url} ({reason}): try again, "
            f"put the file by hand at {path}, or use --data handbook, which needs "
            "no network."
        ) from error


def _why(error: OSError | ValueError, corpus: Corpus, timeout: float) -> str:
    """The reason of a failed download in a learner's words."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answered {error.response.status_code}"
    # A stall in the middle of the body comes as a ConnectionError, not as a Timeout.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return f"the server was silent for {timeout:g} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off half-way"
    if isinstance(error, requests.RequestException):
        return f"no connection to the server, {type(error).__name__}"
    if isinstance(error, ValueError):  # pooch's word for a wrong checksum
        return f"what came is not {corpus.bytes:,} bytes with sha256 {corpus.sha256}"
    return f"{error}; TINYGPT_CACHE names another folder"


def load_text(name_or_path: str) -> str:
    r"""The text of a corpus by name, of a file, of a folder, or of a glob of files.

    A folder gives all its .txt, .md and .jsonl files, also those in folders below,
    sorted by path; several files are joined by a newline. A .jsonl file of chat
    `messages` becomes plain text, a message per line, a blank line between chats:
    "User: Can I pay later?\nAssistant: Yes, within 30 days.\n".

    Raises `UserError` for an unknown name, a missing, unreadable, empty or binary file.
    """
    try:
        text = "\n".join(read(path) for path in find(name_or_path))
    except OSError as error:
        raise UserError(f"Cannot read the text ({error}): check its path.") from error
    if not text.strip():
        raise UserError(f"{name_or_path} is empty: give a file with text in it.")
    return text


def find(name: str) -> list[Path]:
    """The files behind a corpus's name, a path, a folder or a glob, sorted.

    Raises:
        UserError: there is none, or a corpus cannot be downloaded (see `fetch`).
    """
    if corpus := CORPORA.get(name):
        return [fetch(corpus) if corpus.url else shipped(corpus.filename)]
    # Unlike pathlib's own, expanduser and glob take whatever a reader may type.
    path = Path(expanduser(name))  # noqa: PTH111
    if path.is_file():
        return [path]
    if name and path.is_dir():
        found = [p for p in path.rglob("*") if p.suffix.lower() in TEXT_SUFFIXES]
    elif has_magic(name):
        found = [Path(p) for p in glob(str(path), recursive=True)]  # noqa: PTH207
    else:
        raise UserError(
            f"There is no corpus, file or folder named {name!r}: give a path or one of "
            f"{', '.join(CORPORA)}."
        )
    files = sorted(p for p in found if p.is_file())
    if not files:
        kinds = "text files (.txt, .md, .jsonl)" if path.is_dir() else "matching files"
        raise UserError(f"{name} holds no {kinds}: check the path.")
    return files


def holds_chats(name: str) -> bool:
    """Whether a corpus's name or a path means conversations, not a running text."""
    corpus = CORPORA.get(name)
    return (corpus.filename if corpus else name).endswith(".jsonl")


def load_chats(name_or_path: str) -> list[Chat]:
    """The conversations of a corpus by name or of a .jsonl file, in order.

    Each line is one object {"messages": [{"role": "user", "content": "Hello"}, ...]}.
    Raises `UserError` for a missing or empty file and for a line that is no chat.
    """
    try:
        paths = find(name_or_path)
        chats = [chat for path in paths for chat in _parse_chats(_decode(path), path)]
    except OSError as error:
        raise UserError(f"Cannot read the chats ({error}): check the path.") from error
    if not chats:
        raise UserError(f"{name_or_path} is empty: give a file with chats in it.")
    return chats


def read(path: Path, begin: int = 0, end: int | None = None) -> str:
    """The text of one file, or of a part of it, from byte `begin` to before `end`.

    Chats become a message per line with a blank line between them; a part of them must
    begin and end where a line does, and what follows must hold a chat.

    Raises:
        OSError: the file cannot be read.
        UserError: it is not UTF-8 text, or a line of a .jsonl file is no chat.
    """
    text = _decode(path, begin, end)
    if path.suffix.lower() != ".jsonl":
        return text
    chats = [
        "".join(f"{said['role'].capitalize()}: {said['content']}\n" for said in chat)
        for chat in _parse_chats(text, path, begin)
    ]
    return "\n".join([*chats, ""] if end and chats else chats)


def _decode(path: Path, begin: int = 0, end: int | None = None) -> str:
    """The text of one file, without a byte-order mark, line ends as they are."""
    with path.open("rb") as file:
        file.seek(begin)
        raw = file.read() if end is None else file.read(end - begin)
    try:
        text = raw.decode("utf-8")
        at = raw.find(b"\0")
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        raise UserError(
            f"{path} is not UTF-8 text (byte {raw[at]:#04x} at offset {begin + at}): "
            "save it as UTF-8 or give another file."
        )
    return text if begin else text.removeprefix("\ufeff")


def _parse_chats(jsonl: str, path: Path, begin: int = 0) -> list[Chat]:
    """Chats, one JSON object with `messages` per line; white space is folded.

    `begin` is where in the file `jsonl` begins, for the complaint about a bad line.
    """
    chats: list[Chat] = []
    after = f" after byte {begin}" if begin else ""
    # Not splitlines(): U+2028 and its like may stand unescaped in a JSON string.
    for number, line in enumerate(jsonl.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            chat = [
                {"role": said["role"], "content": " ".join(said["content"].split())}
                for said in json.loads(line)["messages"]
            ]
            # An escaped lone surrogate is not text, a role that is no word is no role.
            "".join(said["role"] + said["content"] for said in chat).encode("utf-8")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path} line {number}{after} is not a chat like "
                '{"messages": [{"role": "user", "content": "Hello"}]}: mend the line '
                "or give a .txt file."
            ) from error
        chats.append(chat)
    return chats
