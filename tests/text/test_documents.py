"""Documents: found in every kind of file, split as wholes, ended by one token."""

import json
from pathlib import Path

import pytest

from tinygpt.errors import UserError
from tinygpt.text.bpe_training import (
    auto_vocab_size,
    learn_vocabulary,
    naive_train_bpe,
    train_bpe,
)
from tinygpt.text.documents import (
    encode_documents,
    load_documents,
    split_documents,
    split_text,
)
from tinygpt.text.tokenizer import get_tokenizer


def test_a_line_ends_a_document(tmp_path: Path) -> None:
    file = tmp_path / "two.txt"
    file.write_bytes(
        b"One.\n<|endoftext|>\n\n \n<|endoftext|>  \r\nTwo <|endoftext|>.\n"
    )
    assert load_documents(str(file)) == ["One.\n", "Two <|endoftext|>.\n"]
    file.write_text("One.\nTwo.\n<|endoftext|>")
    assert load_documents(str(file)) == ["One.\nTwo.\n"]


def test_a_line_of_json_and_a_file_of_a_folder_are_documents(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "Hi  there"}]}
    lines = [json.dumps(line) for line in ({"text": "Once"}, chat, {"text": "Two\n"})]
    (tmp_path / "b.jsonl").write_text("\n".join(lines))
    (tmp_path / "a.md").write_text("# Title\n")
    assert load_documents(str(tmp_path)) == [
        "# Title\n",
        "Once\n",
        "User: Hi there\n",
        "Two\n",
    ]


@pytest.mark.parametrize("line", ['{"text": 1}', "[]", '{"text": "\\ud800"}', "{}"])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "Once"}\n' + line)
    with pytest.raises(UserError, match="line 2 is not a chat like"):
        load_documents(str(tmp_path / "x.jsonl"))


def test_nothing_but_separators_is_empty(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("<|endoftext|>\n<|endoftext|>\n")
    with pytest.raises(UserError, match="is empty"):
        load_documents(str(tmp_path / "x.txt"))


def test_whole_documents_validate() -> None:
    documents = [f"Document {i:03d}." for i in range(100)]
    train, val = split_documents(documents)
    assert train + val == documents
    assert len(train) == 91  # the one in which the cut falls trains


def test_a_long_document_is_cut() -> None:
    assert split_documents(["a" * 100]) == (["a" * 90], ["a" * 10])
    train, val = split_documents(["a" * 50, "b" * 50])
    assert (train, val) == (["a" * 50, "b" * 40], ["b" * 10])


def test_the_last_document_validates_however_short_the_others_are() -> None:
    documents = ["a" * 100] * 99 + ["b"]
    train, val = split_documents(documents, train_fraction=0.9999)
    assert (len(train), val) == (99, ["b"])


def test_of_a_very_long_text_a_part_of_fixed_size_validates() -> None:
    train, val = split_documents(["a" * 50_000_000])
    assert (len(train[0]), len(val[0])) == (46_000_000, 4_000_000)


def test_stories_do_not_leak() -> None:
    documents = load_documents("stories")
    train, val = split_documents(documents)
    assert len(documents) == 3473
    assert train + val == documents
    assert not set(train) & set(val)
    assert 0.9 <= sum(map(len, train)) / sum(map(len, documents)) < 0.901


def test_each_document_is_followed_by_its_end() -> None:
    tokenizer = get_tokenizer("handbook-4k")
    end, documents = tokenizer.end_of_text, ["One.\n", "Two <|endoftext|>.\n"]
    ids = encode_documents(documents, tokenizer)
    one, two = (tokenizer.encode(document) for document in documents)
    assert ids == [*one, end, *two, end]
    assert end not in one + two
    assert encode_documents(documents, tokenizer, separate=False) == one + two


@pytest.mark.slow
def test_no_merge_crosses_from_one_document_into_the_next() -> None:
    apart, naive = train_bpe(["ab", "ab", "cab"], 259), naive_train_bpe("ab ab", 258)
    assert apart.merges() == [(b"a", b"b"), (b"c", b"ab")]
    assert naive.merges() == [(b"a", b"b")]
    documents = load_documents("stories")[:40]
    fast, slow = train_bpe(documents, 400), naive_train_bpe(documents, 400)
    assert fast.ranks == slow.ranks


def test_the_shipped_vocabulary_is_learned_from_the_handbook() -> None:
    train, _ = split_documents(load_documents("handbook"))
    learned, shipped = learn_vocabulary(train), get_tokenizer("handbook-4k")
    assert learned.ranks == shipped.ranks
    assert learned.special_tokens == shipped.special_tokens


@pytest.mark.parametrize(
    ("n_bytes", "size"),
    [(0, 512), (200, 512), (100_000, 1024), (200_000, 2048), (3_000_000, 4096)],
)
def test_the_size_of_a_vocabulary_follows_the_text(n_bytes: int, size: int) -> None:
    assert auto_vocab_size(n_bytes) == size


@pytest.mark.parametrize("text", ["a", " ", "aaaa", "\U0001f600\U0001f603", "x" * 500])
def test_a_strange_text_gives_a_small_vocabulary(text: str) -> None:
    tokenizer = learn_vocabulary([text])
    assert 257 <= tokenizer.vocab_size <= 512
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_several_texts_are_split_each_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one whose name has a comma; a text named twice trains twice."""
    monkeypatch.chdir(tmp_path)
    Path("one.txt").write_text("abcdefghij" * 10, encoding="utf-8")
    Path("two.txt").write_text("0123456789" * 10, encoding="utf-8")
    Path("one.txt,two.txt.txt").write_text("comma" * 20, encoding="utf-8")
    one, two = split_text("one.txt"), split_text("two.txt")
    assert one == (["abcdefghij" * 9], ["abcdefghij"])
    train, val = split_text("one.txt,two.txt,two.txt")
    assert train == one[0] + two[0] + two[0]
    assert val == one[1] + two[1] + two[1]
    assert split_text("one.txt,two.txt.txt") == (["comma" * 18], ["comma" * 2])
    with pytest.raises(UserError, match="three"):
        split_text("one.txt,three.txt")
