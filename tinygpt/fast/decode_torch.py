"""One token through a GPT with as few calls as possible.

When a small model writes with a cache, calling costs more than computing: modules that
call modules, dropout that drops nothing, views that are made and taken back. Here every
block's functions are looked up once, and one token's vector goes straight through them.
The plain twin is the way through the blocks in `GPT.forward`; a test shows that both
give the same logits. What it leaves out: several tokens at once, training, masks and
norms after the sub-layers, which stay with the twin; hooks on parts of a block.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def few_rows(
    x: Float[Tensor, "B 1 I"], weight: Float[Tensor, "O I"], bias: Tensor | None
) -> Float[Tensor, "B 1 O"]:
    """`F.linear`; for a few rows as weight times columns, which CPUs do faster."""
    if len(x) == 1:
        return F.linear(x, weight, bias)
    y = (weight @ x.squeeze(1).mT).mT.unsqueeze(1)  # [O, B] -> [B, 1, O]
    return y if bias is None else y + bias


def bare(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a module computes, [B, 1, I] -> [B, 1, O], without the calling of one."""
    if type(module) is nn.Linear:  # an adapter around one is another type
        return partial(few_rows, weight=module.weight, bias=module.bias)
    return module.forward


def bare_feed_forward(module: Any) -> Callable[[Tensor], Tensor]:
    """`bare` for a `FeedForward`, [B, 1, C] -> [B, 1, C], through to its layers."""
    widen, narrow = bare(module.input), bare(module.output)

    def think(x: Tensor) -> Tensor:
        hidden = widen(x)
        if not module.gated:
            return narrow(module.activation(hidden))
        gate, values = hidden.chunk(2, dim=-1)
        return narrow(module.activation(gate) * values)

    return think


class QuickStep:
    """The next token's logits of `model`, a GPT, whose past is in the cache.

    Raises:
        ValueError: the model's norms stand after the sub-layers.
    """

    def __init__(self, model: Any) -> None:
        if model.config.norm_placement != "pre":
            raise ValueError("a quick step is for norms before the sub-layers")
        self.model = model
        self.norm, self.head = bare(model.norm), bare(model.head)
        self.layers = [
            (
                bare(block.norm1),
                bare(block.attention.qkv),
                bare(block.attention.output),
                bare(block.norm2),
                bare_feed_forward(block.feed_forward),
            )
            for block in model.blocks
        ]

    def __call__(self, ids: Int[Tensor, "B 1"], cache: Any) -> Float[Tensor, "B 1 V"]:
        """Logits after one more token of each row; `cache` takes it in."""
        model, c, past = self.model, self.model.config, cache.length
        shape = (-1, 3, c.n_heads, 1, c.head_dim)
        positions = torch.arange(past, past + 1, device=ids.device)
        x = model.embed(ids, positions)  # [B, 1, C]
        for layer, (norm1, qkv, output, norm2, think) in enumerate(self.layers):
            q, k, v = qkv(norm1(x)).view(shape).unbind(1)  # [B, H, 1, D] each
            if c.qk_norm:
                q, k = (F.rms_norm(t, (c.head_dim,)) for t in (q, k))
            if model.rotary:
                q, k = (model.rotary(t, positions) for t in (q, k))
            mixed = F.scaled_dot_product_attention(q, *cache.extend(layer, k, v))
            x = x + output(mixed.reshape(x.shape))
            x = x + think(norm2(x))
        cache.advance(1)
        return model.softcap(self.head(self.norm(x)))
