"""What counting alone predicts: Kneser-Ney's mixture of pairs, triples and so on.

It takes a second and knows nothing but which tokens stood together how often, so it
says how hard a text is before anything is trained (see `plan.expected_bits`). What it
leaves out: unigram and bigram as chapter 07 has them (see `evaluation`).
"""

import numpy as np
from jaxtyping import Float, Integer

DISCOUNT = 0.75  # taken from every count; the usual value for counts of words


def kneser_ney(
    train: Integer[np.ndarray, " N"],
    text: Integer[np.ndarray, " M"],
    vocab_size: int,
    order: int = 4,
) -> Float[np.ndarray, " M"]:
    """Nats for each token of `text`, which follows `train`, after `order` - 1 others.

    Interpolated Kneser-Ney (Chen and Goodman, 1999, "An Empirical Study of Smoothing
    Techniques for Language Modeling", section 2.7): from every count of a token after
    its context the discount is taken, and what that frees is shared out as the next
    shorter context says. There a token counts not as often as it occurred, but as often
    as another token stood before that shorter sequence.

    >>> kneser_ney(np.array([0, 1, 0, 1, 0]), np.array([1]), 2).round(2)
    array([0.21])
    """
    ids = np.concatenate([train, text]).astype(np.int64)
    n = len(train)
    # Which of the different sequences of k + 1 tokens ends at each place, and which of
    # k ends before it; of none at all there is one.
    grams, contexts = [], [np.zeros(len(ids), np.int64)]
    for _ in range(order + 1):
        grams.append(_distinct(contexts[-1] * vocab_size + ids))
        contexts.append(_before(grams[-1]))
    guess = np.full(len(ids) - n, 1.0 / vocab_size)
    for k in range(order):
        gram, context = grams[k], contexts[k]
        counted = np.arange(n) if k == order - 1 else _first(grams[k + 1][:n])
        count = np.bincount(gram[counted], minlength=gram.max() + 1)
        total = np.bincount(context[counted], minlength=context.max() + 1)
        kinds = counted[_first(gram[counted])]
        followers = np.bincount(context[kinds], minlength=len(total))
        here, there = gram[n:], context[n:]
        kept = np.maximum(count[here] - DISCOUNT, 0)
        mixed = kept + DISCOUNT * followers[there] * guess
        seen = total[there] > 0
        guess = np.where(seen, mixed / np.maximum(total[there], 1), guess)
    return -np.log(guess)


def _before(ranks: Integer[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """Of each place the rank at the place before it; a new one before the first."""
    return np.concatenate([[ranks.max() + 1], ranks[:-1]])


def _distinct(keys: Integer[np.ndarray, " N"]) -> Integer[np.ndarray, " N"]:
    """Equal keys get equal numbers from 0 on."""
    return np.unique(keys, return_inverse=True)[1].reshape(-1)


def _first(keys: Integer[np.ndarray, " N"]) -> Integer[np.ndarray, " K"]:
    """The places at which each different key stands first."""
    return np.unique(keys, return_index=True)[1]
