"""The exercises of chapter 06, blocks: solutions, cases, and likely mistakes."""

from collections.abc import Callable

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead, swapped

Step = Callable[[Tensor], Tensor]


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X = 2 * _random(1, 2, 3, 5) + 1  # [B, T, C]
FIRST, FIRST_BIAS = _random(2, 7, 5), _random(3, 7)  # C -> F
SECOND, SECOND_BIAS = _random(4, 5, 7), _random(5, 5)  # F -> C
LOGITS = _random(6, 3, 4, 9)  # [B, T, V]


def layer_norm(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 along the last axis."""
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / (variance + 1e-5).sqrt()


def pre_norm(x: Tensor, norm: Step, f: Step) -> Tensor:
    """Normalise what goes in, add what comes out."""
    h = x
    h = norm(h)
    h = f(h)
    return x + h


def feed_forward(
    x: Tensor, first: Tensor, first_bias: Tensor, second: Tensor, second_bias: Tensor
) -> Tensor:
    """To the hidden width, ReLU, and back."""
    hidden = x @ first.T + first_bias
    hidden = hidden.relu()
    return hidden @ second.T + second_bias


def next_id(logits: Tensor) -> Tensor:
    """The likeliest id after the end of each text."""
    return logits[:, -1].argmax(dim=-1)


def _centred(x: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
    return x - x.mean(dim=dim, keepdim=True)


def _plus_one(x: Tensor) -> Tensor:  # a stand-in for attention, not linear
    return x.square() + 1


EXERCISES = [
    Exercise(
        name="blocks.layer_norm",
        solution=layer_norm,
        cases=((torch.tensor([[[1.0, 3.0, 3.0, 9.0]], [[0.0, 4.0, 2.0, 2.0]]]),), (X,)),
        mistakes=(
            Mistake(
                instead(layer_norm, "variance = x.var(dim=-1, keepdim=True)"),
                "your variance divides by C - 1: say correction=0, so that it divides "
                "by C.",
            ),
            Mistake(
                lambda x: (
                    _centred(x, 0)
                    / (x.var(dim=0, keepdim=True, correction=0) + 1e-5).sqrt()
                ),
                "you normalise over the batch; each token should be normalised by "
                "itself, along the last axis.",
            ),
            Mistake(
                lambda x: (
                    _centred(x, 1)
                    / (x.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt()
                ),
                "you normalise over the tokens of a text; that lets them see each "
                "other. Take the last axis.",
            ),
            Mistake(
                instead(layer_norm, "return centred / (variance + 1e-5)"),
                "you divide by the variance; divide by its square root.",
            ),
            Mistake(
                instead(layer_norm, "centred = x"),
                "you scale, but do not subtract the mean: that is RMSNorm.",
            ),
        ),
    ),
    Exercise(
        name="blocks.pre_norm",
        solution=pre_norm,
        cases=((X, layer_norm, _plus_one), (X[:1], layer_norm, torch.exp)),
        mistakes=(
            Mistake(
                instead(pre_norm, "return norm(x + h)", without="h = norm"),
                "this is post-norm: you normalise the sum. Normalise what goes into f.",
            ),
            Mistake(
                instead(pre_norm, "return h"),
                "the residual is missing: add x, so that the stream goes on.",
            ),
            Mistake(
                instead(pre_norm, "return norm(x) + h"),
                "you add to the normalised vector; the stream x itself should stay as "
                "it is.",
            ),
            Mistake(
                swapped(pre_norm, "h = norm", "h = f"),
                "you normalise what comes out of f; normalise what goes in.",
            ),
        ),
    ),
    Exercise(
        name="blocks.feed_forward",
        solution=feed_forward,
        cases=(
            (
                torch.tensor([[[1.0, 2.0]]]),
                torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0]]),
                torch.tensor([0.0, 1.0, -1.0]),
                torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, -1.0]]),
                torch.tensor([0.0, 1.0]),
            ),
            (X, FIRST, FIRST_BIAS, SECOND, SECOND_BIAS),
        ),
        mistakes=(
            Mistake(
                instead(feed_forward, without="hidden = hidden"),
                "the nonlinearity is missing: two linear layers without relu between "
                "them are no more than one.",
            ),
            Mistake(
                instead(
                    feed_forward,
                    "return (hidden @ second.T + second_bias).relu()",
                    without="hidden = hidden",
                ),
                "your relu comes at the end; it belongs between the two layers.",
            ),
            Mistake(
                instead(
                    feed_forward, "return (hidden @ second.T + second_bias).relu()"
                ),
                "there is one relu too many: what comes out may be negative.",
            ),
            Mistake(
                lambda x, w1, b1, w2, b2: (x @ w1.T).relu() @ w2.T,
                "the biases are missing: add first_bias before relu and "
                "second_bias at the end.",
            ),
            Mistake(
                instead(feed_forward, "return x + hidden @ second.T + second_bias"),
                "you add the residual already; that is the block's work, here only the "
                "two layers are asked for.",
            ),
        ),
    ),
    Exercise(
        name="blocks.count",
        solution=1330,
        mistakes=(
            Mistake(
                1200,
                "these are the matrices; every linear layer has a bias, every norm a "
                "gain and a bias.",
            ),
            Mistake(1290, "the two norms are missing: a gain and a bias each."),
            Mistake(890, "that is the feed-forward layer with norms; add attention."),
            Mistake(480, "that is attention with norms; add the feed-forward layer."),
            Mistake(
                1240,
                "count the biases of all layers: 30 for qkv, 10 for output, 40 and 10 "
                "in feed-forward.",
            ),
        ),
    ),
    Exercise(
        name="blocks.next_id",
        solution=next_id,
        cases=((LOGITS,), (LOGITS[:2, :3],)),
        mistakes=(
            Mistake(
                lambda x: x.argmax(dim=-1),
                "you predict after every position; only the last one has read the "
                "whole text.",
            ),
            Mistake(
                lambda x: x[-1].argmax(dim=-1),
                "you took the last text; take the last position of each text.",
            ),
            Mistake(
                lambda x: x[:, 0].argmax(dim=-1),
                "you took the first position, which has read one token only.",
            ),
            Mistake(
                lambda x: x[:, -1].max(dim=-1).values,
                "these are the largest logits; the question is which ids they belong "
                "to: argmax.",
            ),
        ),
    ),
]
