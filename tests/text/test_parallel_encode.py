"""parallel_encode: the pieces of a text, by one process or two, give its ids."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import COUNTED, ROOT, posix
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tinygpt.errors import UserError
from tinygpt.text import parallel_encode as cutting
from tinygpt.text.bpe import END_OF_TEXT, KNOWN_PATTERNS
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.corpora import find
from tinygpt.text.documents import encode_documents, load_documents
from tinygpt.text.parallel_encode import (
    encode_pieces,
    pieces,
    require_splittable,
)
from tinygpt.text.tokenizer import Tokenizer

NAMES = ("ours", "digits", "gpt2", "cl100k", "o200k")
PATTERNS = dict(zip(NAMES, KNOWN_PATTERNS, strict=True))
SOURCE = (
    "it's the end.\n\nThe buyer's 1234 calls, the seller\n  listens...\n"
    "a   z\n\n\n \u6f22\u3002\n\u6f22.\r\n\r\n\t\tMuch\u00a0more, again. \n/\n"
) * 9
SIGNS = "ab Z9'sdL.?/-\n\n\n\r\t \u00a0\u3000\u0085\u2028"
SIGNS += "\u0301\u00e9\u6f22\u3002\U0001f600\ufeff"


@pytest.fixture(scope="module", params=PATTERNS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_bpe(SOURCE, 300, PATTERNS[request.param])


def ids_of(name: str, tokenizer: Tokenizer, workers: int = 1) -> tuple[list[int], int]:
    """All ids by way of pieces, and the bytes of the text."""
    ids, size = [], 0
    for piece, made in encode_pieces(pieces(find(name)), tokenizer, "uint16", workers):
        ids += np.frombuffer(made.ids, "<u2").tolist()
        size += made.n_bytes
        assert made.n_ids == len(made.ids) // 2
        assert piece.parts
    return ids, size


lines = st.lists(
    st.sampled_from(
        [
            "the end.",
            "",
            " a",
            "12",
            "it's",
            "/",
            "\u6f22\u3002",
            "Z z a b",
            END_OF_TEXT,
        ]
    )
)
nasty = st.one_of(
    st.lists(st.sampled_from([*SIGNS, f"\n{END_OF_TEXT}\n"])).map("".join),
    lines.map("\n".join),
    lines.map(" \r\n".join),
)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(nasty, min_size=1, max_size=4), piece=st.integers(1, 12))
@example(texts=["", "", "\ufeff"], piece=1)  # a file with no text behind its mark
@example(
    texts=[f"a\n \n{END_OF_TEXT}\n\n{END_OF_TEXT} \r\nb\n\n{END_OF_TEXT}"], piece=1
)
def test_the_ids_of_the_pieces_are_the_ids_of_the_documents(
    texts: list[str], piece: int, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Several files, pieces of a few bytes, every kind of white space and sign."""
    for old in tmp_path.iterdir():
        old.unlink()
    for i, text in enumerate(texts):
        if i % 2:
            said = [{"role": r, "content": f"x{text}"} for r in ("user", "assistant")]
            chat = {"messages": said}
            raw = "\n\n".join([json.dumps(chat, ensure_ascii=False)] * 3)
            (tmp_path / f"{i}.jsonl").write_bytes(raw.encode())
        else:
            (tmp_path / f"{i}.txt").write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PIECE", piece)
        patch.setattr(cutting, "_WINDOW", 23)
        try:
            documents = load_documents(str(tmp_path))
        except UserError:
            return  # nothing but white space
        ids, size = ids_of(str(tmp_path), tokenizer)
    assert ids == encode_documents(documents, tokenizer)
    assert size == len("".join(documents).encode())


@pytest.mark.parametrize(
    "text", [SOURCE, SOURCE.replace("\n", " "), "\u6f22\u5b57\u3002\n" * 200]
)
def test_ordinary_texts_are_cut_where_they_should(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At line ends, and at spaces if there are none; no piece is much too long."""
    monkeypatch.setattr(cutting, "PIECE", 50)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    sizes = [piece.size for piece in pieces([tmp_path / "a.txt"])]
    assert sum(sizes) == len(text.encode())
    assert len(sizes) > 5
    assert all(50 <= size < 200 for size in sizes[:-1])


def test_many_small_files_make_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "PIECE", 40)
    for i in range(30):
        (tmp_path / f"{i:02}.txt").write_text(f"text {i:02}\n", encoding="utf-8")
    made = list(pieces(find(str(tmp_path))))
    assert [len(piece.parts) for piece in made] == [5, 5, 5, 5, 5, 5]
    again = list(pieces(find(str(tmp_path)), *made[2].reached))
    assert again == made[3:]


def test_a_pattern_whose_words_cross_lines_is_refused(tokenizer: Tokenizer) -> None:
    require_splittable(tokenizer)
    crossing = Tokenizer(
        "wide", {bytes([b]): b for b in range(256)} | {b"a\na": 256}, r"[\s\S]+"
    )
    with pytest.raises(UserError, match="'wide' makes words that cross lines"):
        require_splittable(crossing)


@pytest.mark.slow
@pytest.mark.parametrize("sign", [" ", "\n"])
def test_two_megabytes_of_white_space(sign: str, tmp_path: Path) -> None:
    """There tiktoken panics."""
    tokenizer = train_bpe(SOURCE, 300)
    text = f"a{sign * 2_000_000}b"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    ids, size = ids_of(f"{tmp_path}/a.txt", tokenizer)
    assert size == len(text) == sum(tokenizer.byte_lengths[i] for i in ids[:-1])
    assert tokenizer.decode([ids[0], ids[-2]]).replace(" ", "") == "ab"


# --- Processes ---------------------------------------------------------------------


@pytest.fixture
def long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A text of some forty pieces."""
    monkeypatch.setattr(cutting, "PIECE", 100)
    for name, value in COUNTED.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "long.txt"
    path.write_text(SOURCE * 8, encoding="utf-8")
    return path


def test_two_processes_do_the_same_as_one(long: Path) -> None:
    tokenizer = train_bpe(SOURCE, 300)
    assert ids_of(str(long), tokenizer, workers=2) == ids_of(str(long), tokenizer)
    assert not multiprocessing.active_children()


def test_what_is_wrong_in_a_process_is_told(long: Path) -> None:
    at = long.stat().st_size - 10
    with long.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff")
    with pytest.raises(UserError, match=f"not UTF-8 text .byte 0xff at offset {at}"):
        ids_of(str(long), train_bpe(SOURCE, 300), workers=2)
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_is_told(long: Path) -> None:
    todo = encode_pieces(pieces([long]), train_bpe(SOURCE, 300), "uint16", workers=2)
    next(todo)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(UserError, match="has died, perhaps out of memory"):
        list(todo)
    assert not multiprocessing.active_children()


def test_few_pieces_are_read_ahead(long: Path) -> None:
    taken = []

    def watched() -> Iterator[cutting.Piece]:
        for piece in pieces([long]):
            taken.append(piece)
            yield piece

    todo = encode_pieces(watched(), train_bpe(SOURCE, 300), "uint16", workers=2)
    for n, (piece, _) in enumerate(todo, start=1):
        assert piece is taken[n - 1]
        assert len(taken) <= n + 3
    assert n == len(taken) > 30


PARENT = """
import sys, time
from multiprocessing import active_children
from pathlib import Path
from tinygpt.text import parallel_encode
from tinygpt.text.tokenizer import get_tokenizer

if __name__ == "__main__":
    parallel_encode.PIECE = 100
    todo = parallel_encode.encode_pieces(
        parallel_encode.pieces([Path(sys.argv[1])]),
        get_tokenizer("handbook-4k"), "uint16", workers=2,
    )
    next(todo)
    print(*[worker.pid for worker in active_children()], flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize("blow", ["SIGKILL", "SIGINT"])
def test_the_workers_end_with_the_process_that_started_them(
    long: Path, tmp_path: Path, blow: str
) -> None:
    (tmp_path / "parent.py").write_text(PARENT, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(long)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert workers
        parent.send_signal(getattr(signal, blow))
        parent.wait(60)
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
