"""The exercises of chapter 05, masking: solutions, cases, and likely mistakes."""

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead


def causal(n: int) -> Tensor:
    """True where query t (row) may look at key s (column)."""
    places = torch.arange(n)
    queries, keys = places.unsqueeze(1), places
    return queries >= keys


def apply(scores: Tensor, mask: Tensor) -> Tensor:
    """The mask first, then softmax over the keys."""
    hidden = scores.masked_fill(~mask, -torch.inf)
    return hidden.softmax(dim=-1)


def targets(window: Tensor) -> tuple[Tensor, Tensor]:
    """All but the last id, and all but the first."""
    inputs = window[:, :-1]
    targets = window[:, 1:]
    return inputs, targets


def padding(lengths: Tensor, n: int) -> Tensor:
    """True for the tokens that are real, [B, n]."""
    return torch.arange(n) < lengths.unsqueeze(1)


SCORES = torch.randn((2, 5, 5), generator=torch.Generator().manual_seed(1))
PAIR = torch.tensor([[1.0, 3.0], [2.0, 1.0]]).log()
WINDOW = torch.tensor([[5, 6, 7, 8], [1, 4, 9, 2]])

EXERCISES = [
    Exercise(
        name="masking.causal",
        solution=causal,
        cases=((5,), (6,)),
        mistakes=(
            Mistake(
                instead(causal, "return queries + 1 >= keys"),
                "your mask lets position 3 see position 4: it is off by one, and every "
                "token sees the one that it should predict.",
            ),
            Mistake(
                instead(causal, "return queries > keys"),
                "in your mask a token does not see itself; the first would see "
                "nothing at all. Allow the diagonal.",
            ),
            Mistake(
                instead(causal, "queries, keys = places, places.unsqueeze(1)"),
                "your mask shows the future and hides the past: rows are queries, so "
                "the lower left triangle (tril) is allowed.",
            ),
            Mistake(
                instead(causal, "return queries < keys"),
                "your mask is True where it should be False: here True means that a "
                "token may look.",
            ),
            Mistake(
                instead(causal, "return (queries >= keys).float()"),
                "the triangle is right, but it holds numbers: make it True and False "
                "with dtype=torch.bool.",
            ),
        ),
    ),
    Exercise(
        name="masking.apply",
        solution=apply,
        cases=((PAIR, causal(2)), (SCORES, causal(5))),
        mistakes=(
            Mistake(
                instead(
                    apply,
                    "return scores.softmax(dim=-1).masked_fill(~mask, 0)",
                    without="hidden =",
                ),
                "you mask after softmax: rows no longer add up to 1, and the hidden "
                "scores still count in the sum. Mask first.",
            ),
            Mistake(
                instead(apply, "hidden = scores.masked_fill(~mask, 0)"),
                "you write 0 over the forbidden scores, but e^0 is 1: write minus "
                "infinity.",
            ),
            Mistake(
                instead(apply, "return hidden.softmax(dim=-2)"),
                "your columns add up to 1, not your rows: softmax goes over the keys, "
                "the last axis.",
            ),
            Mistake(
                instead(apply, "hidden = scores.masked_fill(mask, -torch.inf)"),
                "you hide what may be seen: masked_fill writes where its mask is True, "
                "so give it ~mask.",
            ),
        ),
    ),
    Exercise(
        name="masking.targets",
        solution=targets,
        cases=((WINDOW,), (WINDOW[:1, :3],)),
        mistakes=(
            Mistake(
                instead(targets, "targets = window[:, :-1]"),
                "your targets are not shifted: the model would learn to repeat its "
                "input.",
            ),
            Mistake(
                instead(targets, "return targets, inputs"),
                "your targets come one step too early: the model would learn to write "
                "backwards. Swap the two.",
            ),
            Mistake(
                instead(
                    targets, "inputs = window", "targets = window.roll(-1, dims=1)"
                ),
                "roll brings the first id round to the end as the last target; cut the "
                "window instead, so that both parts have T ids.",
            ),
            Mistake(
                instead(targets, "inputs = window[:-1]", "targets = window[1:]"),
                "you cut the batch axis, the first; cut the time axis, the second.",
            ),
        ),
    ),
    Exercise(
        name="masking.padding",
        solution=padding,
        cases=((torch.tensor([1, 3]), 3), (torch.tensor([4, 2, 1]), 5)),
        mistakes=(
            Mistake(
                lambda lengths, n: torch.arange(n) <= lengths.unsqueeze(1),
                "one padding token is taken for real: places count from 0, so they "
                "must be smaller than the length.",
            ),
            Mistake(
                lambda lengths, n: torch.arange(n) >= lengths.unsqueeze(1),
                "your mask is True for the padding; it should be True for the real "
                "tokens.",
            ),
            Mistake(
                lambda lengths, n: torch.arange(n) >= n - lengths.unsqueeze(1),
                "you keep the last tokens of each text, but the padding comes after "
                "the text: keep the first.",
            ),
            Mistake(
                lambda lengths, n: (torch.arange(n) < lengths.unsqueeze(1)).float(),
                "the pattern is right, but it holds numbers: leave the comparison's "
                "True and False as they are.",
            ),
        ),
    ),
    Exercise(
        name="masking.count",
        solution=78,
        mistakes=(
            Mistake(
                12 * 12,
                "these are all pairs; the mask forbids the keys that come later.",
            ),
            Mistake(
                12 * 11 // 2,
                "you left out the diagonal: each token may see itself.",
            ),
            Mistake(
                12 * 12 // 2,
                "not quite half: the diagonal is allowed as a whole. Add up "
                "1 + 2 + ... + 12.",
            ),
            Mistake(
                12,
                "that is the last row alone; add up all rows.",
            ),
        ),
    ),
]
