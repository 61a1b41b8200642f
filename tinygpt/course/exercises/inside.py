"""The exercises of chapter 10, a look inside: solutions, cases, and likely mistakes."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead

Step = Callable[[Tensor], Tensor]


def previous_score(weights: Tensor) -> float:
    """Mean weight [T, T] on the token before, over the queries 1 to T - 1."""
    return weights.diagonal(-1).mean().item()


def _previous_over_all_rows(weights: Tensor) -> float:
    return weights.diagonal(-1).sum().item() / len(weights)


def lens(x: Tensor, norm: Step, head: Step) -> Tensor:
    """The logits of a stream x from the middle of the model."""
    return head(norm(x))


def silence(mixed: Tensor, n_heads: int, head: int) -> Tensor:
    """The mixed values [B, T, C] without those of one head."""
    head_dim = mixed.size(-1) // n_heads
    silent = mixed.clone()
    silent[..., head * head_dim : (head + 1) * head_dim] = 0
    return silent


def longest_copy(sample: list[str], source: list[str]) -> int:
    """The length of the longest run of words of sample that is also in source."""
    longest = 0
    for i in range(len(sample)):
        for j in range(len(source)):
            n = 0
            while sample[i + n : i + n + 1] == source[j + n : j + n + 1] != []:
                n += 1
            longest = max(longest, n)
    return longest


def _copy_words(sample: list[str], source: list[str]) -> int:
    return sum(word in source for word in sample)


def _copy_with_gaps(sample: list[str], source: list[str]) -> int:
    """The longest common subsequence."""
    best = [0] * (len(source) + 1)
    for word in sample:
        before = best[:]
        for j, other in enumerate(source):
            longer = before[j] + 1 if word == other else before[j + 1]
            best[j + 1] = max(longer, best[j])
    return best[-1]


_chance = torch.Generator().manual_seed(10)
WEIGHTS = torch.tensor(
    [[1, 0, 0, 0], [0.9, 0.1, 0, 0], [0.1, 0.8, 0.1, 0], [0.1, 0.1, 0.7, 0.1]]
)
MORE_WEIGHTS = torch.randn(6, 6, generator=_chance).exp().tril()
MORE_WEIGHTS = MORE_WEIGHTS / MORE_WEIGHTS.sum(dim=-1, keepdim=True)
STREAM = torch.randn(2, 3, 5, generator=_chance) + 1
TABLE = torch.randn(7, 5, generator=_chance)
MIXED = torch.randn(2, 3, 12, generator=_chance)
SAYING = ["listen", "first", "and", "then", "ask", "one", "short", "question"]


def norm(x: Tensor) -> Tensor:
    """Layer norm without gain: mean 0 and variance 1 along the last axis."""
    return F.layer_norm(x, x.shape[-1:])


def unembed(x: Tensor) -> Tensor:
    """From 5 numbers to the logits of 7 tokens."""
    return F.linear(x, TABLE)


EXERCISES = [
    Exercise(
        name="inside.previous_score",
        solution=previous_score,
        cases=((WEIGHTS,), (MORE_WEIGHTS,)),
        mistakes=(
            Mistake(
                lambda weights: weights.diagonal().mean().item(),
                "that is the weight on the token itself: go one below the diagonal, "
                "to key t - 1.",
            ),
            Mistake(
                lambda weights: weights.diagonal(1).mean().item(),
                "you look one above the diagonal, at the next token, which the mask "
                "hides: take diagonal(-1).",
            ),
            Mistake(
                _previous_over_all_rows,
                "you divide by T, but the first token has nothing before it: divide "
                "by T - 1.",
            ),
            Mistake(
                lambda weights: weights[1:, 0].mean().item(),
                "that is the weight on the first token of the text: take the key "
                "t - 1 for each query t.",
            ),
        ),
    ),
    Exercise(
        name="inside.lens",
        solution=lens,
        cases=((STREAM, norm, unembed), (STREAM[0] * 3, norm, unembed)),
        mistakes=(
            Mistake(
                lambda x, norm, head: head(x),
                "the final norm is missing: the head was trained on normalised "
                "vectors.",
            ),
            Mistake(
                lambda x, norm, head: norm(head(x)),
                "the order is reversed: first the norm, then the head.",
            ),
            Mistake(
                lambda x, norm, head: head(norm(x)).softmax(dim=-1),
                "these are probabilities; the lens should give logits, before the "
                "softmax.",
            ),
        ),
    ),
    Exercise(
        name="inside.silence",
        solution=silence,
        cases=((MIXED, 3, 1), (MIXED, 6, 4)),
        mistakes=(
            Mistake(
                instead(silence, "silent[..., head::n_heads] = 0"),
                "you take every n_heads-th number; those of one head lie side by "
                "side, from head * head_dim on.",
            ),
            Mistake(
                instead(
                    silence, "silent[..., (head - 1) * head_dim : head * head_dim] = 0"
                ),
                "you silence the head before: heads are counted from 0.",
            ),
            Mistake(
                instead(silence, "return mixed - silent"),
                "you keep that head and silence all others: do the opposite.",
            ),
            Mistake(
                instead(silence, "silent[..., head] = 0"),
                "you set a single number to 0; a head has C / n_heads of them.",
            ),
        ),
    ),
    Exercise(
        name="inside.longest_copy",
        solution=longest_copy,
        cases=(
            (["a", "b", "c"], ["b", "c", "a"]),
            (["you", "ask", "one", "short", "question", "then", "first"], SAYING),
            (["then", "ask", "listen", "first", "and", "question"], SAYING),
        ),
        mistakes=(
            Mistake(
                _copy_words,
                "you count the words that occur anywhere; a copy is a run of "
                "neighbours in the same order.",
            ),
            Mistake(
                instead(longest_copy, "for i in range(1):"),
                "you look only for runs from the first word of the sample: a copy may "
                "begin at any word.",
            ),
            Mistake(
                instead(longest_copy, "    for j in range(i, i + 1):"),
                "you compare word by word at the same place; the copy may be "
                "anywhere in the source.",
            ),
            Mistake(
                _copy_with_gaps,
                "you allow gaps: after a word that differs the run is over.",
            ),
        ),
    ),
]
