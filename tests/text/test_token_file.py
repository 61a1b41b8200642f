"""token_file: what is written is what `encode` gives, and half a file is never read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, posix
from tiny_run import TEXT

from tinygpt.errors import UserError
from tinygpt.runtime import display
from tinygpt.text import parallel_encode as pieces
from tinygpt.text import token_file
from tinygpt.text.bpe import END_OF_TEXT, GPT2_PATTERN
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.documents import encode_documents, load_documents
from tinygpt.text.token_file import (
    HEAD,
    checksum,
    open_tokens,
    prepare_tokens,
    read_head,
)
from tinygpt.text.tokenizer import Tokenizer

SENTENCE = TEXT.replace(" calls ", " calls.\n") + "It's 12 o'clock.\n\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(SENTENCE, 290)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a text of some thirty pieces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pieces, "PIECE", 700)
    monkeypatch.setattr(token_file, "SAVE_AFTER", 3)
    Path("text.txt").write_text(SENTENCE * 5, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("highest", "dtype"), [(65_535, "uint16"), (65_536, "uint32")])
def test_a_token_file_holds_the_ids_of_the_text(
    highest: int, dtype: str, here: Path, tokenizer: Tokenizer
) -> None:
    high = Tokenizer("high", tokenizer.ranks, GPT2_PATTERN, {END_OF_TEXT: highest})
    told = prepare_tokens("text.txt", Path("a.tokens"), high)
    ids = open_tokens(Path("a.tokens"), high)
    assert isinstance(ids, np.memmap)
    assert ids.dtype == dtype == told.dtype
    assert ids.tolist() == high.encode(SENTENCE * 5)
    assert told == read_head(Path("a.tokens"))
    assert (told.tokenizer, told.vocabulary) == ("high", checksum(high))
    assert (told.tokens, told.text_bytes) == (len(ids), len(SENTENCE) * 5)
    assert {p.name for p in here.iterdir()} == {"a.tokens", "text.txt"}


@pytest.mark.parametrize("workers", [1, 2])
def test_each_document_is_followed_by_its_end(
    workers: int, here: Path, tokenizer: Tokenizer
) -> None:
    """As in the plain path; SENTENCE ends in a blank line, which is split otherwise."""
    Path("text.txt").write_text(f"{SENTENCE}{END_OF_TEXT}\n" * 9, encoding="utf-8")
    told = prepare_tokens("text.txt", Path("a.tokens"), tokenizer, workers)
    documents = load_documents("text.txt")
    ids = open_tokens(Path("a.tokens"), tokenizer)
    assert ids.tolist() == encode_documents(documents, tokenizer)
    assert (told.documents, told.text_bytes) == (9, len(SENTENCE) * 9)


def test_the_bar_shows_the_bytes(
    here: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(display, "SILENCE", 0.0)
        prepare_tokens("text.txt", Path("a.tokens"), tokenizer, show_progress=True)
    size = display.tqdm.format_sizeof(len(SENTENCE) * 5)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"{size} of {size}B, ")


KILLER = """
import os, signal, sys
from pathlib import Path
from tinygpt.text import parallel_encode as pieces, token_file
from tinygpt.text.tokenizer import Tokenizer

pieces.PIECE, token_file.SAVE_AFTER = 700, 3
save, left = token_file._save, 3

def deadly(file, told):
    global left
    left -= 1
    if not left:
        file.write(b"half of what comes ne")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(file, told)

token_file._save = deadly
out, tokenizer = Path("a.tokens"), Tokenizer.load("small.tiktoken")
token_file.prepare_tokens("text.txt", out, tokenizer, workers=1)
"""


@posix
def test_a_killed_preparation_goes_on_byte_for_byte(
    here: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer.save("small.tiktoken")
    tokenizer = Tokenizer.load("small.tiktoken")
    ended = subprocess.run(
        [sys.executable, "-c", KILLER],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    part = Path(".a.tokens.part")
    assert not Path("a.tokens").exists()
    with pytest.raises(UserError, match=r"\.a\.tokens\.part is not finished"):
        read_head(part)
    began = []

    def watched(files: list[Path], index: int = 0, begin: int = 0) -> object:
        began.append(begin)
        return pieces.pieces(files, index, begin)

    monkeypatch.setattr(token_file, "pieces", watched)
    prepare_tokens("text.txt", Path("a.tokens"), tokenizer)
    assert began[0] > 6 * 700  # what was done is not done again
    assert not part.exists()
    prepare_tokens("text.txt", Path("b.tokens"), tokenizer)
    assert began[1] == 0
    assert Path("a.tokens").read_bytes() == Path("b.tokens").read_bytes()


@pytest.mark.parametrize("change", ["text", "vocabulary", "rubbish", "too short"])
def test_what_was_begun_for_something_else_is_begun_anew(
    change: str, here: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    part, out = Path(".a.tokens.part"), Path("a.tokens")
    with monkeypatch.context() as patch:
        patch.setattr(token_file, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare_tokens("text.txt", out, tokenizer)
    assert part.exists()
    if change == "text":
        Path("text.txt").write_text("Another text.\n" * 90, encoding="utf-8")
    elif change == "vocabulary":
        tokenizer = train_bpe(SENTENCE, 280)
    elif change == "too short":  # its header counts more ids than there are
        head = part.read_bytes()[:HEAD]
        part.write_bytes(
            head.replace(b'"tokens": 0', b'"tokens": 9').ljust(HEAD)[:HEAD]
        )
    else:
        part.write_bytes(b"something else")
    prepare_tokens("text.txt", out, tokenizer)
    text = Path("text.txt").read_text(encoding="utf-8")
    assert open_tokens(out, tokenizer).tolist() == tokenizer.encode(text)


def test_two_that_prepare_one_file_do_not_mix(
    here: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fill = Path("a.tokens"), token_file._fill

    def meanwhile(*given: Any) -> token_file.TokenFile:
        with pytest.raises(UserError, match="another process is writing it"):
            prepare_tokens("text.txt", out, tokenizer)
        return fill(*given)

    monkeypatch.setattr(token_file, "_fill", meanwhile)
    prepare_tokens("text.txt", out, tokenizer)
    assert open_tokens(out, tokenizer).tolist() == tokenizer.encode(SENTENCE * 5)


# --- Bad input ---------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 700, -1])
def test_an_id_outside_the_vocabulary_is_found(
    place: int, here: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_file, "BLOCK", 300)
    prepare_tokens("text.txt", Path("a.tokens"), tokenizer)
    np.memmap("a.tokens", "<u2", "r+", offset=HEAD)[place] = tokenizer.vocab_size
    with pytest.raises(UserError, match=r"the token id 290, and .* 290 entries"):
        open_tokens(Path("a.tokens"), tokenizer)


def bad_head(**changes: object) -> bytes:
    head = token_file.TokenFile("t", "0", "uint16").head()
    for old, new in changes.items():
        head = head.replace(old.encode(), str(new).encode())
    return head


def with_fields(**fields: object) -> bytes:
    told = {"tokenizer": "t", "vocabulary": "0", "dtype": "uint16", "tokens": 1}
    return (token_file.MAGIC + json.dumps(told | fields).encode()).ljust(HEAD)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no file bad.tokens"),
        (b"", "bad.tokens is no token file of this format"),
        (b"tinygpt tokens 9\n{}", "is no token file of this format"),
        (bad_head(uint16="uint64"), "is no token file of this format"),
        (bad_head(tokens="tokens 9"), "is no token file of this format"),
        *(
            (with_fields(**fields), "is no token file of this format")
            for fields in (
                {"tokens": 0},
                {"tokens": -1},
                {"tokens": True},
                {"tokens": 2.0},
                {"tokens": float("inf")},
                {"tokens": [1]},
                {"text_bytes": "1"},
                {"tokenizer": 3},
                {"sources": []},
                {"reached": {}},
                {"reached": ["a", 1]},
                {"reached": [-1, 1]},
            )
        ),
        (b"tinygpt tokens 1\n" + b"[" * 1000, "is no token file of this format"),
        (b"tinygpt tokens 1\n[]", "is no token file of this format"),
        (with_fields(tokens=2**62), "cut off .0 of 4,6"),
        (with_fields(reached=[0, 0]), "is not finished"),
        (bytes(range(256)) * 9, "is no token file of this format"),
    ],
)
def test_a_foreign_file_is_refused(
    content: bytes | None, sentence: str, here: Path, tokenizer: Tokenizer
) -> None:
    if content is not None:
        Path("bad.tokens").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        open_tokens(Path("bad.tokens"), tokenizer)


def test_a_truncated_file_is_refused(here: Path, tokenizer: Tokenizer) -> None:
    out = Path("a.tokens")
    n = prepare_tokens("text.txt", out, tokenizer).tokens
    raw = out.read_bytes()
    for shorter in (raw[:-1], raw[: HEAD + 20], raw[:HEAD]):
        out.write_bytes(shorter)
        there = (len(shorter) - HEAD) // 2
        with pytest.raises(UserError, match=f"cut off .{there:,} of {n:,} tokens"):
            open_tokens(out, tokenizer)


def test_another_vocabulary_is_refused(here: Path, tokenizer: Tokenizer) -> None:
    prepare_tokens("text.txt", Path("a.tokens"), tokenizer)
    other = train_bpe(SENTENCE, 280)
    with pytest.raises(UserError, match="tokens of bpe-290, and bpe-280 here is anot"):
        open_tokens(Path("a.tokens"), other)
    renamed = Tokenizer("mine", tokenizer.ranks, GPT2_PATTERN, tokenizer.special_tokens)
    assert len(open_tokens(Path("a.tokens"), renamed))


@pytest.mark.parametrize(
    ("text", "out", "sentence"),
    [
        (
            "text.txt",
            "a.bin",
            r"called NAME\.tokens .*nanoGPT\), not 'a\.bin'",
        ),
        ("text.txt", "text.tokens", "text.tokens is there already: remove it"),
        ("text.txt", "no/a.tokens", "cannot prepare no/a.tokens"),
        ("empty.txt", "a.tokens", "empty.txt is empty"),
        ("binary.txt", "a.tokens", "binary.txt is not UTF-8 text"),
        ("gone.txt", "a.tokens", "no corpus, file or folder named 'gone.txt'"),
    ],
)
def test_what_cannot_be_prepared_is_told(
    text: str, out: str, sentence: str, here: Path, tokenizer: Tokenizer
) -> None:
    Path("text.tokens").touch()
    Path("empty.txt").touch()
    Path("binary.txt").write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=sentence):
        prepare_tokens(text, Path(out), tokenizer)
    assert not Path("a.tokens").exists()
