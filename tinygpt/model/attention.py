"""Attention: each token's query meets all keys and takes a weighted mean of the values.

`attention_weights` and `scaled_dot_product_attention` are the plain version, written
to be read. `MultiHeadAttention` uses PyTorch's fused kernel unless `fused` is False;
a test shows that both give the same numbers. What it leaves out: which tokens may be
seen (see `masking`), positions (see `positional`) and past keys and values (see
`kv_cache`); all three are arguments.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


def attention_weights(
    q: Float[Tensor, "*B T D"],
    k: Float[Tensor, "*B S D"],
    mask: Bool[Tensor, "..."] | None = None,
    is_causal: bool = False,
) -> Float[Tensor, "*B T S"]:
    """How much each of T queries attends to each of S keys; every row sums to 1.

    softmax(q k^T / sqrt(D)), with -inf in place of the scores that must not be seen.
    `mask` broadcasts to [..., T, S] and is True where a query may look; `is_causal`
    lets query t see keys 0..t, as in PyTorch; where both are given, both must agree.

    Source: Vaswani et al. (2017), section 3.2.1, equation 1.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))  # [..., T, S]
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        mask = seen if mask is None else seen & mask
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(dim=-1)


def scaled_dot_product_attention(
    q: Float[Tensor, "*B T D"],
    k: Float[Tensor, "*B S D"],
    v: Float[Tensor, "*B S D"],
    attn_mask: Bool[Tensor, "..."] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
) -> Float[Tensor, "*B T D"]:
    """The values `v`, weighted by `attention_weights`, summed for each query.

    The plain twin of `torch.nn.functional.scaled_dot_product_attention`, with the same
    arguments. `dropout_p` always applies; pass 0 in evaluation.

    Source: Vaswani et al. (2017), section 3.2.1, equation 1.
    """
    weights = attention_weights(q, k, attn_mask, is_causal)
    return F.dropout(weights, dropout_p) @ v


def attends_in_float32(x: Tensor) -> bool:
    """Whether autocast must leave the attention to `x` alone: training on a CPU.

    There the kernel's backward pass takes three to five times as long in bfloat16.
    """
    return x.requires_grad and x.is_cpu and torch.is_autocast_enabled("cpu")


class MultiHeadAttention(nn.Module):
    """Several attention heads in parallel, each of d_model / n_heads dimensions.

    Queries, keys and values of all heads come from one linear layer `qkv`, whose
    output holds q, then k, then v, and in each the heads one after another; `output`
    mixes the heads. With `qk_norm`, queries and keys are scaled to a root mean square
    of 1, which bounds the scores (Henry et al., 2020, "Query-Key Normalization for
    Transformers"; without a learned gain here).

    Source: Vaswani et al. (2017), section 3.2.2.

    Raises:
        ValueError: n_heads does not divide d_model.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        dropout: float = 0.0,
        qkv_bias: bool = True,
        output_bias: bool = True,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"n_heads {n_heads} does not divide d_model {d_model}")
        self.n_heads = n_heads
        self.head_dim = d_model // n_heads
        self.dropout = dropout
        self.qk_norm = qk_norm
        self.fused = True
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=qkv_bias)
        # How many matrices its weight stacks. torch says Tensor of any attribute.
        self.qkv.n_stacked = 3  # type: ignore[assignment]
        self.output = nn.Linear(d_model, d_model, bias=output_bias)

    def heads(
        self,
        x: Float[Tensor, "B T C"],
        rotate: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[
        Float[Tensor, "B H T D"], Float[Tensor, "B H T D"], Float[Tensor, "B H T D"]
    ]:
        """Queries, keys and values of every head; `rotate` is applied to q and k."""
        # [B, T, 3C] -> [B, T, 3, H, D] -> three of [B, T, H, D] -> [B, H, T, D] each
        qkv = self.qkv(x)
        qkv = qkv.float() if attends_in_float32(qkv) else qkv
        qkv = qkv.unflatten(-1, (3, self.n_heads, self.head_dim))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        if self.qk_norm:
            q, k = (F.rms_norm(t, (self.head_dim,)) for t in (q, k))
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        return q, k, v

    def forward(
        self,
        x: Float[Tensor, "B T C"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        is_causal: bool = False,
        rotate: Callable[[Tensor], Tensor] | None = None,
        extend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> Float[Tensor, "B T C"]:
        """The attention of T tokens to those they may see, all heads mixed.

        Args:
            x: activations of the tokens.
            mask: True where a query may look, broadcast to [B, H, T, S].
            is_causal: query t sees keys 0..t; for T = S, and instead of `mask`.
            rotate: rotates queries and keys [B, H, T, D] by their positions.
            extend: takes the new keys and values [B, H, T, D] and returns them with
                those of earlier tokens before them [B, H, S, D].
        """
        q, k, v = self.heads(x, rotate)
        if extend is not None:
            k, v = extend(k, v)
        attend = (
            F.scaled_dot_product_attention
            if self.fused
            else scaled_dot_product_attention
        )
        wide = attends_in_float32(v)
        with torch.autocast("cpu", enabled=False) if wide else nullcontext():
            mixed = attend(
                q,
                k,
                v,
                attn_mask=mask,
                dropout_p=self.dropout if self.training else 0.0,
                is_causal=is_causal,
            )
        # [B, H, T, D] -> [B, T, H, D] -> [B, T, C]
        return self.output(mixed.transpose(1, 2).flatten(2))
