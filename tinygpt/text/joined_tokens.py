"""Several token files that train as one text, and stay on disk.

A big text can so be prepared in parts, on several machines. What it leaves out: a
single token file (see `token_file`), batches (see `dataset`).
"""

import re
from collections.abc import Sequence
from glob import glob, has_magic
from os.path import expanduser
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from tinygpt.errors import require
from tinygpt.files import exists
from tinygpt.text.corpora import TEXT_SUFFIXES
from tinygpt.text.token_file import HEADERLESS, SUFFIX, Ids, open_tokens
from tinygpt.text.tokenizer import Tokenizer

TRAIN, VAL = "train.bin", "val.bin"  # nanoGPT's names


class JoinedIds:
    """Arrays of ids that are read as one: by slices, and by arrays of indices."""

    def __init__(self, arrays: Sequence[Integer[np.ndarray, "_"]]) -> None:
        self.arrays = [np.asarray(ids) for ids in arrays]  # shares mapped memory
        self.starts = np.cumsum([0, *map(len, self.arrays)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: slice | Int[np.ndarray, "..."]) -> Any:
        """Of a slice without a step another JoinedIds, of indices the ids as int64."""
        if isinstance(index, slice):
            begin, end, _ = index.indices(len(self))
            placed = zip(self.arrays, self.starts.tolist(), strict=False)
            parts = [ids[max(0, begin - at) : max(0, end - at)] for ids, at in placed]
            return JoinedIds([part for part in parts if len(part)])
        part_of = np.searchsorted(self.starts, index, side="right") - 1
        taken = np.empty(index.shape, np.int64)
        for part in np.unique(part_of).tolist():
            mine = part_of == part
            taken[mine] = self.arrays[part][index[mine] - self.starts[part]]
        return taken

    def __array__(
        self, dtype: Any = None, copy: bool | None = None
    ) -> Integer[np.ndarray, " N"]:
        """All ids in memory."""
        return np.concatenate(self.arrays, dtype=dtype)


def find_tokens(name: str) -> list[Path]:
    """The token files that `name` means, sorted; empty if it means a text.

    A name may be a token file, several with commas between them ("a.tokens,b.tokens"),
    a glob of them, or a folder that holds token files and no texts. Of a folder of
    nanoGPT's that is train.bin.

    Raises:
        UserError: a glob finds no file.
    """
    folder = Path(expanduser(name))  # noqa: PTH111 - as in `corpora`
    try:
        found = sorted(folder.glob(f"[!.]*{SUFFIX}")) if folder.is_dir() else []
        found = found or list(folder.glob(TRAIN))
        if found and any(p.suffix.lower() in TEXT_SUFFIXES for p in folder.rglob("*")):
            return []
    except OSError:
        return []  # a folder that cannot be read is told where texts are read
    if found or not name.endswith((SUFFIX, HEADERLESS)):
        return found
    for part in re.split(r"(?:(?<=\.tokens)|(?<=\.bin)),", name):
        path = Path(expanduser(part))  # noqa: PTH111
        if has_magic(part) and not path.exists():
            found += sorted(Path(match) for match in glob(str(path)))  # noqa: PTH207
        else:
            found.append(path)
    require(bool(found), f"{name} finds no token files: check the path")
    return found


def val_beside(paths: Sequence[Path]) -> Path | None:
    """The val.bin beside nanoGPT's train.bin, if that is the only path."""
    if [path.name for path in paths] != [TRAIN]:
        return None
    val = paths[0].with_name(VAL)
    return val if exists(val) else None


def open_joined(paths: Sequence[Path], tokenizer: Tokenizer) -> Ids | JoinedIds:
    """The ids of token files, one text after the other, memory-mapped.

    Where there are several, each text ends with the tokenizer's `<|endoftext|>`.

    Raises:
        UserError: as `open_tokens`, which names the file that does not fit.
    """
    if len(paths) == 1:
        return open_tokens(paths[0], tokenizer)
    arrays = list[np.ndarray]()
    for path in paths:
        ids = open_tokens(path, tokenizer)
        arrays.append(ids)
        if tokenizer.end_of_text not in (None, int(ids[-1])):
            arrays.append(np.array([tokenizer.end_of_text], dtype=ids.dtype))
    return JoinedIds(arrays)
