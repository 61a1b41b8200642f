"""Files: put in place whole or not at all, read with a sentence, found if they ship.

The only module that knows how a file gets where it belongs. What it leaves out: what
stands in the files.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a path beside `path`, then move what it wrote into place."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def shipped(filename: str) -> Path:
    """Path of a file of the course, beside the package or in it.

    Raises:
        UserError: this copy of the course lacks it.
    """
    here = Path(__file__).resolve().parent
    for folder in (here.parent / "data", here / "_data"):
        if (folder / filename).is_file():
            return folder / filename
    raise UserError(f"data/{filename} is missing from this copy: install it again.")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: the file cannot be read, is no JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON file ({error}): fetch it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: fetch it again.")
    return content
