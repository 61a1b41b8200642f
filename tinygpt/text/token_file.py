"""Texts of any size as token files: cut in parallel, read without loading them.

A token file is 1,024 bytes of head (a line that names the format, then JSON) and the
ids as uint16, or as uint32 where a vocabulary has more than 65,536 entries. It holds
exactly the ids that `Tokenizer.encode` gives for the whole text. Until it is whole it
is called .NAME.part and says so, so no half of one is ever read; the same command goes
on where a killed one stopped. What it leaves out: cutting the text (see `pieces`), the
split and the batches (see `dataset`).
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
from tqdm import tqdm

from tinygpt.errors import UserError
from tinygpt.text.corpora import find
from tinygpt.text.parallel_encode import encode_pieces, pieces, require_splittable
from tinygpt.text.tokenizer import Tokenizer

SUFFIX = ".tokens"
MAGIC = b"tinygpt tokens 1\n"
HEAD = 1024  # bytes before the first id
SAVE_AFTER = 16  # pieces until the progress is written down again

Ids = Integer[np.ndarray, " N"]


@dataclass(frozen=True)
class TokenFile:
    """What the head of a token file says."""

    tokenizer: str
    """The tokenizer's name, to read; `vocabulary` is what counts."""
    vocabulary: str
    """`checksum` of the tokenizer."""
    dtype: str
    """uint16 or uint32; the lowest byte of an id comes first."""
    tokens: int = 0
    text_bytes: int = 0
    """UTF-8 bytes of the text, for bits per byte."""
    sources: str = ""
    """Until the file is whole: checksum of the names, sizes and times of the texts."""
    reached: list[int] | None = None
    """Until the file is whole: the text, and the byte in it, to go on from."""

    @property
    def itemsize(self) -> int:
        """Bytes per id."""
        return int(np.dtype(self.dtype).itemsize)

    def head(self) -> bytes:
        """The first bytes of the file."""
        text = MAGIC + json.dumps(asdict(self)).encode()
        return text.ljust(HEAD - 1) + b"\n"


def checksum(tokenizer: Tokenizer) -> str:
    """sha256 of which bytes each id stands for."""
    digest = hashlib.sha256()
    entries = [(i, token) for token, i in tokenizer.ranks.items()]
    entries += [(i, token.encode()) for token, i in tokenizer.special_tokens.items()]
    for i, token in sorted(entries):
        digest.update(b"%d %d %s\n" % (i, len(token), token))
    return digest.hexdigest()


def read_head(path: Path) -> TokenFile:
    """What a token file says about itself.

    Raises:
        UserError: the file is missing, foreign, unfinished or cut off.
    """
    try:
        with path.open("rb") as file:
            head, size = file.read(HEAD), os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UserError(f"cannot read the token file {path} ({error})") from error
    told = _parse_head(head)
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
            f"{path} is cut off ({(size - HEAD) // told.itemsize:,} of "
            f"{told.tokens:,} tokens are there): prepare it again"
        )
    return told


def _parse_head(head: bytes) -> TokenFile | None:
    """The head as it was written; None if something else stands there."""
    try:
        told = TokenFile(**json.loads(head.removeprefix(MAGIC)))
        known = head.startswith(MAGIC) and told.dtype in ("uint16", "uint32")
        return told if known and min(told.tokens, told.text_bytes) >= 0 else None
    except (ValueError, TypeError):
        return None


def open_tokens(path: Path, tokenizer: Tokenizer) -> Ids:
    """The ids of a token file, mapped into memory: only what is used is read.

    Raises:
        UserError: the file cannot be used, or `tokenizer` has another vocabulary.
    """
    told = read_head(path)
    if told.vocabulary != checksum(tokenizer):
        raise UserError(
            f"{path} holds tokens of {told.tokenizer}, and {tokenizer.name} here is "
            "another vocabulary: choose the --tokenizer that it was prepared with, or "
            "prepare the text again"
        )
    dtype = np.dtype(told.dtype).newbyteorder("<")
    return np.memmap(path, dtype, "r", offset=HEAD, shape=(told.tokens,))


def prepare_tokens(
    name: str,
    out: Path,
    tokenizer: Tokenizer,
    workers: int = 1,
    show_progress: bool = False,
) -> TokenFile:
    """Write the tokens of a text (see `texts.load_text`) to the token file `out`.

    Memory does not grow with the text: a process holds about a megabyte of it. What an
    earlier call that was killed has done for the same text is not done again.

    Raises:
        UserError: the text cannot be used, or `out` not written.
    """
    if out.suffix != SUFFIX:
        raise UserError(f"a token file is called NAME{SUFFIX}, not {out.name!r}")
    if out.exists():
        raise UserError(f"{out} is there already: remove it, or give another --out")
    require_splittable(tokenizer)
    part = out.with_name(f".{out.name}.part")
    try:
        files = find(name)
        facts = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        fresh = TokenFile(
            tokenizer.name[:200],
            checksum(tokenizer),
            "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32",
            sources=hashlib.sha256(json.dumps(facts).encode()).hexdigest(),
            reached=[0, 0],
        )
        told = _go_on(part, fresh)
        with part.open("r+b") as file:
            told = _fill(file, told, files, tokenizer, workers, show_progress)
        if told.tokens:
            part.replace(out)
            return told
        part.unlink()
    except OSError as error:
        raise UserError(
            f"cannot prepare {out} ({error}): mend that, then give the same command "
            "again to go on"
        ) from error
    raise UserError(f"{name} is empty: give a file with text in it")


def _go_on(part: Path, fresh: TokenFile) -> TokenFile:
    """How far an earlier call came; `part` exists afterwards, at this length."""
    if part.exists():
        with part.open("r+b") as file:
            told = _parse_head(file.read(HEAD))
            if told and replace(told, tokens=0, text_bytes=0, reached=[0, 0]) == fresh:
                file.truncate(HEAD + told.tokens * told.itemsize)
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
    """Add what is missing; the head always tells of ids that are on the disk."""
    index, begin = told.reached or (0, 0)
    sizes = [path.stat().st_size for path in files]
    bar = tqdm(
        total=sum(sizes),
        initial=sum(sizes[:index]) + begin,
        unit="B",
        unit_scale=True,
        disable=None if show_progress else True,
        leave=False,
    )
    todo = encode_pieces(pieces(files, index, begin), tokenizer, told.dtype, workers)
    with bar, closing(todo):
        file.seek(0, os.SEEK_END)
        for n, (piece, (ids, count, size)) in enumerate(todo, start=1):
            file.write(ids)
            told = replace(
                told,
                tokens=told.tokens + count,
                text_bytes=told.text_bytes + size,
                reached=list(piece.reached),
            )
            if n % SAVE_AFTER == 0:
                _save(file, told)
            bar.update(piece.size)
    told = replace(told, sources="", reached=None)
    _save(file, told)
    return told


def _save(file: BinaryIO, told: TokenFile) -> None:
    """First the ids, then the head that counts them."""
    file.flush()
    os.fsync(file.fileno())
    file.seek(0)
    file.write(told.head())
    file.flush()
    os.fsync(file.fileno())
    file.seek(0, os.SEEK_END)
