"""joined_tokens: several token files give what one file of all their texts gives."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import TEXT

from tinygpt.errors import UserError
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.dataset import Batches, whole_split
from tinygpt.text.joined_tokens import JoinedIds, find_tokens, open_joined
from tinygpt.text.token_file import prepare_tokens
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.text_data import TextData


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXT, 290)


@pytest.fixture
def here(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Texts of one, three and one documents, their token files, and one of all."""
    monkeypatch.chdir(tmp_path)
    for folder in ("texts", "parts", "whole"):
        Path(folder).mkdir()
    three = f"\n{'<|endoftext|>'}\n".join([TEXT] * 3)
    for name, text in (("a", TEXT), ("b", three), ("c", TEXT * 2)):
        Path(f"texts/{name}.txt").write_text(text, encoding="utf-8")
        prepare_tokens(f"texts/{name}.txt", Path(f"parts/{name}.tokens"), tokenizer)
    prepare_tokens("texts", Path("whole/all.tokens"), tokenizer)
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        "parts",
        "parts/*.tokens",
        "parts/[ab].tokens,parts/c.tokens",
        "parts/a.tokens,parts/b.tokens,parts/c.tokens",
    ],
)
def test_parts_train_as_one_text(name: str, here: Path, tokenizer: Tokenizer) -> None:
    ids = open_joined(find_tokens(name), tokenizer)
    one = open_joined([Path("whole/all.tokens")], tokenizer)
    assert isinstance(ids, JoinedIds)
    assert np.asarray(ids).tolist() == one.tolist()
    parts, whole = (TextData(n, tokenizer, 8) for n in (name, "whole/all.tokens"))
    assert torch.equal(parts.val, whole.val)
    assert parts.train_text == whole.train_text
    assert parts.n_tokens == whole.n_tokens
    for step in range(20):
        mine, theirs = (
            Batches(text.train, 8, 3, seed=4).at(step) for text in (parts, whole)
        )
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_arrays_are_read_as_one() -> None:
    whole = np.arange(30, dtype="uint16")
    joined = JoinedIds([whole[:7], whole[7:7], whole[7:8], whole[8:]])
    assert len(joined) == 30
    for begin in (0, 5, 7, 8, 20, -4):
        for end in (0, 7, 8, 9, 30, None):
            piece = joined[begin:end]
            assert len(piece) == len(whole[begin:end])
            if len(piece):
                assert np.asarray(piece).tolist() == whole[begin:end].tolist()
    index = np.array([[0, 6, 7], [29, 8, 7]])
    assert joined[index].tolist() == index.tolist()
    mine = list(whole_split(joined, 4, 2))
    theirs = list(whole_split(whole, 4, 2))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(mine, theirs, strict=True))


def test_parts_stay_on_disk(here: Path, tokenizer: Tokenizer) -> None:
    text = TextData("parts", tokenizer, 8)
    assert isinstance(text.train, JoinedIds)
    assert len(Batches(text.train, 8, 3, seed=4)._maps) == 3


def test_a_name_that_means_a_text_or_nothing(here: Path, tokenizer: Tokenizer) -> None:
    for name in ("handbook", "texts", "texts/*.txt", "no such thing", "a\0"):
        assert find_tokens(name) == []
    Path("parts/notes.md").touch()
    assert find_tokens("parts") == []
    with pytest.raises(UserError, match=r"gone-\*\.tokens finds no token files"):
        find_tokens("gone-*.tokens")


def test_the_part_of_another_vocabulary_is_named(
    here: Path, tokenizer: Tokenizer
) -> None:
    prepare_tokens("texts/a.txt", Path("parts/d.tokens"), train_bpe(TEXT, 280))
    with pytest.raises(UserError, match=r"parts/d\.tokens holds tokens of bpe-280"):
        open_joined(find_tokens("parts"), tokenizer)
