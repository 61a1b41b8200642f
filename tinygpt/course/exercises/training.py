"""The exercises of chapter 07, training: solutions, cases, and likely mistakes."""

import math

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead, swapped


def descend(w: float, goal: float, lr: float, steps: int) -> list[float]:
    """Gradient descent on the loss (w - goal)^2: w after every step."""
    path = []
    for _ in range(steps):
        w = w - lr * 2 * (w - goal)
        path.append(w)
    return path


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean of -log p at the target, logits [N, V], targets [N]."""
    log_p = logits.log_softmax(dim=-1)
    at_target = log_p[torch.arange(len(targets)), targets]
    return -at_target.mean()


def bits_per_byte(loss: float, n_tokens: int, n_bytes: int) -> float:
    """A loss in nats per token, counted in bits for each byte."""
    bits = loss / math.log(2)
    return bits * n_tokens / n_bytes


def learning_rate(step: int, steps: int, warmup: int, peak: float) -> float:
    """A linear warm-up, then a straight line down to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (1 - (step - warmup) / (steps - warmup))


LOGITS = torch.tensor([[2.0, 0.0, -1.0, 0.5], [0.1, 0.2, 0.3, -3.0], [4.0, 1.0, 1, 1]])

EXERCISES = [
    Exercise(
        name="training.descend",
        solution=descend,
        cases=((0.0, 3.0, 0.1, 4), (5.0, -1.0, 0.3, 3)),
        mistakes=(
            Mistake(
                instead(descend, "    w = w + lr * 2 * (w - goal)"),
                "your w moves away from the goal: go against the gradient, with a "
                "minus sign.",
            ),
            Mistake(
                instead(descend, "    w = w - lr * (w - goal)"),
                "the gradient of (w - goal)^2 is 2 (w - goal): the 2 is missing.",
            ),
            Mistake(
                swapped(descend, "w =", "path.append"),
                "your list begins with the start: note w after each step, not before.",
            ),
            Mistake(
                instead(descend, "return w"),
                "you return the last w only; the list of all of them was asked for.",
            ),
        ),
    ),
    Exercise(
        name="training.cross_entropy",
        solution=cross_entropy,
        cases=(
            (LOGITS, torch.tensor([0, 3, 1])),
            (3 * LOGITS[:2], torch.tensor([2, 2])),
        ),
        mistakes=(
            Mistake(
                instead(cross_entropy, "log_p = logits.softmax(dim=-1)"),
                "you average the probabilities; take the logarithm of each first.",
            ),
            Mistake(
                instead(cross_entropy, "log_p = logits"),
                "those are logits, not yet log-probabilities: use log_softmax over the "
                "last axis.",
            ),
            Mistake(
                instead(cross_entropy, "log_p = logits.log_softmax(dim=0)"),
                "your softmax runs over the positions; it belongs to the vocabulary, "
                "the last axis.",
            ),
            Mistake(
                instead(cross_entropy, "return -at_target.sum()"),
                "you add up the surprise of all tokens; the loss is their mean.",
            ),
            Mistake(
                instead(cross_entropy, "return -at_target.mean() / math.log(2)"),
                "that is right in bits; the loss is counted in nats, with the natural "
                "logarithm.",
            ),
        ),
    ),
    Exercise(
        name="training.bits_per_byte",
        solution=bits_per_byte,
        cases=((1.5, 3, 11), (4.2, 1000, 4300)),
        mistakes=(
            Mistake(
                instead(bits_per_byte, "bits = loss"),
                "those are nats per byte: divide by ln 2 to get bits.",
            ),
            Mistake(
                instead(bits_per_byte, "bits = loss * math.log(2)"),
                "a nat is more than a bit, so the number of bits is larger: divide by "
                "ln 2 instead of multiplying.",
            ),
            Mistake(
                instead(bits_per_byte, "return bits * n_bytes / n_tokens"),
                "the fraction is upside down: the bits of all tokens are shared "
                "by the bytes.",
            ),
            Mistake(
                instead(bits_per_byte, "return bits"),
                "those are bits per token: a token has several bytes that share them.",
            ),
        ),
    ),
    Exercise(
        name="training.learning_rate",
        solution=learning_rate,
        cases=tuple((step, 20, 4, 0.01) for step in (0, 2, 3, 4, 11, 19)),
        mistakes=(
            Mistake(
                instead(learning_rate, "    return peak * step / warmup"),
                "your first step has learning rate 0 and is wasted: count the warm-up "
                "from step + 1.",
            ),
            Mistake(
                instead(learning_rate, "return peak * (1 - step / steps)"),
                "there is a jump at the end of your warm-up: the fall begins at the "
                "peak, so count the steps since the warm-up.",
            ),
            Mistake(
                instead(learning_rate, "return peak * (1 - (step - warmup) / steps)"),
                "your line does not come down to 0 at the last step: only "
                "steps - warmup are left for the fall.",
            ),
            Mistake(
                instead(learning_rate, "return peak"),
                "after the warm-up your learning rate stays at its peak; let it fall.",
            ),
        ),
    ),
]
