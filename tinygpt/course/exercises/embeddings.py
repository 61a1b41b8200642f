"""The exercises of chapter 02, embeddings: solutions, cases, and likely mistakes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead

IDS = torch.tensor([[3, 1, 0], [4, 3, 2]])
TABLE = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
# Of different lengths, so that dot product and cosine disagree.
ROWS = torch.tensor([[1.0, 0.1], [2.0, 0.4], [5.0, 5.0], [-1.0, 0.0], [0.0, 3.0]])


def one_hot(ids: Tensor, vocab_size: int) -> Tensor:
    """[T] -> [T, V]: a single one per row, in the column of the id."""
    return torch.eye(vocab_size)[ids]


def lookup(table: Tensor, ids: Tensor) -> Tensor:
    """[V, C] and [B, T] -> [B, T, C]."""
    return table[ids]


def gradient(ids: Tensor, grad: Tensor, vocab_size: int) -> Tensor:
    """[T] and [T, C] -> [V, C]: each row adds up what its token's places got."""
    total = torch.zeros(vocab_size, grad.size(1))
    for place, id in enumerate(ids):
        total[id] += grad[place]
    return total


def nearest(table: Tensor, id: int, k: int) -> list[int]:
    """The k ids with the largest cosine similarity, without `id` itself."""
    directions = F.normalize(table, dim=1)
    order = (directions @ directions[id]).argsort(descending=True)
    return [i for i in order.tolist() if i != id][:k]


EXERCISES = [
    Exercise(
        name="embeddings.one_hot",
        solution=one_hot,
        cases=((torch.tensor([2, 0]), 3), (torch.tensor([1, 3, 3]), 5)),
        mistakes=(
            Mistake(
                lambda ids, vocab_size: torch.eye(vocab_size)[ids].T,
                "rows and columns are swapped: each id should have a row of vocab_size "
                "numbers.",
            ),
            Mistake(
                lambda ids, vocab_size: torch.eye(vocab_size)[ids - 1],
                "your ones are one column too far to the left: ids count from 0.",
            ),
            Mistake(
                lambda ids, vocab_size: F.one_hot(ids, vocab_size),
                "the places are right, but these are whole numbers; add .float(), so "
                "that they can be multiplied by a table.",
            ),
        ),
    ),
    Exercise(
        name="embeddings.lookup",
        solution=lookup,
        cases=((TABLE, IDS), (TABLE[:, :6], IDS[:1])),
        mistakes=(
            Mistake(
                lambda table, ids: table[:, ids],
                "you take columns; a token is a row, the first axis of the table.",
            ),
            Mistake(
                lambda table, ids: table[ids.flatten()],
                "the axes B and T have been run together; keep the shape of the ids.",
            ),
            Mistake(
                lambda table, ids: table[ids - 1],
                "you take the row above the right one: ids count from 0.",
            ),
        ),
    ),
    Exercise(
        name="embeddings.gradient",
        solution=gradient,
        cases=(
            (torch.tensor([1, 1]), torch.tensor([[2.0], [3.0]]), 2),
            (IDS.flatten(), TABLE[[0, 1, 2, 3, 4, 0]], 5),
        ),
        mistakes=(
            Mistake(
                instead(gradient, "    total[id] = grad[place]"),
                "a token that occurs twice keeps only its last gradient (so it does "
                "with total[ids] += grad); add them up one by one.",
            ),
            Mistake(
                instead(gradient, "    total[id] += grad[place] / (ids == id).sum()"),
                "you average over the places of a token; gradients of one number add "
                "up.",
            ),
            Mistake(
                instead(gradient, "    total[id] += 1"),
                "you count how often a token occurs; add the rows of grad instead of "
                "ones.",
            ),
        ),
    ),
    Exercise(
        name="embeddings.nearest",
        solution=nearest,
        cases=((ROWS, 0, 2), (ROWS, 4, 3)),
        mistakes=(
            Mistake(
                instead(nearest, "return order.tolist()[:k]"),
                "a token is most like itself: leave `id` out of your list.",
            ),
            Mistake(
                instead(nearest, "directions = table"),
                "you compare dot products, which favour long rows; divide by the "
                "lengths first.",
            ),
            Mistake(
                instead(nearest, "order = (directions @ directions[id]).argsort()"),
                "these are the least similar ones: sort from large to small.",
            ),
        ),
    ),
    Exercise(
        name="embeddings.parameters",
        solution=2 * 4096 * 64,
        mistakes=(
            Mistake(
                4096 * 64,
                "that is one table; here the head has a table of its own.",
            ),
            Mistake(
                2 * (4096 + 64),
                "rows and columns are multiplied: every token has 64 numbers.",
            ),
            Mistake(
                2 * 4096 * 64 + 4096,
                "you have added a bias for every token, but this head has none.",
            ),
        ),
    ),
]
