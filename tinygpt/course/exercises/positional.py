"""The exercises of chapter 03, positions: solutions, cases, and likely mistakes."""

import math

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(3))
TABLE = torch.randn(5, 4, generator=torch.Generator().manual_seed(4))


def wavelength(pair: int, d_model: int) -> float:
    """Tokens in a full turn of a pair: 2 pi * 10000^(2 pair / d_model)."""
    return float(2 * math.pi * 10_000 ** (2 * pair / d_model))


def _angles(T: int, C: int, exponent: int = 2, first: int = 0) -> Tensor:
    speed = 10_000.0 ** (-exponent * torch.arange(C // 2) / C)
    return torch.arange(first, first + T).unsqueeze(1) * speed  # [T, C/2]


def _alternate(a: Tensor, b: Tensor) -> Tensor:
    return torch.stack([a, b], dim=-1).flatten(1)


def sinusoids(T: int, C: int) -> Tensor:
    """[T, C]: sine and cosine of each pair's angle, side by side."""
    return _alternate(_angles(T, C).sin(), _angles(T, C).cos())


def _sinusoids_in_halves(T: int, C: int) -> Tensor:
    return torch.cat([_angles(T, C).sin(), _angles(T, C).cos()], dim=1)


def _sinusoids_swapped(T: int, C: int) -> Tensor:
    return _alternate(_angles(T, C).cos(), _angles(T, C).sin())


def _sinusoids_too_fast(T: int, C: int) -> Tensor:
    angle = _angles(T, C, exponent=1)
    return _alternate(angle.sin(), angle.cos())


def _sinusoids_from_one(T: int, C: int) -> Tensor:
    angle = _angles(T, C, first=1)
    return _alternate(angle.sin(), angle.cos())


def add(x: Tensor, table: Tensor) -> Tensor:
    """[B, T, C] + the first T rows of [L, C]."""
    return x + table[: x.size(1)]


def turn(point: Tensor, angle: float) -> Tensor:
    """Turn a point [2] against the clock, the angle in radians."""
    (x, y), cos, sin = point, math.cos(angle), math.sin(angle)
    return torch.stack([x * cos - y * sin, x * sin + y * cos])


def _turn_overwriting(point: Tensor, angle: float) -> Tensor:
    (x, y), cos, sin = point, math.cos(angle), math.sin(angle)
    x = x * cos - y * sin
    return torch.stack([x, x * sin + y * cos])


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
                _sinusoids_in_halves,
                "all numbers are there, but sines and cosines should alternate: sine, "
                "cosine, sine, cosine.",
            ),
            Mistake(
                _sinusoids_swapped,
                "the cosine comes first in each pair; the formula begins with the "
                "sine.",
            ),
            Mistake(
                _sinusoids_too_fast,
                "the exponent of pair i is 2 * i / C; yours lacks the 2.",
            ),
            Mistake(
                _sinusoids_from_one,
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
                lambda point, angle: turn(point, -angle),
                "you turn with the clock: the minus sign belongs to the first number, "
                "x cos - y sin.",
            ),
            Mistake(
                lambda point, angle: turn(point, math.radians(angle)),
                "the angle comes in radians already: do not convert it from degrees.",
            ),
            Mistake(
                _turn_overwriting,
                "you change x before y has used it; keep the old x for both formulas.",
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
