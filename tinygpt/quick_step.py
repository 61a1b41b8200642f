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

from tinygpt.kv_cache import KVCache


def bare(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a module computes, without the bookkeeping of calling a module."""
    if type(module) is nn.Linear:  # an adapter around one is another type
        return partial(F.linear, weight=module.weight, bias=module.bias)
    return module.forward


class QuickStep:
    """The next token's logits of `model`, a GPT, whose past is in the cache.

    Raises:
        ValueError: the model's norms stand after the sub-layers.
    """

    def __init__(self, model: Any) -> None:
        if model.config.norm_placement != "pre":
            raise ValueError("a quick step is for norms before the sub-layers")
        self.model = model
        self.layers = [
            (
                bare(block.norm1),
                bare(block.attention.qkv),
                bare(block.attention.output),
                bare(block.norm2),
                bare(block.feed_forward),
            )
            for block in model.blocks
        ]

    def __call__(
        self, ids: Int[Tensor, "B 1"], cache: KVCache
    ) -> Float[Tensor, "B 1 V"]:
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
        return model.logits(x)
