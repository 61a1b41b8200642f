"""files: whole or absent, nothing of a stranger's touched, and errors that are true."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import posix

from tinygpt.errors import UserError
from tinygpt.files import (
    parse_json,
    read_file,
    read_json,
    require_readable,
    write_atomically,
)

WITH_RIGHTS = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do everything"
)


def put(content: bytes) -> Callable[[Path], object]:
    return lambda part: part.write_bytes(content)


# --- Writing -----------------------------------------------------------------------


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, put(b"old"))

    def half(part: Path) -> None:
        assert part.parent == path.parent  # the same disk, so that the move is atomic
        part.write_bytes(b"ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_behind_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    killed = (
        "import os; from pathlib import Path; from tinygpt.files import *;"
        f"write_atomically(Path({str(path)!r}), lambda p: p.write_bytes(b'x' * 99) and "
        "os.kill(os.getpid(), 9))"
    )
    subprocess.run([sys.executable, "-c", killed], check=False)
    assert [p.name for p in tmp_path.iterdir()] == [".file.part"]
    write_atomically(path, put(b"whole"))
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def meanwhile(part: Path) -> None:
        part.write_bytes(b"first")
        with pytest.raises(UserError, match="another process is writing it"):
            write_atomically(path, put(b"second"))

    write_atomically(path, meanwhile)
    assert path.read_bytes() == b"first"
    write_atomically(path, put(b"third"))
    assert path.read_bytes() == b"third"


def test_a_name_of_255_bytes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("ü" * 127 + "x")
    write_atomically(path, put(b"long"))
    assert path.read_bytes() == b"long"
    with pytest.raises(UserError, match="name too long"):
        write_atomically(tmp_path / ("x" * 256), put(b"longer"))
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_atomically(link, put(b"new"))
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@posix
def test_a_link_in_the_place_of_the_unfinished_file_is_not_followed(
    tmp_path: Path,
) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"of a stranger")
    (tmp_path / ".file.part").symlink_to(other)
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(tmp_path / "file", put(b"mine"))
    assert other.read_bytes() == b"of a stranger"


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no such device")
def test_a_device_is_not_replaced() -> None:
    with pytest.raises(UserError, match="it is a device"):
        write_atomically(Path("/dev/full"), put(b"x"))
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("path", ["/", "", ".", "a\0b"])
def test_paths_that_name_no_file(path: str) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(Path(path), put(b"x"))


@posix
def test_loops_pipes_and_folders_are_left_alone(tmp_path: Path) -> None:
    loop, pipe, folder = (tmp_path / name for name in ("loop", "pipe", "folder"))
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (loop, pipe, folder, tmp_path / "none" / "file"):
        with pytest.raises(UserError, match="cannot write"):
            write_atomically(path, put(b"x"))
    assert {p.name for p in tmp_path.iterdir()} == {"loop", "pipe", "folder"}


# --- Reading -----------------------------------------------------------------------


@posix
def test_each_unreadable_file_has_a_sentence_of_its_own(tmp_path: Path) -> None:
    loop, pipe, big = (tmp_path / name for name in ("loop", "pipe", "big"))
    loop.symlink_to(loop)
    os.mkfifo(pipe)
    big.write_bytes(b"12345")
    for path, words in {
        tmp_path / "none": "there is no file",
        tmp_path: "is a folder",
        loop: "cannot read .* symbolic links",
        pipe: "is a device or a pipe",
        Path("/dev/zero"): "is a device or a pipe",
        tmp_path / "a\0b": "cannot read",
        tmp_path / ("x" * 256): "name too long",
        big: "has 5 bytes, but such a file has 4 at most",
        big / "below": "Not a directory",
    }.items():
        with pytest.raises(UserError, match=f"(?i){words}"):
            read_file(path, at_most=4)
    assert read_file(big, at_most=5) == b"12345"
    assert require_readable(big) == 5


@WITH_RIGHTS
def test_a_file_without_permission_is_not_called_missing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"{}")
    path.chmod(0)
    with pytest.raises(UserError, match=r"cannot read .*Permission denied"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a JSON file"),
        (b"{", "is not a JSON file"),
        (b"\xff\xfe{}", "is not a JSON file"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b'{"id": Infinity}', "Infinity is not a finite number"),
        (b'{"id": NaN}', "NaN is not a finite number"),
        (b'{"id": 1e999}', "1e999 is not a finite number"),
        (b'{"id": ' + b"9" * 10_000 + b"}", "is not a JSON file"),
        (b"[]", "holds a list"),
        (b"7", "holds a int"),
    ],
)
def test_json_that_is_not_an_object(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_json(path)


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"a": [1, 2.5, -3e2, null, "ü"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, 2.5, -300.0, None, "ü"]}
    assert parse_json("[1]") == [1]
