"""evaluation: losses by hand, baselines against slow twins, copies by brute force."""

import math
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.fast import linear_cross_entropy
from tinygpt.model.gpt import GPT
from tinygpt.training.evaluation import (
    Evaluation,
    baselines,
    bigram,
    evaluate,
    longest_copy,
    unigram,
)
from tinygpt.training.loss import NextTokenLoss

ROOT = Path(__file__).resolve().parents[2]
B, T, V = 3, 5, 7


class Table(nn.Module):
    """A model that knows one row of logits for each token; it counts its calls."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.logits[ids]


# One loss, three units.


def test_units_by_hand() -> None:
    """8 targets of ln 16 nats; the 6 that are text have 24 bits in 15 bytes: 1.6."""
    result = Evaluation(math.log(16), tokens=8, text_nats=6 * math.log(16), bytes=15)
    assert result.perplexity == pytest.approx(16)
    assert result.bits_per_byte == pytest.approx(1.6)
    assert math.isfinite(Evaluation(1e6, 8, 8e6, 20).perplexity)


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_evaluate_counts_each_token_once(training: bool, wrapped: bool) -> None:
    """Batches of different size, with tokens that do not count, and one with none."""
    model = Table(torch.randn(V, V)).train(training)
    byte_lengths = [1, 2, 3, 0, 6, 8, 11]  # token 3 is special: no bytes, no nats
    batches = []
    for shape, ignored in [((4, 9), 3), ((1, 2), 0), ((2, 3), 3), ((5, 1), 0)]:
        ids, targets = torch.randint(V, (2, *shape))
        targets[:, :ignored] = -100
        batches.append((ids, targets))
    loss = NextTokenLoss(model).train(training)
    result = evaluate(loss if wrapped else model, batches, byte_lengths)

    pairs = [
        (i, t)
        for ids, targets in batches
        for i, t in zip(ids.flatten().tolist(), targets.flatten().tolist(), strict=True)
        if t != -100
    ]
    logs = model.logits.detach().double().log_softmax(dim=1)
    nats = [-logs[i, t].item() for i, t in pairs]
    assert result.nats_per_token == pytest.approx(sum(nats) / len(pairs), abs=1e-6)
    text = [n for n, (_, t) in zip(nats, pairs, strict=True) if t != 3]
    assert 0 < len(text) < len(pairs)
    assert result.text_nats == pytest.approx(sum(text), abs=1e-4)
    assert result.tokens == len(pairs) == 4 * 6 + 2 + 5
    assert result.bytes == sum(int(byte_lengths[t]) for _, t in pairs)
    assert set(model.modes) == {(False, False)}  # no dropout, no gradients
    assert model.training == training


def test_mask_and_positions_reach_the_model() -> None:
    class Nosy(Table):
        def forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
            self.seen = mask, positions
            return super().forward(ids)

    model, (ids, targets) = Nosy(torch.zeros(V, V)), torch.randint(V, (2, B, T))
    mask, positions = torch.ones(B, 1, T, T, dtype=torch.bool), ids
    result = evaluate(model, [(ids, targets, mask, positions)], [1] * V)
    assert result.nats_per_token == pytest.approx(math.log(V))
    assert model.seen[0] is mask
    assert model.seen[1] is positions


def test_no_gradients_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor prepared for by the chunked head, which makes them in its forward pass."""
    wanted = []

    def watched(*arguments: Any) -> Any:
        wanted.append(tuple(arguments[-1]))
        return chunked(*arguments)

    chunked = linear_cross_entropy.chunked
    monkeypatch.setattr(linear_cross_entropy, "chunked", watched)
    model = GPT(GPTConfig(V, T, d_model=8, n_heads=2, n_layers=1))
    ids, targets = torch.randint(V, (2, B, T))
    evaluate(model, [(ids, targets)], [1] * V)
    assert wanted == [(False, False, False)]
    NextTokenLoss(model)(ids, targets)  # while training does want them
    assert [w[:2] for w in wanted[1:]] == [(True, True)]


@pytest.mark.parametrize("target", [-100, 3])
def test_nothing_to_evaluate(target: int) -> None:
    """No target, or only special tokens, which are no text."""
    model, lengths = Table(torch.zeros(V, V)).train(), [1, 1, 1, 0, 1, 1, 1]
    batches = [(torch.zeros(B, T, dtype=torch.long), torch.full((B, T), target))]
    with pytest.raises(UserError, match="there is no text to validate on"):
        evaluate(model, batches, lengths)
    assert model.training


# The baselines.


def naive_unigram(train: list[int], text: list[int]) -> float:
    counts = Counter(train)
    total = len(train) + V
    return -sum(math.log((counts[b] + 1) / total) for b in text) / len(text)


def naive_bigram(train: list[int], text: list[int]) -> float:
    counts, after = Counter(train), defaultdict(Counter)
    for a, b in pairwise(train):
        after[a][b] += 1
    nats = 0.0
    for a, b in pairwise(text):
        alone = (counts[b] + 1) / (len(train) + V)
        seen, kinds = after[a].total(), len(after[a])
        guess = (after[a][b] + kinds * alone) / (seen + kinds) if seen else alone
        nats -= math.log(guess)
    return nats / (len(text) - 1)


IDS = st.lists(st.integers(0, V - 1), min_size=2, max_size=30)


@given(IDS, IDS)
def test_baselines_equal_their_slow_twins(train: list[int], text: list[int]) -> None:
    tensors = torch.tensor(train), torch.tensor(text)
    assert unigram(*tensors, V) == pytest.approx(naive_unigram(train, text))
    assert bigram(*tensors, V) == pytest.approx(naive_bigram(train, text))


@settings(max_examples=15, deadline=None)
@given(IDS)
def test_guesses_sum_to_one(train: list[int]) -> None:
    known = torch.tensor(train)
    alone = [math.exp(-unigram(known, torch.tensor([b]), V)) for b in range(V)]
    assert sum(alone) == pytest.approx(1)
    for a in range(V):
        pairs = [torch.tensor([a, b]) for b in range(V)]
        assert sum(math.exp(-bigram(known, p, V)) for p in pairs) == pytest.approx(1)


def test_bigram_by_hand() -> None:
    """After 0 came 1 twice and 2 once; p(1|0) = (2 + 2 * 3/9) / (3 + 2) = 8/15."""
    train = torch.tensor([0, 1, 0, 1, 0, 2])
    loss = bigram(train, torch.tensor([0, 1]), vocab_size=3)
    assert loss == pytest.approx(-math.log(8 / 15))


def test_baselines_on_english_are_in_order() -> None:
    """Bytes as tokens: 8 bits without knowledge, fewer with each step of it."""
    data = (ROOT / "data" / "sales_handbook.txt").read_bytes()[:60_000]
    ids = torch.tensor(list(data))
    bits = baselines(ids[:50_000], ids[50_000:], 256, bytes)
    assert bits["uniform"] == pytest.approx(8, abs=1e-12)
    assert 8 > bits["unigram"] > bits["bigram"] > bits["gzip"] > bits["xz"] > 1


def test_compressors_find_a_repetition() -> None:
    """Text that was seen is cheap, if it is not too far back for gzip (32 kB)."""
    seen = torch.randint(256, (50_000,))
    near = baselines(seen, seen[-9_000:], 256, bytes)
    far = baselines(seen, seen[:9_000], 256, bytes)
    assert near["uniform"] == far["uniform"] == pytest.approx(8)
    assert near["gzip"] < 0.2
    assert near["xz"] < 1
    assert far["gzip"] > 7.9
    assert far["xz"] < 1


def test_baselines_are_per_byte() -> None:
    """Tokens of three bytes each: a third of the bits."""
    train, text = torch.randint(V, (2, 40))
    bits = baselines(train, text, V, lambda ids: b"".join(bytes([i] * 3) for i in ids))
    assert bits["uniform"] == pytest.approx(math.log2(V) / 3)
    assert bits["unigram"] == pytest.approx(unigram(train, text, V) / math.log(8))
    assert bits["bigram"] == pytest.approx(bigram(train, text, V) / math.log(8))


# The memorisation report.


def naive_longest_copy(sample: str, text: str) -> str:
    words, source = sample.split(), f" {' '.join(text.split())} "
    runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    copied = [run for run in runs if f" {' '.join(run)} " in source]
    return " ".join(max(copied, key=len, default=[]))  # max: the first of several


WORDS = st.lists(st.sampled_from(["ab", "a", "b", "bc"]), max_size=12)


@given(WORDS, WORDS, st.sampled_from([" ", "\n\n", "\t "]))
def test_longest_copy_equals_brute_force(
    sample: list[str], source: list[str], space: str
) -> None:
    copy = longest_copy(space.join(sample), " ".join(source))
    assert copy == naive_longest_copy(" ".join(sample), " ".join(source))
