"""The exercises of chapter 09, generation: solutions, cases, and likely mistakes."""

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead


def temperature(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities [V] of logits [V], divided by the temperature first."""
    return (logits / temperature).softmax(dim=-1)


def _temperature_times(logits: Tensor, temperature: float) -> Tensor:
    return (logits * temperature).softmax(dim=-1)


def _temperature_after(logits: Tensor, temperature: float) -> Tensor:
    softened = logits.softmax(dim=-1) / temperature
    return softened / softened.sum()


def _temperature_last(logits: Tensor, temperature: float) -> Tensor:
    return logits.softmax(dim=-1) / temperature


def _temperature_no_softmax(logits: Tensor, temperature: float) -> Tensor:
    return logits / temperature


def top_k(logits: Tensor, k: int) -> Tensor:
    """Probabilities [V] of the k largest logits; the others get 0."""
    best = logits.topk(k)
    cut = torch.full_like(logits, -torch.inf)
    kept = cut.scatter(-1, best.indices, best.values)
    return kept.softmax(dim=-1)


def _top_k_not_scaled(logits: Tensor, k: int) -> Tensor:
    return logits.softmax(dim=-1).where(top_k(logits, k) > 0, 0.0)


def top_p(probabilities: Tensor, p: float) -> Tensor:
    """The likeliest of probabilities [V] until their sum reaches p, scaled to 1."""
    ranked, order = probabilities.sort(descending=True)
    before = ranked.cumsum(dim=-1) - ranked
    kept = ranked.where(before < p, 0.0)
    share = kept / kept.sum()
    return torch.zeros_like(probabilities).scatter(-1, order, share)


def positions(n_cached: int, n_new: int) -> Tensor:
    """Positions of `n_new` tokens after `n_cached` that are in the cache."""
    return torch.arange(n_cached, n_cached + n_new)


LOGITS = torch.tensor([0.5, 2.0, -1.0, 1.2, 0.0, 1.6, -0.3])
OTHERS = torch.tensor([-0.4, 0.9, 2.5, 0.1, 1.8])
CHANCES = torch.tensor([0.05, 0.4, 0.15, 0.1, 0.3])
MORE_CHANCES = torch.tensor([0.1, 0.02, 0.35, 0.25, 0.2, 0.08])

EXERCISES = [
    Exercise(
        name="generation.temperature",
        solution=temperature,
        cases=((LOGITS, 0.5), (OTHERS, 2.0)),
        mistakes=(
            Mistake(
                _temperature_times,
                "you multiply by the temperature, so that a high one makes the text "
                "safer: divide.",
            ),
            Mistake(
                _temperature_after,
                "you divide the probabilities and scale them to 1 again, which undoes "
                "the division: divide the logits, before the softmax.",
            ),
            Mistake(
                _temperature_last,
                "you divide the probabilities, so they no longer sum to 1: divide the "
                "logits, before the softmax.",
            ),
            Mistake(
                _temperature_no_softmax,
                "these are the divided logits: put them through softmax to get "
                "probabilities.",
            ),
        ),
    ),
    Exercise(
        name="generation.top_k",
        solution=top_k,
        cases=((LOGITS, 3), (OTHERS, 2)),
        mistakes=(
            Mistake(
                _top_k_not_scaled,
                "your probabilities do not sum to 1: divide by the sum of the k that "
                "stay, or cut before the softmax.",
            ),
            Mistake(
                instead(top_k, "cut = torch.zeros_like(logits)"),
                "you set the other logits to 0, and exp(0) is 1, so those tokens can "
                "still be drawn: set them to minus infinity.",
            ),
            Mistake(
                instead(top_k, "best = logits.topk(k - 1)"),
                "you keep only k - 1 tokens: the k-th largest logit stays too, so "
                "compare with >=, or ask topk for k.",
            ),
            Mistake(
                instead(top_k, "return best.values.softmax(dim=-1)"),
                "your answer has k numbers; give one for each token, 0 for those that "
                "are cut.",
            ),
        ),
    ),
    Exercise(
        name="generation.top_p",
        solution=top_p,
        cases=((CHANCES, 0.6), (MORE_CHANCES, 0.75)),
        mistakes=(
            Mistake(
                instead(top_p, "before = ranked.cumsum(dim=-1)"),
                "you drop the token that reaches p: it stays, so that the sum is at "
                "least p.",
            ),
            Mistake(
                instead(top_p, "share = kept"),
                "your probabilities do not sum to 1: divide by the sum of those that "
                "stay.",
            ),
            Mistake(
                instead(top_p, "return share"),
                "your probabilities are right but sorted: put each back at its own "
                "token, with scatter and the order that sort returned.",
            ),
            Mistake(
                instead(
                    top_p,
                    "ranked, order = probabilities, torch.arange(len(probabilities))",
                ),
                "you add up in the order of the ids: sort first, the likeliest token "
                "comes first.",
            ),
        ),
    ),
    Exercise(
        name="generation.positions",
        solution=positions,
        cases=((4, 2), (0, 3), (9, 5)),
        mistakes=(
            Mistake(
                lambda n_cached, n_new: torch.arange(n_new),
                "you begin at 0 again, as if the cache were empty: begin at n_cached.",
            ),
            Mistake(
                lambda n_cached, n_new: torch.arange(n_cached + n_new),
                "these are the positions of all tokens: give those of the new ones "
                "only.",
            ),
            Mistake(
                lambda n_cached, n_new: torch.arange(n_cached, n_cached + n_new) + 1,
                "your positions are one too large: the first token of a text has "
                "position 0, so the first new one has n_cached.",
            ),
        ),
    ),
]
