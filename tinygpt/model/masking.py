"""Masks: which keys a query may attend to. True means that it may, as in PyTorch.

What it leaves out: applying the mask; `attention` replaces the scores of masked keys
by -inf.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def require_mask(mask: Tensor, shape: tuple[int, int, int, int]) -> None:
    """Check that `mask` says of all of `shape` [B, H, T, S] who may look.

    Raises:
        ValueError: it is not boolean, has other than 2 or 4 axes, does not broadcast to
            `shape`, or its last axis is not S: one entry for all keys would be
            misunderstood as one for the new token.
    """
    if mask.dtype != torch.bool:
        raise ValueError(f"a mask must be True or False, not {mask.dtype}")
    sizes = zip(reversed(mask.shape), reversed(shape), strict=False)
    broadcasts = all(size in (1, whole) for size, whole in sizes)
    if mask.ndim not in (2, 4) or not broadcasts or mask.size(-1) != shape[-1]:
        raise ValueError(
            f"a mask must broadcast to {list(shape)} and name every key, "
            f"not {list(mask.shape)}"
        )


def causal_mask(n_queries: int, n_keys: int | None = None) -> Bool[Tensor, "T S"]:
    """Every token sees itself and the tokens before it.

    The queries are the last `n_queries` of the `n_keys` tokens (all of them if
    `n_keys` is None), so query t sees keys 0..t + n_keys - n_queries.

    Source: Vaswani et al. (2017), section 3.2.3.

    >>> causal_mask(2, 3).int().tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    n_keys = n_queries if n_keys is None else n_keys
    allowed = torch.ones(n_queries, n_keys, dtype=torch.bool)
    return allowed.tril(diagonal=n_keys - n_queries)


def padding_mask(
    lengths: Int[Tensor, " B"], context_length: int
) -> Bool[Tensor, "B 1 1 {context_length}"]:
    """No token sees the padding after a text that is shorter than the batch.

    `lengths` holds the number of tokens of each text. The mask is not causal: combine
    it with `causal_mask` by `&`.

    >>> padding_mask(torch.tensor([1, 3]), 3).int().flatten(1).tolist()
    [[1, 0, 0], [1, 1, 1]]
    """
    places = torch.arange(context_length, device=lengths.device)
    real = places < lengths.unsqueeze(1)  # [B, T]
    return real[:, None, None, :]


def document_mask(documents: Int[Tensor, "B T"]) -> Bool[Tensor, "B 1 T T"]:
    """Causal, and a token sees only tokens of its own document.

    `documents` holds the number of each token's document, so that several short texts
    can share one window without attending to each other.

    >>> document_mask(torch.tensor([[0, 0, 1]])).int()[0, 0].tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    same = documents.unsqueeze(2) == documents.unsqueeze(1)  # [B, T, T]
    causal = causal_mask(documents.size(1)).to(documents.device)
    return (same & causal).unsqueeze(1)
