"""Reading and writing files: atomic writes, bounded reads, true error messages.

Every file of the package is written through `write_atomically`, so it is either whole
or absent, even after a crash. Every small file from outside is read through
`read_file`, which never blocks and never reads without limit. What it leaves out: the
formats of the files, and folders of runs (see `training.checkpoint`).
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinygpt.errors import UserError

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be replaced anyway
    fcntl = None  # type: ignore[assignment]  # mypy: a module

MAX_NAME = 255  # bytes, on every common file system
MAX_FILE = 64 << 20  # bytes; the largest vocabularies in use take a third of that


def why(error: BaseException) -> str:
    """The reason of an error, without the path that the sentence names anyway."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# --- Writing ----------------------------------------------------------------------


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a path beside `path`, then move the new file into place.

    The new file, .NAME.part, is synced to the disk before it replaces `path`. What a
    killed process left of it is overwritten; while another process writes it, it is
    left alone. A symbolic link stays, and the file that it names is replaced.

    Raises:
        UserError: `path` is something else than a regular file, the disk is full, or
            the folder cannot be written; `path` is as it was before.
    """
    try:
        target = _replaceable(path)
        name = target.name
        if len(os.fsencode(name)) > MAX_NAME - len("..part"):
            name = hashlib.sha256(os.fsencode(name)).hexdigest()
        part = target.with_name(f".{name}.part")
        with claimed(part):
            try:
                write(part)
                with part.open("rb+") as file:
                    os.fsync(file.fileno())
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise UserError(
            f"cannot write {str(path)!r} ({why(error)}): choose another place or make "
            "room"
        ) from error


def _replaceable(path: Path) -> Path:
    """The file that a link names, or `path` itself; regular, or not there yet."""
    try:
        mode = path.stat().st_mode  # fails for a loop of links
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(None, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(None, "it is a device, not a regular file")
    return path.resolve() if path.is_symlink() else path


@contextmanager
def claimed(part: Path) -> Iterator[None]:
    """Create `part` and lock it, so that no other process writes it meanwhile.

    A lock ends with its process, so a killed one does not keep others waiting.

    Raises:
        OSError: another process holds it, or it cannot be made.
    """
    if fcntl is None:
        yield
        return
    while True:
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError("another process is writing it") from None
            except OSError:  # a network's file system without locks
                pass
            if _same_file(descriptor, part):  # else it was moved into place just now
                yield
                return
        finally:
            os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Make the move itself last through a power failure, where a folder can be synced.

    POSIX leaves it open whether a rename is on the disk before its folder is synced.
    """
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some file systems refuse
        pass
    finally:
        os.close(descriptor)


# --- Reading ----------------------------------------------------------------------


def exists(path: Path) -> bool:
    """Whether there is something at `path`; a link to nothing is nothing.

    Raises:
        UserError: nobody can say: a folder above must not be read, or the name is too
            long.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r} ({why(error)})") from error
    return True


def require_readable(path: Path) -> int:
    """The size of the regular file `path` in bytes.

    Raises:
        UserError: it is missing, a folder, a device, or must not be read; each with its
            own sentence.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise UserError(f"{path} is a folder, not a file")
        if not stat.S_ISREG(found.st_mode):  # reading a pipe would wait for ever
            raise UserError(f"{path} is a device or a pipe, not a file")
        with path.open("rb"):
            return found.st_size
    except FileNotFoundError as error:
        raise UserError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {str(path)!r} ({why(error)})") from error


def read_file(path: Path, at_most: int = MAX_FILE) -> bytes:
    """The bytes of a regular file of `at_most` so many.

    Raises:
        UserError: as `require_readable`, or the file is larger.
    """
    size = require_readable(path)
    if size > at_most:
        raise UserError(
            f"{path} has {size:,} bytes, but such a file has {at_most:,} at most: it "
            "is damaged or of another kind"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({why(error)})") from error


def read_json(path: Path, at_most: int = MAX_FILE) -> dict[str, Any]:
    """The object in a JSON file. Its numbers are finite; its nesting is bounded.

    Raises:
        UserError: as `read_file`, or the content is not a JSON object.
    """
    content = read_file(path, at_most)
    try:
        found = parse_json(content)
    except ValueError as error:
        raise UserError(f"{path} is not a JSON file ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}, not a JSON object")
    return found


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text without Infinity and NaN, which JSON does not know.

    Raises:
        ValueError: it is something else, is not UTF-8, or is nested too deep.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _finite(number: str) -> float:
    value = float(number)
    if value - value != 0:  # Infinity, NaN, or a number too large for a float
        raise ValueError(f"{number[:20]} is not a finite number")
    return value


_SHIPPED = {"data": "data", "page": "book/_static"}  # in a clone; _NAME in a wheel


def shipped(filename: str, room: str = "data") -> Path:
    """Path of a file of the course, beside the package or in it.

    Args:
        filename: its name, in the folder that the room names.
        room: data, or page for the parts of the playground.

    Raises:
        UserError: this copy of the course lacks it.
    """
    here = Path(__file__).resolve().parent
    for folder in (here.parent / _SHIPPED[room], here / f"_{room}"):
        if (folder / filename).is_file():
            return folder / filename
    raise UserError(f"{room}/{filename} is missing from this copy: install it again.")
