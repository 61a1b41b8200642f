"""One next token, drawn from the logits: temperature, top-k and top-p.

What it leaves out: beam search, penalties for repetition.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def _check_options(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError for an option that is out of range."""
    if not temperature >= 0:  # nan is refused too
        raise ValueError(f"temperature must be at least 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be more than 0 and at most 1, not {top_p}")


def _scores_of_extremes(
    logits: Float[Tensor, "B V"], temperature: float
) -> Float[Tensor, "B V"]:
    """`logits / temperature` up to a constant per row, whose largest score is 0.

    So it does not overflow; slower, and needed for tiny temperatures, huge and infinite
    logits only.
    """
    limits = torch.finfo(logits.dtype)
    temperature = min(max(temperature, limits.tiny), limits.max)
    largest = logits.amax(dim=-1, keepdim=True)
    scores = (logits - largest) / temperature
    return scores.masked_fill(logits == largest, 0.0)  # inf - inf would be nan


def next_token_probabilities(
    logits: Float[Tensor, "B V"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "B V"]:
    """The distribution that `sample_next_token` draws from; every row sums to 1.

    The softmax of the logits divided by `temperature` (0: all on the largest, the
    lowest id among equals); then only the `top_k` likeliest tokens are kept; then only
    the smallest set of the likeliest whose probabilities reach `top_p`. What is kept is
    scaled to sum to 1. An infinite logit takes everything; a row of -inf is uniform.

    Source: Fan et al. (2018), "Hierarchical Neural Story Generation", section 5.4
    (top-k); Holtzman et al. (2020), "The Curious Case of Neural Text Degeneration",
    section 3.1 (top-p).

    Raises:
        ValueError: temperature < 0 or nan, top_k < 1 or top_p outside (0, 1].

    >>> next_token_probabilities(torch.tensor([[2.0, 2.0, 1.0]]), top_k=2).tolist()
    [[0.5, 0.5, 0.0]]
    """
    _check_options(temperature, top_k, top_p)
    if temperature == 0:
        winner = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, winner, 1.0)
    logits = logits.contiguous()  # a decoder's may be the transpose of [V, B]
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    scores = logits / temperature
    if not math.isfinite(scores.amax(dim=-1).sum()):
        scores = _scores_of_extremes(logits, temperature)
    # Tokens are ranked by their logits: scores may round different ones to the same.
    if top_k is not None and top_k < scores.size(-1):
        # Without sorting: drop what is below the k-th largest, and of its equals those
        # with the highest ids.
        least = logits.topk(top_k).values[:, -1:]
        equal = logits == least
        room = top_k - (logits > least).sum(dim=-1, keepdim=True)
        excess = equal & (equal.cumsum(dim=-1) > room)
        scores = scores.masked_fill((logits < least) | excess, -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if top_p is not None and top_p < 1:  # at 1, rounding must not drop the tail
        # Stable: of equal logits, the lower id counts as the likelier.
        order = logits.argsort(dim=-1, descending=True, stable=True)
        ranked = probabilities.gather(-1, order)
        kept = ranked.cumsum(dim=-1) - ranked < top_p
        kept[:, 0] = True  # even if top_p rounds to 0 in this precision
        ranked = ranked.where(kept, 0.0)
        ranked = ranked / ranked.sum(dim=-1, keepdim=True)
        probabilities = probabilities.scatter(-1, order, ranked)
    return probabilities


def sample_next_token(
    logits: Float[Tensor, "B V"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generators: Sequence[torch.Generator | None] = (None,),
) -> Int[Tensor, " B"]:
    """Draw one token per row from `next_token_probabilities`; the same arguments.

    With N generators, each draws for the next B / N rows, as it would draw for these
    rows alone; None is PyTorch's own.

    Raises:
        ValueError: as `next_token_probabilities`.
        RuntimeError: a logit is nan.
    """
    if temperature == 0:  # nothing to draw
        _check_options(temperature, top_k, top_p)
        return logits.argmax(dim=-1)
    probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
    parts = probabilities.chunk(len(generators))
    drawn = [
        torch.multinomial(rows, 1, generator=generator)
        for rows, generator in zip(parts, generators, strict=True)
    ]
    return torch.cat(drawn).squeeze(1)
