"""The exercises of chapter 03, positions: solutions, cases, and likely mistakes."""

import math

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3))
TABLE = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))


def wavelength(pair: int, d_model: int) -> float:
    """Tokens in a full turn of a pair: 2 pi * 10000^(2 pair / d_model)."""
    return float(2 * math.pi * 10_000 ** (2 * pair / d_model))


def sinusoids(T: int, C: int) -> Tensor:
    """[T, C]: sine and cosine of each pair's angle, side by side."""
    speed = 10000 ** (-torch.arange(0, C, 2) / C)
    angle = torch.arange(T)[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def add(x: Tensor, table: Tensor) -> Tensor:
    """[B, T, C] + the first T rows of [L, C]."""
    return x + table[: x.size(1)]


def turn(point: Tensor, angle: float) -> Tensor:
    """Turn a point [2] against the clock, the angle in radians."""
    x, y = point
    cos, sin = math.cos(angle), math.sin(angle)
    new_x = x * cos - y * sin
    new_y = x * sin + y * cos
    return torch.stack([new_x, new_y])


EXERCISES = [
    Exercise(
        name="positional.wavelength",
        solution=wavelength,
        cases=((1, 4), (5, 64), (0, 6)),
        mistakes=(
            Mistake(
                lambda pair, d_model: 10_000 ** (2 * pair / d_model),
                "that is the turn of one radian; a full turn has 2 * math.pi of them.",
            ),
            Mistake(
                lambda pair, d_model: 2 * math.pi * 10_000 ** (pair / d_model),
                "the exponent is 2 * pair / d_model, for a pair takes two dimensions.",
            ),
            Mistake(
                lambda pair, d_model: 2 * math.pi / 10_000 ** (2 * pair / d_model),
                "your waves get shorter: the wavelength is 2 * math.pi divided by the "
                "speed, which is itself 1 / 10000 ** ...",
            ),
        ),
    ),
    Exercise(
        name="positional.sinusoids",
        solution=sinusoids,
        cases=((3, 4), (7, 6)),
        mistakes=(
            Mistake(
                instead(
                    sinusoids,
                    "return torch.cat([angle.sin(), angle.cos()], dim=1)",
                ),
                "all numbers are there, but sines and cosines should alternate: sine, "
                "cosine, sine, cosine.",
            ),
            Mistake(
                instead(
                    sinusoids,
                    "return torch.stack([angle.cos(), angle.sin()], dim=-1).flatten(1)",
                ),
                "the cosine comes first in each pair; the formula begins with the "
                "sine.",
            ),
            Mistake(
                instead(sinusoids, "speed = 10000 ** (-torch.arange(C // 2) / C)"),
                "the exponent of pair i is 2 * i / C; yours lacks the 2.",
            ),
            Mistake(
                instead(sinusoids, "angle = torch.arange(1, T + 1)[:, None] * speed"),
                "your first row is position 1, but positions count from 0.",
            ),
        ),
    ),
    Exercise(
        name="positional.add",
        solution=add,
        cases=((X, TABLE), (X[:, :1], TABLE)),
        mistakes=(
            Mistake(
                lambda x, table: x + table[1 : x.size(1) + 1],
                "you begin with row 1 of the table, but positions count from 0.",
            ),
            Mistake(
                lambda x, table: x + table[: x.size(0)].unsqueeze(1),
                "every window gets a position of its own; positions count along T, the "
                "second axis, not along B.",
            ),
            Mistake(
                lambda x, table: table[: x.size(1)].expand_as(x),
                "the tokens are gone: add the positions to x.",
            ),
        ),
    ),
    Exercise(
        name="positional.turn",
        solution=turn,
        cases=(
            (torch.tensor([1.0, 0.0]), math.pi / 2),
            (torch.tensor([3.0, 1.0]), 0.7),
        ),
        mistakes=(
            Mistake(
                instead(turn, "cos, sin = math.cos(angle), math.sin(-angle)"),
                "you turn with the clock: the minus sign belongs to the first number, "
                "x cos - y sin.",
            ),
            Mistake(
                lambda point, angle: turn(point, math.radians(angle)),
                "the angle comes in radians already: do not convert it from degrees.",
            ),
            Mistake(
                instead(turn, "new_y = new_x * sin + y * cos"),
                "your new y is made from the new x; both formulas need the old one.",
            ),
        ),
    ),
    Exercise(
        name="positional.same_score",
        solution=45,
        mistakes=(
            Mistake(
                35,
                "the distance is right, but on the other side: the query came after "
                "the key.",
            ),
            Mistake(12, "the distance has changed; the query must move with the key."),
            Mistake(
                52,
                "you have added positions; keep the difference 12 - 7.",
            ),
        ),
    ),
]
