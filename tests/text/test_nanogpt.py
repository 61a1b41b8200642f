"""nanogpt: that program reads what we write, and we what it writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TEXT

from tinygpt.cli.main import main
from tinygpt.errors import UserError
from tinygpt.text.bpe import END_OF_TEXT, GPT2_PATTERN
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.documents import encode_documents, load_documents
from tinygpt.text.nanogpt import prepare_bins
from tinygpt.text.token_file import open_tokens, prepare_tokens
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.text_data import TextData, tokenizer_for


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXT, 290)


@pytest.fixture
def here(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a text of forty documents and a vocabulary."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(f"{TEXT}{END_OF_TEXT}\n" * 40, encoding="utf-8")
    tokenizer.save("small.tiktoken")
    return tmp_path


def as_nanogpt_writes(ids: list[int], path: Path) -> None:
    """The end of data/openwebtext/prepare.py."""
    path.parent.mkdir(exist_ok=True)
    array = np.memmap(path, dtype=np.uint16, mode="w+", shape=(len(ids),))
    array[:] = ids
    array.flush()


def as_nanogpt_reads(path: Path, begin: int, block_size: int) -> torch.Tensor:
    """A window of `get_batch` in its train.py."""
    data = np.memmap(path, dtype=np.uint16, mode="r")
    return torch.from_numpy(data[begin : begin + block_size].astype(np.int64))


def test_nanogpt_reads_what_we_write(
    here: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare = ["data", "prepare", "text.txt", "--tokenizer", "small.tiktoken"]
    main([*prepare, "--workers", "1", "--out", "mine/train.bin"])
    train, val = here / "mine/train.bin", here / "mine/val.bin"
    assert sorted(path.name for path in train.parent.iterdir()) == [
        "train.bin",
        "val.bin",
    ]
    ids = encode_documents(load_documents("text.txt"), tokenizer)
    n_train, n_val = train.stat().st_size // 2, val.stat().st_size // 2
    assert f"{n_train:,} tokens of bpe-290, and {n_val:,} in" in capsys.readouterr().out
    written = [as_nanogpt_reads(train, 0, 10**9), as_nanogpt_reads(val, 0, 10**9)]
    assert torch.cat(written).tolist() == ids
    assert as_nanogpt_reads(train, 7, 20).tolist() == ids[7:27]
    assert n_val == pytest.approx(len(ids) / 10, rel=0.3)
    assert written[0][-1] == written[1][-1] == tokenizer.end_of_text  # whole documents


@pytest.mark.parametrize("name", ["theirs", "theirs/train.bin"])
def test_we_train_on_what_nanogpt_writes(
    name: str, here: Path, tokenizer: Tokenizer
) -> None:
    ids = encode_documents(load_documents("text.txt"), tokenizer)
    as_nanogpt_writes(ids[:3000], here / "theirs/train.bin")
    as_nanogpt_writes(ids[3000:3500], here / "theirs/val.bin")
    text = TextData(name, tokenizer, 8)
    assert isinstance(text.train, np.memmap)
    assert text.train.tolist() == ids[:3000]
    assert text.val.tolist() == ids[3000:3500]
    words = "--tokenizer small.tiktoken --steps 3 --name r --device cpu --batch-size 2"
    shape = "--d-model 8 --n-heads 2 --n-layers 1 --context-length 8 --eval-windows 4"
    main(["train", name, *words.split(), *shape.split(), "--prompt", ""])
    assert RunFolder("runs/r").configs()[1].data == name
    main(["eval", "--model", "runs/r"])


def test_a_bin_alone_is_split_as_a_token_file(here: Path, tokenizer: Tokenizer) -> None:
    prepare_tokens("text.txt", Path("a.tokens"), tokenizer)
    ids = open_tokens(Path("a.tokens"), tokenizer)
    as_nanogpt_writes(ids.tolist(), Path("b.bin"))
    ours, theirs = (TextData(n, tokenizer, 8) for n in ("a.tokens", "b.bin"))
    assert np.array_equal(ours.train, theirs.train)
    assert torch.equal(ours.val, theirs.val)
    both = TextData("a.tokens,b.bin", tokenizer, 8)
    assert len(both.train) + len(both.val) == 2 * len(ids)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "there is no file bad.bin"),
        (b"", "bad.bin has 0 bytes, but ids of two bytes"),
        (b"\1\0\2", "bad.bin has 3 bytes, but ids"),
        (b"\x21\1\x22\1", "the token id 290, and bpe-290 has 290 entries: choose the"),
        (b"tinygpt tokens 1\n{}", "is a token file with a header: call it NAME.tokens"),
    ],
)
def test_a_bin_that_cannot_be_used(
    content: bytes | None, sentence: str, here: Path, tokenizer: Tokenizer
) -> None:
    if content is not None:
        Path("bad.bin").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        open_tokens(Path("bad.bin"), tokenizer)


def test_a_vocabulary_that_nobody_names(here: Path, tokenizer: Tokenizer) -> None:
    as_nanogpt_writes([1, 2, 3], Path("a.bin"))
    with pytest.raises(UserError, match=r"a\.bin does not say which vocabulary"):
        tokenizer_for("auto", "a.bin")
    Path("meta.pkl").touch()
    with pytest.raises(UserError, match=r"vocabulary of its own in meta\.pkl, a"):
        open_tokens(Path("a.bin"), tokenizer)


@pytest.mark.parametrize(
    ("out", "highest", "sentence"),
    [
        ("other.bin", 289, "nanoGPT's file is called train.bin, not 'other.bin'"),
        ("new/train.bin", 65_536, "have two bytes, and high has 65,537 entries"),
        ("there/train.bin", 289, "there/val.bin is there already"),
        ("no/new/train.bin", 289, "cannot write no/new/train.bin"),
        ("text.txt/train.bin", 289, "cannot write text.txt/train.bin"),
    ],
)
def test_what_cannot_be_prepared(
    out: str, highest: int, sentence: str, here: Path, tokenizer: Tokenizer
) -> None:
    Path("there").mkdir()
    Path("there/val.bin").touch()
    high = Tokenizer("high", tokenizer.ranks, GPT2_PATTERN, {END_OF_TEXT: highest})
    with pytest.raises(UserError, match=sentence):
        prepare_bins("text.txt", Path(out), high)
    assert not Path(out).exists()


def test_a_text_that_is_too_short_leaves_nothing(
    here: Path, tokenizer: Tokenizer
) -> None:
    Path("short.txt").write_text("a", encoding="utf-8")
    with pytest.raises(UserError, match="too short"):
        prepare_bins("short.txt", Path("new/train.bin"), tokenizer)
    assert list(Path("new").iterdir()) == []
