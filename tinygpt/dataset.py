"""From a text to batches: the corpora by name, the split, windows of token ids.

Two texts ship with the course, two are downloaded on first use and verified; any
UTF-8 text file, folder or glob will do as well. Left out: turning text into ids (the
tokenizer's work) and moving batches to a device (the trainer's).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from os.path import expanduser
from pathlib import Path

import numpy as np
import requests
import torch
from jaxtyping import Int, Integer
from torch import Tensor
from tqdm import tqdm

from tinygpt.errors import UserError

# Ids in memory, or a memory-mapped array of uint16 or uint32 ids on disk.
Tokens = Int[Tensor, " N"] | Integer[np.ndarray, " N"]
Batch = tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]

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


def shipped(filename: str) -> Path:
    """Path of a file of the course, beside the package or in it, else `UserError`."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "data", here / "_data"):
        if (folder / filename).is_file():
            return folder / filename
    raise UserError(f"data/{filename} is missing from this copy: clone it again.")


def fetch(corpus: Corpus, timeout: float = 20.0, retries: int = 2) -> Path:
    """Path of a downloadable corpus in the user's cache, downloaded if need be.

    The cache is `pooch.os_cache("tinygpt")`, or the folder that the environment
    variable TINYGPT_CACHE names. A file that lies there already, put by hand or by an
    earlier run, is used if its sha256 is right and replaced otherwise. pooch writes to
    a temporary file, verifies it and renames it, so that nothing half-written stays;
    it waits 1 s before the first retry, 2 s before the second. `timeout` is the longest
    silence of the server in seconds. Raises `UserError` with the reason and what to do.
    """
    import pooch  # its tqdm.auto warns in every notebook without ipywidgets

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
            f"put the file by hand at {path}, or use --dataset handbook, which needs "
            "no network."
        ) from error


def _why(error: OSError | ValueError, corpus: Corpus, timeout: float) -> str:
    """The reason of a failed download in a learner's words."""
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
        if corpus := CORPORA.get(name_or_path):
            paths = [fetch(corpus) if corpus.url else shipped(corpus.filename)]
        else:
            paths = _find(name_or_path)
        text = "\n".join(_read(path) for path in paths)
    except OSError as error:
        raise UserError(f"Cannot read the text ({error}): check its path.") from error
    if not text.strip():
        raise UserError(f"{name_or_path} is empty: give a file with text in it.")
    return text


def _find(name: str) -> list[Path]:
    """The files behind a path, a folder or a glob, sorted."""
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


def load_chats(name_or_path: str) -> list[Chat]:
    """The conversations of a corpus by name or of a .jsonl file, in order.

    Each line is one object {"messages": [{"role": "user", "content": "Hello"}, ...]}.
    Raises `UserError` for a missing or empty file and for a line that is no chat.
    """
    corpus = CORPORA.get(name_or_path)
    paths = [shipped(corpus.filename)] if corpus else _find(name_or_path)
    try:
        chats = [chat for path in paths for chat in _parse_chats(_decode(path), path)]
    except OSError as error:
        raise UserError(f"Cannot read the chats ({error}): check the path.") from error
    if not chats:
        raise UserError(f"{name_or_path} is empty: give a file with chats in it.")
    return chats


def _read(path: Path) -> str:
    """The text of one file; chats as a message per line, a blank line between them."""
    text = _decode(path)
    if path.suffix.lower() != ".jsonl":
        return text
    return "\n".join(
        "".join(f"{said['role'].capitalize()}: {said['content']}\n" for said in chat)
        for chat in _parse_chats(text, path)
    )


def _decode(path: Path) -> str:
    """The text of one file, without a byte-order mark, line ends as they are."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
        at = raw.find(b"\0")
    except UnicodeDecodeError as error:
        at = error.start
    if at >= 0:
        raise UserError(
            f"{path} is not UTF-8 text (byte {raw[at]:#04x} at offset {at}): save it "
            "as UTF-8 or give another file."
        )
    return text


def _parse_chats(jsonl: str, path: Path) -> list[Chat]:
    """Chats, one JSON object with `messages` per line; white space is folded."""
    chats: list[Chat] = []
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
                f'{path} line {number} is not a chat like {{"messages": [{{"role": '
                '"user", "content": "Hello"}]}: mend the line or give a .txt file.'
            ) from error
        chats.append(chat)
    return chats


def split_tokens(
    ids: Sequence[int] | Tokens, context_length: int, train_fraction: float = 0.9
) -> tuple[Int[Tensor, " N_train"], Int[Tensor, " N_val"]]:
    """The first part of the ids to train on, the rest to validate.

    The cut falls at `int(train_fraction * N)`: of 50 ids, 45 train and 5 validate.
    Raises `UserError` when a part is shorter than one window, context_length + 1 ids.
    """
    if not 0 < train_fraction < 1:
        raise UserError(f"train_fraction is {train_fraction}: give one in (0, 1).")
    tokens = torch.from_numpy(np.asarray(ids).astype(np.int64))
    cut = int(train_fraction * len(tokens))
    train, val = tokens[:cut], tokens[cut:]
    shorter = min(len(train), len(val))
    if shorter < context_length + 1:
        raise UserError(
            f"The text is too short: of its {len(tokens)} tokens {len(train)} train "
            f"and {len(val)} validate, but each part needs context_length + 1 = "
            f"{context_length + 1}; give a longer text or a shorter context_length"
            + (f" (at most {shorter - 1})." if shorter > 1 else ".")
        )
    return train, val


class Batches:
    """Windows drawn without replacement; the batch is a pure function of seed and step.

    An epoch is one permutation of `n_windows` windows, `context_length` apart, all
    shifted by the same random offset, so that the cuts fall elsewhere in every epoch.
    Nothing but the step need be stored to go on where a run stopped. With several
    ranks each takes its slice of the global batch: two ranks with batch B see together
    what one rank with 2B sees.

    `tokens` may be a memory-mapped array: only the windows taken are read.
    Raises `UserError` for fewer than context_length + 1 tokens and sizes out of range.
    """

    def __init__(
        self, tokens: Tokens, context_length: int, batch_size: int, seed: int
    ) -> None:
        if context_length < 1 or batch_size < 1 or seed < 0:
            raise UserError(
                "context_length and batch_size must be at least 1 and seed at least 0, "
                f"not {context_length}, {batch_size} and {seed}."
            )
        if len(tokens) < context_length + 1:
            raise UserError(
                f"{len(tokens)} tokens are too few for one window of context_length + "
                f"1 = {context_length + 1}: give more text or a shorter context_length."
            )
        self.tokens = np.asarray(tokens)  # shares the memory, a mapped file's too
        self.context_length = context_length
        self.batch_size = batch_size
        self.seed = seed
        # One window fewer than fit at offset 0 leaves room to shift the others.
        self.n_windows = max(1, len(tokens) // context_length - 1)
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)

    def epoch_of(self, step: int, world_size: int = 1) -> int:
        """The epoch in which the first window of this step's batch lies."""
        return step * self.batch_size * world_size // self.n_windows

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Inputs and targets (B, T) of `step`; the targets are the inputs' next ids.

        Window i of step s is number p = s * batch_size * world_size + i of an endless
        series: window `permutation[p % n_windows]` of epoch `p // n_windows`.
        """
        first = (step * world_size + rank) * self.batch_size
        series = np.arange(first, first + self.batch_size)
        epochs, position = np.divmod(series, self.n_windows)
        starts = [  # of one epoch, rarely of two or more
            self._epoch_starts(epoch)[position[epochs == epoch]]
            for epoch in np.unique(epochs).tolist()
        ]
        index = np.concatenate(starts)[:, None] + np.arange(self.context_length + 1)
        windows = torch.from_numpy(self.tokens[index].astype(np.int64, copy=False))
        return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()

    def _epoch_starts(self, epoch: int) -> np.ndarray:
        """Where the windows of an epoch begin, in the epoch's order (n_windows,)."""
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, epoch])
            order = random.permutation(self.n_windows)
            # The last target, at offset + n_windows * context_length, must exist.
            room = len(self.tokens) - self.n_windows * self.context_length
            offset = random.integers(min(self.context_length, room))
            self._epoch, self._starts = epoch, offset + order * self.context_length
        return self._starts


def whole_split(
    tokens: Tokens, context_length: int, batch_size: int
) -> Iterator[Batch]:
    """All of a split for evaluation, in order: every id but the first is a target once.

    Yields (x, y) of shape (B, T) with B = batch_size windows, the last batch maybe
    fewer; what is left over comes as a batch of its own, one shorter window. Of 12 ids
    with context_length 4: targets 1-4 and 5-8, then 9-11.
    """
    ids = np.asarray(tokens)
    full = (len(ids) - 1) // context_length * context_length
    step = batch_size * context_length
    pieces = [(at, min(at + step, full), context_length) for at in range(0, full, step)]
    if full < len(ids) - 1:
        pieces.append((full, len(ids) - 1, len(ids) - 1 - full))
    for begin, end, width in pieces:
        piece = torch.from_numpy(ids[begin : end + 1].astype(np.int64))
        yield piece[:-1].view(-1, width), piece[1:].view(-1, width)
