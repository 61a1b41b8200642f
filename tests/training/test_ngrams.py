"""Kneser-Ney: the numbers of a plain dictionary, and probabilities that sum to 1."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from tinygpt.training.ngrams import DISCOUNT, kneser_ney


def plainly(train: list[int], text: list[int], vocab_size: int, order: int) -> list:
    """The same from the definition, with a dictionary for each length."""
    ids = train + text
    padded = [-1] * order + ids  # before the beginning stand signs of another kind

    def ending(i: int, k: int) -> tuple[int, ...]:
        return tuple(padded[i + order - k + 1 : i + order + 1])

    counts: dict[int, Counter[tuple[int, ...]]] = {}
    for k in range(1, order + 1):
        if k == order:
            counts[k] = Counter(ending(i, k) for i in range(len(train)))
        else:
            longer = {ending(i, k + 1) for i in range(len(train))}
            counts[k] = Counter(gram[1:] for gram in longer)
    total, kinds = defaultdict(int), defaultdict(int)
    for grams in counts.values():
        for gram, count in grams.items():
            total[len(gram), gram[:-1]] += count
            kinds[len(gram), gram[:-1]] += 1

    def guess(i: int, k: int) -> float:
        if k == 0:
            return 1 / vocab_size
        gram, shorter = ending(i, k), guess(i, k - 1)
        if not (seen := total[k, gram[:-1]]):
            return shorter
        kept = max(counts[k][gram] - DISCOUNT, 0)
        return (kept + DISCOUNT * kinds[k, gram[:-1]] * shorter) / seen

    return [-math.log(guess(i, order)) for i in range(len(train), len(ids))]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_numbers_are_those_of_the_definition(order: int) -> None:
    random = np.random.default_rng(order)
    for vocab_size, n in ((2, 30), (5, 200), (50, 300)):
        train, text = (random.integers(vocab_size, size=k) for k in (n, 40))
        expected = plainly(train.tolist(), text.tolist(), vocab_size, order)
        found = kneser_ney(train, text, vocab_size, order)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_the_probabilities_of_all_tokens_sum_to_one() -> None:
    train = np.random.default_rng(0).integers(7, size=100)
    for before in ([], [3], [3, 1, 4, 1]):
        each = [kneser_ney(train, np.array([*before, t]), 7)[-1] for t in range(7)]
        assert math.isclose(np.exp(-np.array(each)).sum(), 1)


def test_what_was_always_so_is_expected_and_noise_is_not() -> None:
    again = np.arange(60) % 6
    assert kneser_ney(again, again[:12], 6).mean() < 0.3
    noise = np.random.default_rng(0).integers(50, size=4000)
    assert kneser_ney(noise[:3000], noise[3000:], 50).mean() > math.log(50)
