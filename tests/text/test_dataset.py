"""dataset: the split, the batches, and the walk over a whole split."""

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinygpt.errors import UserError
from tinygpt.text import dataset
from tinygpt.text.dataset import (
    Batches,
    epoch_order,
    split_at,
    split_at_document,
    whole_split,
)


def test_split_cuts_after_nine_tenths_and_leaves_a_window_each() -> None:
    assert split_at(77, context_length=5) == 69
    assert split_at(60, context_length=5) == 54


def test_split_refuses_a_short_text_with_the_numbers() -> None:
    with pytest.raises(UserError) as failure:
        split_at(59, context_length=6)
    assert str(failure.value) == (
        "The text is too short: of its 59 tokens 53 train and 6 validate, but each "
        "part needs context_length + 1 = 7; give a longer text or a shorter "
        "context_length (at most 5)."
    )
    with pytest.raises(UserError, match=r"of its 3 tokens 2 .* context_length\.$"):
        split_at(3, context_length=6)


def test_of_a_big_text_no_more_than_a_million_tokens_validate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert split_at(10**9, context_length=5) == 10**9 - 10**6
    monkeypatch.setattr(dataset, "MOST_VALIDATION", 20)
    assert split_at(1000, context_length=5) == 980
    assert split_at(100, context_length=5) == 90


def test_a_stream_of_documents_is_cut_after_one() -> None:
    ids = torch.ones(1000, dtype=torch.int64)
    assert split_at_document(ids, 5, end_of_text=0) == 900
    ids[[880, 920, 930]] = 0
    assert split_at_document(ids, 5, end_of_text=0) == 921
    assert split_at_document(ids, 5, end_of_text=None) == 900
    ids[899] = 0
    assert split_at_document(ids, 5, end_of_text=0) == 900
    ids[:] = 1
    ids[950] = 0  # the document is longer than a twentieth
    assert split_at_document(ids, 5, end_of_text=0) == 900
    ids[920] = 0  # and here too little would be left to validate
    assert split_at_document(ids, 90, end_of_text=0) == 900


def starts_of(batches: Batches, n_epochs: int) -> list[int]:
    """Window starts of whole epochs, read one window at a time from ids 0, 1, 2..."""
    one = Batches(batches.tokens, batches.context_length, 1, batches.seed)
    return [int(one.at(step)[0][0, 0]) for step in range(n_epochs * one.n_windows)]


@settings(max_examples=50, deadline=None)
@given(
    n_tokens=st.integers(2, 90),
    context_length=st.integers(1, 20),
    seed=st.integers(0, 5),
)
def test_an_epoch_draws_every_window_once(
    n_tokens: int, context_length: int, seed: int
) -> None:
    context_length = min(context_length, n_tokens - 1)
    batches = Batches(torch.arange(n_tokens), context_length, 1, seed)
    n = batches.n_windows
    assert n == max(1, n_tokens // context_length - 1)
    starts = starts_of(batches, n_epochs=4)
    for epoch in range(4):
        drawn = sorted(starts[epoch * n : (epoch + 1) * n])
        assert 0 <= drawn[0] < context_length
        assert drawn[-1] + context_length < n_tokens
        assert np.diff(drawn).tolist() == [context_length] * (n - 1)


def test_epochs_differ_in_order_and_offset() -> None:
    batches = Batches(torch.arange(1000), context_length=7, batch_size=1, seed=3)
    n = batches.n_windows
    starts = starts_of(batches, n_epochs=6)
    epochs = [starts[e * n : (e + 1) * n] for e in range(6)]
    assert len({min(epoch) for epoch in epochs}) > 1, "another offset"
    orders = {tuple((s - min(epoch)) // 7 for s in epoch) for epoch in epochs}
    assert len(orders) == 6, "another permutation"
    assert tuple(range(n)) not in orders


STARTS = [64, 85, 15, 78, 1, 8, 29, 50, 43, 71, 36, 22, 57]
STARTS += [55, 34, 6, 90, 69, 83, 13, 20, 41, 76, 62, 48, 27]


def test_an_epochs_order_is_the_one_that_published_runs_had() -> None:
    """Another order would give other weights for the same seed."""
    assert epoch_order(8, seed=3, epoch=1).tolist() == [2, 1, 4, 0, 5, 7, 6, 3]
    batches = Batches(torch.arange(100), context_length=7, batch_size=1, seed=3)
    assert starts_of(batches, n_epochs=2) == STARTS
    offset = min(STARTS[13:])
    order = epoch_order(13, seed=3, epoch=1).tolist()
    assert [(start - offset) // 7 for start in STARTS[13:]] == order


def test_targets_are_the_next_ids() -> None:
    tokens = torch.randint(0, 50, (211,))
    x, y = Batches(tokens, context_length=7, batch_size=3, seed=0).at(5)
    assert x.shape == y.shape == (3, 7)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    text = tokens.tolist()
    for row, target in zip(x.tolist(), y.tolist(), strict=True):
        assert row[1:] == target[:-1]
        assert any(text[i : i + 8] == [*row, target[-1]] for i in range(204))


def test_batch_depends_on_seed_and_step_alone() -> None:
    tokens = torch.arange(331)
    steps = list(range(40))
    batches = Batches(tokens, context_length=5, batch_size=3, seed=11)
    forward = {step: batches.at(step) for step in steps}
    for step in reversed(steps):  # backwards, and from a fresh object
        fresh = Batches(tokens, context_length=5, batch_size=3, seed=11)
        for again in (batches.at(step), fresh.at(step)):
            assert torch.equal(forward[step][0], again[0])
            assert torch.equal(forward[step][1], again[1])
    other = Batches(tokens, context_length=5, batch_size=3, seed=12)
    assert not torch.equal(forward[0][0], other.at(0)[0])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_together_see_the_batch_of_one(world_size: int) -> None:
    tokens = torch.arange(331)
    ranks = Batches(tokens, context_length=5, batch_size=4, seed=2)
    single = Batches(tokens, context_length=5, batch_size=4 * world_size, seed=2)
    for step in range(30):  # several epochs, also batches that straddle two
        x, y = single.at(step)
        parts = [ranks.at(step, rank, world_size) for rank in range(world_size)]
        assert torch.equal(x, torch.cat([part[0] for part in parts]))
        assert torch.equal(y, torch.cat([part[1] for part in parts]))


def test_batch_larger_than_the_epoch() -> None:
    """17 ids in windows of 4: 3 windows an epoch, so a batch of 8 spans three."""
    batches = Batches(torch.arange(17), context_length=4, batch_size=8, seed=1)
    assert batches.n_windows == 3
    starts = torch.cat([batches.at(step)[0][:, 0] for step in range(3)])
    assert starts.tolist() == starts_of(batches, n_epochs=8)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_memory_mapped_ids_give_the_same_batches(tmp_path: Path, dtype: str) -> None:
    ids = torch.randint(0, 60_000, (123,))
    ids.numpy().astype(dtype).tofile(tmp_path / "ids.bin")
    mapped = np.memmap(tmp_path / "ids.bin", dtype=dtype, mode="r")
    x, y = Batches(mapped, context_length=7, batch_size=3, seed=5).at(4)
    expected = Batches(ids, context_length=7, batch_size=3, seed=5).at(4)
    assert torch.equal(x, expected[0])
    assert torch.equal(y, expected[1])
    for got, want in zip(
        whole_split(mapped, 7, 3), whole_split(ids, 7, 3), strict=True
    ):
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])


def test_a_mapped_file_is_let_go_of_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fifth window here; what comes out does not change."""
    monkeypatch.setattr(dataset, "RELEASE_AFTER", 5)
    ids = np.arange(500, dtype="uint16")
    ids.tofile(tmp_path / "ids.bin")
    mapped = np.memmap(tmp_path / "ids.bin", dtype="uint16", mode="r")
    ours = Batches(mapped[:470], context_length=7, batch_size=3, seed=5)
    theirs = Batches(ids[:470], context_length=7, batch_size=3, seed=5)
    assert [type(file) for file in ours._maps] == [mmap.mmap]
    assert theirs._maps == []
    for step in range(9):
        assert torch.equal(ours.at(step)[1], theirs.at(step)[1])
    assert ours._taken < 5 or dataset.MADV_DONTNEED is None
    assert theirs._taken == 27


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"context_length": 30}, "30 tokens are too few .* = 31"),
        ({"context_length": 0}, "not 0, 3 and 1"),
        ({"batch_size": 0}, "not 5, 0 and 1"),
        ({"seed": -1}, "not 5, 3 and -1"),
    ],
)
def test_batches_refuse_bad_sizes(sizes: dict[str, int], sentence: str) -> None:
    given_sizes = {"context_length": 5, "batch_size": 3, "seed": 1} | sizes
    with pytest.raises(UserError, match=sentence):
        Batches(torch.arange(30), **given_sizes)


def test_whole_split_worked_example() -> None:
    batches = [(x.tolist(), y.tolist()) for x, y in whole_split(torch.arange(12), 4, 3)]
    assert batches == [
        ([[0, 1, 2, 3], [4, 5, 6, 7]], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        ([[8, 9, 10]], [[9, 10, 11]]),
    ]


@settings(max_examples=50, deadline=None)
@given(
    n_tokens=st.integers(2, 90),
    context_length=st.integers(1, 20),
    batch_size=st.integers(1, 7),
)
def test_whole_split_targets_every_id_but_the_first_once(
    n_tokens: int, context_length: int, batch_size: int
) -> None:
    tokens = torch.randint(0, 1000, (n_tokens,))
    batches = list(whole_split(tokens, context_length, batch_size))
    inputs = torch.cat([x.flatten() for x, _ in batches])
    targets = torch.cat([y.flatten() for _, y in batches])
    assert torch.equal(inputs, tokens[:-1])
    assert torch.equal(targets, tokens[1:])
    assert all(len(x) <= batch_size for x, _ in batches)
    assert {x.shape[1] for x, _ in batches[:-1]} <= {context_length}
    assert batches[-1][0].shape[1] <= context_length
