"""Words that name files and folders, as the options of `arguments` take them.

What it leaves out: whether there is such a file.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tyro.constructors import PrimitiveConstructorSpec


def _path(words: list[str]) -> Path:
    if not words[0]:
        raise ValueError("an empty path")
    return Path(words[0])


def _file(words: list[str]) -> Path:
    if words[0] and os.path.basename(words[0]) in ("", "."):  # noqa: PTH119
        raise ValueError(f"{words[0]!r} is the name of a folder, not of a file")
    return _path(words)


def _typed(read: Callable[[list[str]], Path]) -> PrimitiveConstructorSpec[Any]:
    """How tyro reads a path.

    Path("") is Path("."), and Path("a/") is Path("a"), so a word must be refused before
    it becomes a path.
    """
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


PathOption = Annotated[Path, _typed(_path)]
FileOption = Annotated[Path, _typed(_file)]
# Of `FileOption | None`, tyro would say that a bad word is no type of the two.
OptionalFile = Annotated[Path | None, _typed(_file)]
OptionalPath = Annotated[Path | None, _typed(_path)]
