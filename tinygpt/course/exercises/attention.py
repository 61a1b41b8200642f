"""The exercises of chapter 04, attention: solutions, cases, and likely mistakes."""

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Q, K = _random(1, 2, 5, 3), _random(2, 2, 4, 3)  # [B, T, D], [B, S, D]
PAIR = (torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 1.0], [0.0, 2.0], [1.0, -1.0]]))
SCORES = _random(3, 2, 3, 5)
X = torch.arange(2 * 3 * 8.0).view(2, 3, 8)  # [B, T, C]
HEADS = torch.arange(2 * 4 * 3 * 5.0).view(2, 4, 3, 5)  # [B, H, T, D]


def scores(q: Tensor, k: Tensor) -> Tensor:
    """Dot products of queries and keys, divided by sqrt(D)."""
    products = q @ k.transpose(-2, -1)
    return products / q.size(-1) ** 0.5


def weights(scores: Tensor) -> Tensor:
    """Softmax of each row, written out."""
    powers = scores.exp()
    totals = powers.sum(dim=-1, keepdim=True)
    return powers / totals


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """[B, T, C] -> [B, T, H, D] -> [B, H, T, D]."""
    cut = x.unflatten(-1, (n_heads, -1))
    return cut.transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[B, H, T, D] -> [B, T, H, D] -> [B, T, C]."""
    return x.transpose(1, 2).flatten(2)


EXERCISES = [
    Exercise(
        name="attention.scores",
        solution=scores,
        cases=(PAIR, (Q, K)),
        mistakes=(
            Mistake(
                instead(scores, "return products"),
                "your scores are not scaled: divide by the square root of D, the "
                "length of a query.",
            ),
            Mistake(
                instead(scores, "return products / q.size(-1)"),
                "you divide by D; the spread of a dot product grows with the square "
                "root of D.",
            ),
            Mistake(
                instead(scores, "return products / q.size(-2) ** 0.5"),
                "you divide by the square root of the number of tokens; take the last "
                "axis, D, the length of a query.",
            ),
            Mistake(
                instead(
                    scores, "return (products / q.size(-1) ** 0.5).softmax(dim=-1)"
                ),
                "these are the weights already: leave softmax to the next exercise.",
            ),
            Mistake(
                instead(scores, "products = k @ q.transpose(-2, -1)"),
                "your rows are keys and your columns queries: each query should have "
                "a row.",
            ),
        ),
    ),
    Exercise(
        name="attention.weights",
        solution=weights,
        cases=((torch.tensor([[0.0, 0.0], [0.0, 1.0], [2.0, 0.0]]),), (SCORES,)),
        mistakes=(
            Mistake(
                instead(weights, "totals = powers.sum(dim=-2, keepdim=True)"),
                "your columns add up to 1, not your rows: sum over the last axis.",
            ),
            Mistake(
                instead(weights, "totals = powers.sum()"),
                "you divide by the sum of all numbers; each row has a sum of its own: "
                "sum(dim=-1, keepdim=True).",
            ),
            Mistake(
                instead(weights, "powers = scores"),
                "you divide the scores themselves, which may be negative or add up to "
                "0; take exp of them first.",
            ),
            Mistake(
                instead(weights, "return powers", without="totals ="),
                "these are positive, but no shares yet: divide each row by its sum.",
            ),
        ),
    ),
    Exercise(
        name="attention.split_heads",
        solution=split_heads,
        cases=((X, 2), (X, 4)),
        mistakes=(
            Mistake(
                instead(
                    split_heads,
                    "return x.reshape(len(x), n_heads, x.size(1), -1)",
                    without="cut =",
                ),
                "your heads mix tokens: view alone reads on across the ends of rows. "
                "Cut the last axis first, then transpose.",
            ),
            Mistake(
                instead(split_heads, "return cut"),
                "the cut is right, but the axes are still [B, T, H, D]: transpose T "
                "and H.",
            ),
            Mistake(
                instead(
                    split_heads,
                    "cut = x.unflatten(-1, (-1, n_heads)).transpose(-2, -1)",
                ),
                "your heads take every other number: cut the last axis into [H, D], "
                "not into [D, H].",
            ),
        ),
    ),
    Exercise(
        name="attention.merge_heads",
        solution=merge_heads,
        cases=((HEADS,),),
        mistakes=(
            Mistake(
                lambda x: x.reshape(len(x), x.size(2), -1),
                "you reshape before you transpose, so that numbers of several tokens "
                "end up in one row: move the heads behind the time axis first.",
            ),
            Mistake(
                lambda x: x.permute(0, 2, 3, 1).flatten(2),
                "you shuffle the heads number by number: the axes before the last "
                "step should be [B, T, H, D].",
            ),
            Mistake(
                lambda x: x.transpose(1, 2),
                "the order [B, T, H, D] is right: now flatten the last two axes "
                "into one.",
            ),
            Mistake(
                lambda x: x.mean(dim=1),
                "you average the heads; they should be side by side.",
            ),
        ),
    ),
    Exercise(
        name="attention.count",
        solution=2400,
        mistakes=(
            Mistake(
                24 * 72 + 24 * 24,
                "these are the matrices; each of the 72 and 24 outputs has a bias too.",
            ),
            Mistake(
                24 * 72 + 72,
                "that is the layer qkv; the layer output learns as well.",
            ),
            Mistake(
                4 * 2400,
                "the heads share the 24 numbers between them: do not multiply by 4.",
            ),
            Mistake(
                2 * (24 * 24 + 24),
                "count again: qkv has 72 outputs, three for each of the 24 numbers.",
            ),
        ),
    ),
]
