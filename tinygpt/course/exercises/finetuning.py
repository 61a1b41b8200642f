"""The exercises of chapter 08, fine-tuning: solutions, cases, and likely mistakes."""

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead


def targets(ids: list[int], own: list[bool]) -> list[int]:
    """The next id where it is the assistant's own, else -100."""
    after = zip(ids[1:], own[1:], strict=True)
    return [i if mine else -100 for i, mine in after]


def _targets_no_end(ids: list[int], own: list[bool]) -> list[int]:
    return [*targets(ids, own)[:-1], -100]


def may_look(documents: Tensor) -> Tensor:
    """Who may look at whom, documents [T] -> [T, T]: back, and in its own text."""
    place = torch.arange(len(documents))
    back = place.unsqueeze(1) >= place
    same = documents.unsqueeze(1) == documents
    return back & same


def lora(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float) -> Tensor:
    """W x + (alpha / rank) B A x for rows x, with A [rank, in] and B [out, rank]."""
    scale = alpha / len(a)
    adapter = x @ a.T @ b.T
    return x @ weight.T + scale * adapter


def lora_size(inputs: int, outputs: int, rank: int) -> int:
    """How many numbers A and B have together."""
    return rank * (inputs + outputs)


_RANDOM = torch.Generator().manual_seed(8)


def _numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_RANDOM)


EXERCISES = [
    Exercise(
        name="finetuning.targets",
        solution=targets,
        cases=(
            ([5, 6, 7, 8, 9], [False, False, True, True, True]),
            ([3, 1, 4, 1, 5, 9, 2], [False, True, True, False, False, True, True]),
        ),
        mistakes=(
            Mistake(
                instead(targets, "after = zip(ids[1:], own[:-1], strict=True)"),
                "you ask whose the input is; what counts is whose the next token is, "
                "for that is the guess.",
            ),
            Mistake(
                instead(targets, "after = zip(ids, own, strict=True)"),
                "your targets are the inputs themselves: begin one id later, so the "
                "list is one shorter.",
            ),
            Mistake(
                instead(targets, "return ids[1:]", without="after ="),
                "you let every token count, the user's too: write -100 where own is "
                "False.",
            ),
            Mistake(
                instead(targets, "return [-100 if mine else i for i, mine in after]"),
                "you keep the user's tokens and drop the assistant's: the other way "
                "round.",
            ),
            Mistake(
                _targets_no_end,
                "the last target is missing: it is the end mark, and without it the "
                "model never learns to stop.",
            ),
        ),
    ),
    Exercise(
        name="finetuning.may_look",
        solution=may_look,
        cases=((torch.tensor([0, 0, 1]),), (torch.tensor([0, 1, 1, 1, 2]),)),
        mistakes=(
            Mistake(
                instead(may_look, "return back"),
                "your mask lets one conversation read another: compare the numbers of "
                "the documents too.",
            ),
            Mistake(
                instead(may_look, "return same"),
                "your mask lets a token see the future: also ask for s <= t.",
            ),
            Mistake(
                instead(may_look, "back = place.unsqueeze(1) > place"),
                "your tokens cannot see themselves: use >= in place of >.",
            ),
        ),
    ),
    Exercise(
        name="finetuning.lora",
        solution=lora,
        cases=(
            (_numbers(4, 5), _numbers(3, 5), _numbers(2, 5), _numbers(3, 2), 16.0),
            (_numbers(1, 2), _numbers(6, 2), _numbers(3, 2), _numbers(6, 3), 1.0),
        ),
        mistakes=(
            Mistake(
                instead(lora, "return x @ weight.T + adapter"),
                "the scale is missing: multiply the adapter's part by alpha / rank.",
            ),
            Mistake(
                instead(lora, "scale = alpha"),
                "you scale by alpha alone: divide it by the rank, the number of rows "
                "of A.",
            ),
            Mistake(
                instead(lora, "return scale * adapter"),
                "that is the adapter alone; the frozen layer's W x still works beside "
                "it.",
            ),
            Mistake(
                instead(lora, "return scale * (x @ weight.T + adapter)"),
                "you scale the frozen layer as well; the scale belongs to the adapter "
                "only.",
            ),
        ),
    ),
    Exercise(
        name="finetuning.lora_size",
        solution=lora_size,
        cases=((5, 3, 2), (192, 576, 8)),
        mistakes=(
            Mistake(
                lambda inputs, outputs, rank: inputs * outputs,
                "that is the size of the frozen matrix; count A and B.",
            ),
            Mistake(
                lambda inputs, outputs, rank: rank * inputs * outputs,
                "add instead of multiplying: A has rank * inputs numbers, and B has "
                "outputs * rank.",
            ),
            Mistake(
                lambda inputs, outputs, rank: rank * inputs,
                "that is A alone; B has numbers too.",
            ),
        ),
    ),
]
