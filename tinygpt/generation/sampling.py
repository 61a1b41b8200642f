"""One next token, drawn from the logits: temperature, top-k and top-p.

What it leaves out: beam search, penalties for repetition.
"""

import math
from collections.abc import Sequence
from typing import Any

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


def _is_extreme(logits: Float[Tensor, "B V"], temperature: float) -> bool:
    """Whether `logits / temperature` may overflow.

    Raises:
        RuntimeError: a logit is nan.
    """
    limits = torch.finfo(logits.dtype)
    sound = math.isfinite((logits.amax(dim=-1) / temperature).sum())
    if not sound and logits.isnan().any():
        raise RuntimeError("a logit is nan: there is no token to draw")
    return not (sound and limits.tiny <= temperature <= limits.max)


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


def _likeliest(logits: Float[Tensor, "B V"], k: int) -> Int[Tensor, "B k"]:
    """The ids of the `k` largest of each row, ascending; of equals, the lowest ids.

    Ranked by logits: scores and probabilities may round different ones to the same.
    """
    least = logits.topk(k).values[:, -1:]
    kept = logits >= least
    if kept.count_nonzero() > k * len(logits):  # others equal the k-th
        above, equal = logits > least, logits == least
        room = k - above.sum(dim=-1, keepdim=True)
        kept = above | (equal & (equal.cumsum(dim=-1) <= room))
    return kept.nonzero()[:, 1].view(-1, k)


def _nucleus(
    logits: Float[Tensor, "B K"], probabilities: Float[Tensor, "B K"], top_p: float
) -> Float[Tensor, "B K"]:
    """The smallest set of the likeliest that reaches `top_p`, scaled to sum to 1."""
    # Stable: of equal logits, the lower id counts as the likelier.
    order = logits.argsort(dim=-1, descending=True, stable=True)
    ranked = probabilities.gather(-1, order)
    kept = ranked.cumsum(dim=-1) - ranked < top_p
    kept[:, 0] = True  # even if top_p rounds to 0 in this precision
    ranked = ranked.where(kept, 0.0)
    ranked = ranked / ranked.sum(dim=-1, keepdim=True)
    return probabilities.scatter(-1, order, ranked)


def candidate_probabilities(
    logits: Float[Tensor, "B V"],
    temperature: float,
    top_k: int | None,
    top_p: float | None,
) -> tuple[Float[Tensor, "B K"], Int[Tensor, "B K"] | None]:
    """The probabilities of K tokens beside which no other has any, and their ids.

    The ids ascend, and are None where K is V. The temperature must not be 0; arguments,
    distribution and errors are those of `next_token_probabilities`.
    """
    logits = logits.contiguous()  # a decoder's may be the transpose of [V, B]
    if logits.dtype.itemsize < 4:
        logits = logits.float()
    extreme, ids = _is_extreme(logits, temperature), None
    if top_k is not None and top_k < logits.size(-1):
        ids = _likeliest(logits, top_k)
        logits = logits.gather(-1, ids)
    scale = _scores_of_extremes if extreme else torch.div
    probabilities = scale(logits, temperature).softmax(dim=-1)
    if top_p is None or top_p == 1:  # at 1, rounding must not drop the tail
        return probabilities, ids
    # Sorting is slow, so the tail goes first: together, all tokens below this
    # probability have less than half of what lies outside the nucleus.
    size = logits.size(-1)
    n = int((probabilities > (1 - top_p) / (2 * size)).sum(dim=-1).amax())
    if n < size:
        head = _likeliest(logits, n)
        ids = head if ids is None else ids.gather(-1, head)
        logits, probabilities = logits.gather(-1, head), probabilities.gather(-1, head)
    return _nucleus(logits, probabilities, top_p), ids


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
        RuntimeError: a logit is nan.

    >>> next_token_probabilities(torch.tensor([[2.0, 2.0, 1.0]]), top_k=2).tolist()
    [[0.5, 0.5, 0.0]]
    """
    _check_options(temperature, top_k, top_p)
    if temperature == 0:
        winner = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, winner, 1.0)
    kept, ids = candidate_probabilities(logits, temperature, top_k, top_p)
    return kept if ids is None else kept.new_zeros(logits.shape).scatter(-1, ids, kept)


def draw(
    probabilities: Float[Tensor, "B K"], u: Float[Tensor, "B 1"]
) -> Int[Tensor, " B"]:
    """The index at which each row's running sum first exceeds `u` times its whole.

    With `u` uniform in [0, 1) an index is drawn with its probability. What has none is
    never drawn: its sum is that of the index before. Nor is an index past the end: the
    largest `u` below 1 times the whole is less than the whole, rounded, too (if that is
    a normal number). Rows need not sum to 1; sums have the precision of `u`.

    Source: Devroye (1986), "Non-Uniform Random Variate Generation", section III.2.1.

    >>> draw(torch.tensor([[0.5, 0.0, 0.5]] * 3), torch.tensor([[0.0], [0.5], [0.9]]))
    tensor([0, 2, 2])
    """
    sums = probabilities.cumsum(dim=-1, dtype=u.dtype)
    return torch.searchsorted(sums, u * sums[:, -1:], right=True).squeeze(1)


def sample_next_token(
    logits: Float[Tensor, "B V"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generators: Sequence[torch.Generator | None] = (None,),
) -> Int[Tensor, " B"]:
    """Draw one token per row from `next_token_probabilities`; the same arguments.

    Each row takes one uniform random number (see `draw`). With N generators, each
    draws for the next B / N rows, as it would draw for these rows alone; None is
    PyTorch's own.

    Raises:
        ValueError: as `next_token_probabilities`.
        RuntimeError: a logit is nan.
    """
    _check_options(temperature, top_k, top_p)
    if temperature == 0:  # nothing to draw
        return logits.argmax(dim=-1)
    kept, ids = candidate_probabilities(logits, temperature, top_k, top_p)
    device, rows = kept.device, len(kept) // len(generators)
    dtype = torch.float32 if device.type == "mps" else torch.float64  # it has no other
    how: Any = {"dtype": dtype, "device": device}
    u = torch.cat([torch.rand(rows, 1, generator=g, **how) for g in generators])
    index = draw(kept, u)
    return index if ids is None else ids.gather(-1, index[:, None]).squeeze(1)
