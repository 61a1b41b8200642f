"""chat_data: the parts of a file, packed windows, batches, what is evaluated.

A model of two thin blocks stands in for GPT-2; what is proven does not depend on size.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from string import ascii_letters

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_chat import CHAT, END, TOKENIZER, small_model, write_chats

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import UserError
from tinygpt.finetuning.chat import add_speakers, end_of_answer, render
from tinygpt.finetuning.chat_data import (
    ChatData,
    PackedBatches,
    chat_parts,
    pack,
    renumber,
)
from tinygpt.model.masking import document_mask
from tinygpt.text.corpora import load_chats
from tinygpt.text.tokenizer import get_tokenizer
from tinygpt.training.evaluation import evaluate
from tinygpt.training.loss import NextTokenLoss


@pytest.fixture
def chats(tmp_path: Path) -> str:
    """Twenty conversations, all of one kind, so that they can be learned at once."""
    return write_chats(tmp_path)


QUESTION = [{"role": "user", "content": "Hello?"}]


def as_file(path: Path, *chats: list[dict[str, str]]) -> str:
    lines = [json.dumps({"messages": chat}) for chat in chats]
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_packed_logits_equal_those_of_each_conversation_alone() -> None:
    model = small_model()
    packed = pack([CHAT, CHAT[:2], CHAT[2:]], TOKENIZER, window=64)
    assert packed.documents.max() >= 1  # some window holds two conversations
    tables = packed.ids, packed.targets, packed.documents, packed.positions
    for ids, targets, documents, positions in zip(*tables, strict=True):
        batch = (t.unsqueeze(0) for t in (ids, documents, positions))
        one, docs, place = batch
        together = model(one, mask=document_mask(docs), positions=place)[0]
        for number in range(int(documents.max()) + 1):
            here = documents == number
            alone = model(ids[here].unsqueeze(0))[0]
            torch.testing.assert_close(together[here], alone, atol=1e-5, rtol=1e-5)
        assert (targets[documents == -1] == IGNORE_INDEX).all()


def test_a_conversation_cannot_be_seen_from_its_neighbour() -> None:
    model = small_model()
    packed = pack([CHAT[:2], CHAT[2:]], TOKENIZER, window=64)
    ids, targets, mask, positions = packed[:1]
    assert len(packed) == 1
    changed, first = ids.clone(), packed.documents[:1] == 0
    changed[first] = 7  # another first conversation
    keep, loss = targets.masked_fill(first, IGNORE_INDEX), NextTokenLoss(model)
    one = loss(ids, keep, mask, positions)
    other = loss(changed, keep, mask, positions)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


def test_chat_loss_is_the_mean_over_the_assistants_tokens() -> None:
    model = small_model()
    ids, own = render(CHAT[:2], TOKENIZER)
    logits = model(torch.tensor([ids[:-1]]))[0]
    by_hand = [
        -F.log_softmax(logits[i], dim=-1)[ids[i + 1]]
        for i in range(len(ids) - 1)
        if own[i + 1]
    ]
    packed = pack([CHAT[:2]], TOKENIZER, window=64)
    loss = NextTokenLoss(model)(*packed[:])
    torch.testing.assert_close(loss, torch.stack(by_hand).mean(), atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(8, 60))
def test_packing_loses_and_doubles_nothing(sizes: list[int], window: int) -> None:
    said = [
        [{"role": "user", "content": "a " * n}, {"role": "assistant", "content": "b"}]
        for n in sizes
    ]
    packed = pack(said, TOKENIZER, window)
    rendered = [render(chat, TOKENIZER)[0] for chat in said]
    real = packed.documents >= 0
    assert int(real.sum()) == sum(min(len(ids) - 1, window) for ids in rendered)
    if all(len(ids) <= window + 1 for ids in rendered):
        inputs = sorted(t for ids in rendered for t in ids[:-1])
        assert sorted(packed.ids[real].tolist()) == inputs


def test_batches_take_each_window_once_an_epoch_and_ranks_share_them() -> None:
    packed = pack(load_chats("support-chats")[:60], TOKENIZER, window=400)
    n = len(packed)
    batches = PackedBatches(packed, batch_size=1, seed=3)
    seen = [tuple(batches.at(step)[0][0].tolist()) for step in range(n)]
    assert sorted(seen) == sorted(tuple(row.tolist()) for row in packed.ids)
    double = PackedBatches(packed, batch_size=2, seed=3)
    both = [batches.at(4, rank, world_size=2)[0] for rank in (0, 1)]
    assert torch.equal(torch.cat(both), double.at(4)[0])


def test_a_conversation_too_long_for_a_window_keeps_some_of_its_answer() -> None:
    long = [
        {"role": "user", "content": "word " * 50},
        {"role": "assistant", "content": "Short."},
    ]
    packed = pack([long, CHAT[:2]], TOKENIZER, window=24)
    ids, own = render(long, TOKENIZER)
    answer_at = own.index(True)
    assert answer_at > 24
    assert ids[-25:-1] in packed.ids.tolist()  # the end of it, all of the answer
    assert len(packed) == 2
    for targets in packed.targets:
        assert (targets != IGNORE_INDEX).any()
    longer = [long[0], {"role": "assistant", "content": "word " * 50}]
    ids, own = render(longer, TOKENIZER)
    answer_at = own.index(True)
    for window in (23, 24):  # half before, half after
        (row,) = pack([longer], TOKENIZER, window).ids.tolist()
        assert row == ids[answer_at - 12 : answer_at - 12 + window]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(2, 60))
def test_every_packed_conversation_has_a_target(sizes: list[int], window: int) -> None:
    said = [
        [
            {"role": "user", "content": "a " * n},
            {"role": "assistant", "content": "b " * (n % 7)},
        ]
        for n in sizes
    ]
    packed = pack(said, TOKENIZER, window)
    found = 0
    for row in range(len(packed)):
        for number in range(int(packed.documents[row].max()) + 1):
            here = packed.documents[row] == number
            assert (packed.targets[row][here] != IGNORE_INDEX).any()
            found += 1
    assert found == len(said)
    assert packed.left_out == 0


def test_conversations_without_an_answer_are_left_out_and_counted() -> None:
    packed = pack([[], QUESTION, CHAT, []], TOKENIZER, window=64)
    only = pack([CHAT], TOKENIZER, window=64)
    assert packed.left_out == 3
    assert only.left_out == 0
    assert (only.ids[only.documents == -1] == END).all()  # what fills the window
    for mine, theirs in zip(packed[:], only[:], strict=True):
        assert torch.equal(mine, theirs)
    assert len(pack([QUESTION, []], TOKENIZER, window=64)) == 0


def test_a_part_without_an_answer_is_refused_before_training(tmp_path: Path) -> None:
    nothing = as_file(tmp_path / "none.jsonl", *[QUESTION] * 20)
    with pytest.raises(UserError, match=r"the training part of .* has an answer"):
        ChatData(nothing, TOKENIZER, 64)
    numbered = [[{"role": "user", "content": str(i)}, CHAT[1]] for i in range(20)]
    _, val, _ = chat_parts(numbered)
    late = [QUESTION if chat in val else chat for chat in numbered]
    unanswered = as_file(tmp_path / "late.jsonl", *late)
    with pytest.raises(UserError, match=r"the validation part of .* has an answer"):
        ChatData(unanswered, TOKENIZER, 64)
    some = as_file(tmp_path / "some.jsonl", QUESTION, *[CHAT] * 19)
    assert "(1 chats without an answer left out)" in str(ChatData(some, TOKENIZER, 64))


@pytest.mark.parametrize("speakers", [False, True])
def test_the_end_mark_counts_in_the_loss_but_not_as_text(
    tmp_path: Path, speakers: bool
) -> None:
    """Bits per byte by hand: the nats of the words, over the bytes of the words."""
    model, tokenizer = small_model(), TOKENIZER
    if speakers:
        model, tokenizer = add_speakers(model, tokenizer)
    end = end_of_answer(tokenizer)
    data = ChatData(as_file(tmp_path / "two.jsonl", CHAT, CHAT), tokenizer, 64)
    result = data.evaluate(model)
    ids, own = render(CHAT, tokenizer)
    log_p = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    nats = [-log_p[i, ids[i + 1]].item() for i in range(len(ids) - 1)]
    mine = [i for i in range(len(ids) - 1) if own[i + 1]]
    words = [i for i in mine if ids[i + 1] != end]
    assert len(mine) == len(words) + 2
    assert data.n_tokens == len(ids) - 1  # of the training part, which is the other
    assert result.tokens == len(mine)
    per_token = sum(nats[i] for i in mine) / len(mine)
    assert result.nats_per_token == pytest.approx(per_token, abs=1e-5)
    said = b"Good day!See you." if speakers else b" Good day! See you."
    assert result.bytes == len(said)
    bits = sum(nats[i] for i in words) / math.log(2) / result.bytes
    assert result.bits_per_byte == pytest.approx(bits, abs=1e-5)


def test_a_sample_of_the_conversations_is_spread_and_says_so(chats: str) -> None:
    data, model = ChatData(chats, TOKENIZER, 24), small_model()
    assert len(data.val) == 2
    sample = data.evaluate(model, windows=1)
    assert not sample.whole_split
    assert sample.tokens < data.evaluate(model).tokens
    for windows in (2, 99):
        assert data.evaluate(model, windows) == data.evaluate(model)
    assert data.evaluate(model).whole_split


def test_a_sample_takes_the_first_and_the_last_window(tmp_path: Path) -> None:
    said = [
        [*QUESTION, {"role": "assistant", "content": c * 30}] for c in ascii_letters
    ]
    data = ChatData(as_file(tmp_path / "a.jsonl", *said), TOKENIZER, window=64)
    model = small_model()
    ends = data.val[[0, len(data.val) - 1]]
    expected = evaluate(model, [ends], TOKENIZER.byte_lengths)
    assert len(data.val) == 6
    assert data.evaluate(model, windows=2) == replace(expected, whole_split=False)


# --- Parts -------------------------------------------------------------------------


def test_the_parts_of_the_shops_chats_are_disjoint_whole_and_kept() -> None:
    chats = load_chats("shop-chats")
    train, val, test = chat_parts(chats)
    assert len(test) == 200
    assert len(val) == 404
    found = sorted(map(json.dumps, [*train, *val, *test]))
    assert found == sorted(map(json.dumps, chats))
    assert len(set(found)) == len(found)  # so no conversation is in two parts
    assert chat_parts(chats) == (train, val, test)
    assert chat_parts(chats, seed=2)[2] != test


@pytest.mark.slow
def test_neither_training_nor_validation_reads_the_test_part() -> None:
    data = ChatData("shop-chats", TOKENIZER, 1000)
    known: set[tuple[int, ...]] = set()
    for packed in (data.train, data.val):
        for ids, documents in zip(packed.ids, packed.documents, strict=True):
            known |= {
                tuple(ids[documents == number].tolist())
                for number in range(int(documents.max()) + 1)
            }
    train, val, test = chat_parts(load_chats("shop-chats"))
    assert len(known) == len(train) + len(val)
    assert not {tuple(render(chat, TOKENIZER)[0][:-1]) for chat in test} & known


@pytest.mark.parametrize("n", [2, 9, 10, 537, 999])
def test_a_small_file_has_no_test_part(n: int) -> None:
    chats = [[{"role": "user", "content": str(i)}] for i in range(n)]
    train, val, test = chat_parts(chats)
    assert (len(train), len(val), len(test)) == (n * 9 // 10, n - n * 9 // 10, 0)
    with pytest.raises(UserError, match="at least 2"):
        chat_parts(chats[:1])


def test_a_long_conversation_is_cut_between_turns() -> None:
    turns = [
        [
            {"role": "user", "content": f"{letter}" * 6},
            {"role": "assistant", "content": f"{letter}" * 4},
        ]
        for letter in "abcd"
    ]
    each = len(render(turns[0], TOKENIZER)[0])
    chat = [message for turn in turns for message in turn]
    packed = pack([chat], TOKENIZER, window=2 * each + 3)  # two turns, not three
    assert len(packed) == 2
    for row, two in zip(packed.ids.tolist(), (turns[:2], turns[2:]), strict=True):
        ids, _ = render(two[0] + two[1], TOKENIZER)
        assert row[: len(ids) - 1] == ids[:-1]


# --- New numbers -------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("0123459 a.", max_size=30), max_size=5), st.integers(0, 99))
def test_new_numbers_are_the_same_wherever_the_old_one_stood(
    contents: list[str], seed: int
) -> None:
    chat = [{"role": "user", "content": content} for content in contents]
    renewed = renumber(chat, np.random.default_rng(seed))
    number = re.compile(r"(?<!\d)\d{5}(?!\d)")
    old, new = (
        [n for m in messages for n in number.findall(m["content"])]
        for messages in (chat, renewed)
    )
    assert len(set(zip(old, new, strict=True))) == len(set(old)) == len(set(new))
    assert all(int(n) >= 10_000 for n in new)
    for before, after in zip(chat, renewed, strict=True):  # and nothing else is new
        assert number.sub("#", before["content"]) == number.sub("#", after["content"])


@pytest.fixture
def orders(tmp_path: Path) -> str:
    """The same twenty conversations with numbers of five digits."""
    return write_chats(tmp_path, first=70_000)


def numbers_of(batches: PackedBatches, steps: range) -> set[str]:
    texts = [TOKENIZER.decode(batches.at(step)[0].flatten().tolist()) for step in steps]
    return {n for text in texts for n in re.findall(r"\d{5}", text)}


def test_an_epoch_has_numbers_of_its_own_by_seed_and_epoch_alone(orders: str) -> None:
    data = ChatData(orders, TOKENIZER, 64)
    batches = PackedBatches(data.train, 1, 3, data.renumbered)
    n = batches.n_windows
    first = numbers_of(batches, range(n))
    second = numbers_of(batches, range(n, 2 * n))
    assert len(first) == len(second) == len(data.parts.train)
    assert len(first & second) <= 1  # by chance
    assert not first & numbers_of(PackedBatches(data.train, 1, 3), range(n))
    other = PackedBatches(data.train, 1, 3, data.renumbered)  # a run that is resumed
    for step in (n + 1, 0, 2 * n, n - 1):
        for mine, theirs in zip(batches.at(step), other.at(step), strict=True):
            assert torch.equal(mine, theirs)


def test_a_batch_between_two_epochs_takes_of_both(orders: str) -> None:
    data = ChatData(orders, TOKENIZER, 64)
    n = len(data.train)
    wide = PackedBatches(data.train, 2 * n, 3, data.renumbered).at(0)
    thin = PackedBatches(data.train, 1, 3, data.renumbered)
    for i, part in enumerate(wide):
        assert torch.equal(part, torch.cat([thin.at(step)[i] for step in range(2 * n)]))


def test_an_epoch_takes_as_many_windows_whatever_its_numbers_need(orders: str) -> None:
    data = ChatData(orders, TOKENIZER, 64)
    more, n = ChatData(orders, TOKENIZER, 32).train, len(data.train)
    assert len(more) > n
    for other, taken in ((more, n), (data.train, len(more))):
        packed = data.train if other is more else more
        batches = PackedBatches(packed, 1, 3, lambda _, other=other: other)
        seen = [tuple(batches.at(step)[0][0].tolist()) for step in range(taken)]
        assert len(set(seen)) == min(taken, len(other))


def test_digits_that_are_tokens_keep_every_length() -> None:
    tokenizer = get_tokenizer("course-4k")
    chats = load_chats("shop-chats")
    chat = next(c for c in chats if re.search(r"\d{5}", c[-1]["content"]))
    for seed in range(20):
        renewed = renumber(chat, np.random.default_rng(seed))
        assert renewed != chat
        assert len(render(renewed, tokenizer)[0]) == len(render(chat, tokenizer)[0])
