"""Texts of any size as token files: encoded in parallel, read without loading them.

A token file is a header of 1,024 bytes (a line that names the format, then JSON) and
the ids as uint16, or as uint32 where a vocabulary has more than 65,536 entries. It
holds exactly the ids that `encode_documents` gives for the text, and no end of a
document if there is only one. Until it is complete it is called .NAME.part and says so,
so that no partial file is ever used; the same command continues where a killed one
stopped. A file without a header, as nanoGPT's train.bin, is read as well, if somebody
says of which vocabulary it is. What it leaves out: encoding the text (see
`parallel_encode`), the split and the batches (see `dataset`), writing nanoGPT's files
(see `nanogpt`).
"""

import hashlib
import json
import os
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Integer

from tinygpt.errors import UserError, require
from tinygpt.files import claimed, parse_json, require_readable, why
from tinygpt.runtime.display import progress
from tinygpt.text.corpora import find
from tinygpt.text.parallel_encode import encode_pieces, pieces, require_splittable
from tinygpt.text.tokenizer import Tokenizer

SUFFIX = ".tokens"
HEADERLESS = ".bin"
MAGIC = b"tinygpt tokens 1\n"
HEAD = 1024  # bytes before the first id
BLOCK = 1 << 20  # ids read at once
SAVE_AFTER = 16  # pieces between two updates of the header

Ids = Integer[np.ndarray, " N"]


@dataclass(frozen=True)
class TokenFile:
    """The header of a token file."""

    tokenizer: str
    """The tokenizer's name, for messages; `vocabulary` is what must agree."""
    vocabulary: str
    """`checksum` of the tokenizer."""
    dtype: str
    """uint16 or uint32, little-endian."""
    tokens: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the text, for bits per byte."""
    documents: int = 0
    """How many the text holds; zero if the file is older than this field."""
    sources: str = ""
    """Until the file is complete: checksum of names, sizes and times of the texts."""
    reached: list[int] | None = None
    """Until the file is complete: the text, and the byte in it, to continue from."""

    @property
    def itemsize(self) -> int:
        """Bytes per id."""
        return int(np.dtype(self.dtype).itemsize)

    def head(self) -> bytes:
        """The first bytes of the file."""
        text = MAGIC + json.dumps(asdict(self)).encode()
        return text.ljust(HEAD - 1) + b"\n"


def checksum(tokenizer: Tokenizer) -> str:
    """sha256 of the vocabulary: which bytes each id stands for, in hexadecimal."""
    digest = hashlib.sha256()
    entries = [(i, token) for token, i in tokenizer.ranks.items()]
    entries += [(i, token.encode()) for token, i in tokenizer.special_tokens.items()]
    for i, token in sorted(entries):
        digest.update(b"%d %d %s\n" % (i, len(token), token))
    return digest.hexdigest()


def read_head(path: Path) -> TokenFile:
    """The header of a complete token file.

    Raises:
        UserError: the file is missing, unreadable, foreign, incomplete or truncated.
    """
    size = require_readable(path)
    try:
        with path.open("rb") as file:
            told = _parse_head(file.read(HEAD))
    except OSError as error:
        raise UserError(f"cannot read the token file {path} ({why(error)})") from error
    if told is None:
        raise UserError(
            f"{path} is no token file of this format: make one with `tinygpt data "
            "prepare`"
        )
    if told.reached is not None:
        raise UserError(
            f"{path} is not finished: give the command that began it once more"
        )
    if size != HEAD + told.tokens * told.itemsize:
        raise UserError(
            f"{path} is cut off ({max(0, size - HEAD) // told.itemsize:,} of "
            f"{told.tokens:,} tokens are there): prepare it again"
        )
    return told


def _parse_head(head: bytes) -> TokenFile | None:
    """The header as it was written; None if it is anything else."""
    if not head.startswith(MAGIC):
        return None
    try:
        told = TokenFile(**parse_json(head.removeprefix(MAGIC)))
    except (ValueError, TypeError):  # TypeError: other fields, or no object
        return None
    texts = (told.tokenizer, told.vocabulary, told.sources)
    counts = [told.text_bytes, told.documents]
    if told.reached is not None:
        if not (isinstance(told.reached, list) and len(told.reached) == 2):
            return None
        counts += told.reached
    if (
        all(isinstance(text, str) for text in texts)
        and told.dtype in ("uint16", "uint32")
        and all(type(n) is int and n >= 0 for n in counts)
        # without a token there is nothing to map; an unfinished file may have none
        and (type(told.tokens) is int and told.tokens >= (told.reached is None))
    ):
        return told
    return None


def open_tokens(path: Path, tokenizer: Tokenizer) -> Ids:
    """The ids of a token file, memory-mapped: only what is used is read.

    Of a file called NAME.bin all bytes are ids, as little-endian uint16.

    Raises:
        UserError: the file cannot be used, `tokenizer` has another vocabulary, or an
            id is none of it; to find that, all of them are read once.
    """
    if path.suffix == HEADERLESS:
        return _open_headerless(path, tokenizer)
    told = read_head(path)
    if told.vocabulary != checksum(tokenizer):
        raise UserError(
            f"{path} holds tokens of {told.tokenizer}, and {tokenizer.name} here is "
            "another vocabulary: choose the --tokenizer that it was prepared with, or "
            "prepare the text again"
        )
    dtype = np.dtype(told.dtype).newbyteorder("<")
    highest = _highest(path, dtype, HEAD)
    require(
        highest < tokenizer.vocab_size,
        f"{path} is damaged (it holds the token id {highest:,}, and its vocabulary has "
        f"{tokenizer.vocab_size:,} entries): prepare it again",
    )
    return np.memmap(path, dtype, "r", offset=HEAD, shape=(told.tokens,))


def _open_headerless(path: Path, tokenizer: Tokenizer) -> Ids:
    size, dtype = require_readable(path), np.dtype("<u2")
    with path.open("rb") as file:
        ours = file.read(len(MAGIC)) == MAGIC
    require(not ours, f"{path} is a token file with a header: call it NAME{SUFFIX}")
    require(
        size > 0 and size % 2 == 0,
        f"{path} has {size:,} bytes, but ids of two bytes each are an even number of "
        "them, and not none: it is cut off, or no token file of nanoGPT",
    )
    own = path.with_name("meta.pkl")
    require(
        not own.exists(),
        f"{path} has a vocabulary of its own in {own}, a pickle, which is not read: "
        "prepare its text with `tinygpt data prepare`",
    )
    highest = _highest(path, dtype, 0)
    require(
        highest < tokenizer.vocab_size,
        f"{path} holds the token id {highest:,}, and {tokenizer.name} has "
        f"{tokenizer.vocab_size:,} entries: choose the --tokenizer that it was made "
        "with",
    )
    return np.memmap(path, dtype, "r")


def _highest(path: Path, dtype: np.dtype, begin: int) -> int:
    """The highest id from this byte on, read in blocks that leave memory at once."""
    highest = 0
    with path.open("rb") as file:
        file.seek(begin)
        while len(block := np.fromfile(file, dtype, BLOCK)):
            highest = max(highest, int(block.max()))
    return highest


def prepare_tokens(
    name: str,
    out: Path,
    tokenizer: Tokenizer,
    workers: int = 1,
    show_progress: bool = False,
) -> TokenFile:
    """Write the tokens of a text (see `load_documents`) to the token file `out`.

    Memory does not grow with the text: a process holds about a megabyte of it. Work
    that an earlier, killed call has done for the same text is not repeated.

    Raises:
        UserError: the text cannot be used, `out` is there already, cannot be written,
            or is being written by another process.
    """
    if out.suffix != SUFFIX:
        raise UserError(
            f"a token file is called NAME{SUFFIX} (or train{HEADERLESS} for nanoGPT), "
            f"not {out.name!r}"
        )
    require_splittable(tokenizer)
    # `write_atomically` would discard the part if it fails; this one is resumed.
    part = out.with_name(f".{out.name}.part")
    try:
        _require_free(out)
        files = find(name)
        facts = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        fresh = TokenFile(
            tokenizer.name[:200],
            checksum(tokenizer),
            "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32",
            sources=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
            reached=[0, 0],
        )
        with claimed(part):
            if os.path.lexists(out):  # another process was done just now
                part.unlink()
            _require_free(out)
            told = _resume(part, fresh)
            with part.open("r+b") as file:
                told = _fill(file, told, files, tokenizer, workers, show_progress)
            if told.tokens:
                part.replace(out)
                return told
            part.unlink()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise UserError(
            f"cannot prepare {out} ({error}): correct that, then give the same command "
            "again to continue"
        ) from error
    raise UserError(f"{name} is empty: give a file with text in it")


def _require_free(out: Path) -> None:
    require(
        not os.path.lexists(out),
        f"{out} is there already: remove it, or give another --out",
    )


def _resume(part: Path, fresh: TokenFile) -> TokenFile:
    """How far an earlier call came; `part` exists afterwards, at this length."""
    if part.exists():
        require_readable(part)  # it may be a pipe, which would block
        with part.open("r+b") as file:
            told = _parse_head(file.read(HEAD))
            if told and fresh == replace(
                told, tokens=0, text_bytes=0, documents=0, reached=[0, 0]
            ):
                end = HEAD + told.tokens * told.itemsize
                if end <= os.fstat(file.fileno()).st_size:
                    file.truncate(end)
                    return told
    part.write_bytes(fresh.head())
    return fresh


def _fill(
    file: BinaryIO,
    told: TokenFile,
    files: list[Path],
    tokenizer: Tokenizer,
    workers: int,
    show_progress: bool,
) -> TokenFile:
    """Add what is missing; the header only ever counts ids that are on the disk."""
    index, begin = told.reached or (0, 0)
    sizes = [path.stat().st_size for path in files]
    bar = progress(
        show_progress,
        total=sum(sizes),
        initial=sum(sizes[:index]) + begin,
        unit="B",
        unit_scale=True,
    )
    todo = encode_pieces(pieces(files, index, begin), tokenizer, told.dtype, workers)
    with bar, closing(todo):
        file.seek(0, os.SEEK_END)
        for n, (piece, made) in enumerate(todo, start=1):
            file.write(made.ids)
            told = replace(
                told,
                tokens=told.tokens + made.n_ids,
                text_bytes=told.text_bytes + made.n_bytes,
                documents=told.documents + made.n_documents,
                reached=list(piece.reached),
            )
            if n % SAVE_AFTER == 0:
                _save(file, told)
            bar.update(piece.size)
    if told.documents == 1 and tokenizer.end_of_text is not None:
        told = replace(told, tokens=told.tokens - 1)  # nothing to be told apart
        file.truncate(HEAD + told.tokens * told.itemsize)
    told = replace(told, sources="", reached=None)
    _save(file, told)
    return told


def _save(file: BinaryIO, told: TokenFile) -> None:
    """Sync the ids to the disk first, then the header that counts them."""
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    file.write(told.head())
    file.flush()
    os.fsync(file.fileno())
    file.seek(0, os.SEEK_END)
