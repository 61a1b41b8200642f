"""One token through a GPT with as few calls as possible.

When a small model writes with a cache, calling costs more than computing: modules that
call modules, dropout that drops nothing, views that are made and taken back. Here every
block's functions are looked up once, and one token's activations go straight through
them. The plain twin is `GPT.forward`; a test shows that both give the same logits. What
it leaves out, and leaves to the twin: several tokens at once, training, masks, norms
after the sub-layers, and models whose parts have hooks or were replaced.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tinygpt.fast.plain import is_plain, is_plain_part


def few_rows(
    x: Float[Tensor, "B 1 I"], weight: Float[Tensor, "O I"], bias: Tensor | None
) -> Float[Tensor, "B 1 O"]:
    """`F.linear`, as weight times vector or columns, which CPUs do faster."""
    if len(x) == 1:
        y = weight.mv(x.view(-1)) if bias is None else bias.addmv(weight, x.view(-1))
        return y[None, None]
    y = weight @ x.squeeze(1).mT  # [O, B]
    y = y.mT.contiguous().unsqueeze(1)  # [B, 1, O]; PyTorch's attention is slow without
    return y if bias is None else y.add_(bias)


def bare(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a module computes, [B, 1, I] -> [B, 1, O], without the calling of one.

    A module with hooks is called as a module.
    """
    if not is_plain(module):
        return module
    if type(module) is nn.Linear:  # an adapter around one is another type
        return partial(few_rows, weight=module.weight, bias=module.bias)
    return module.forward


def bare_feed_forward(module: Any) -> Callable[[Tensor], Tensor]:
    """`bare` for a `FeedForward`, [B, 1, C] -> [B, 1, C], through to its layers."""
    widen, narrow = bare(module.input), bare(module.output)

    def feed_forward(x: Tensor) -> Tensor:
        hidden = widen(x)
        if not module.gated:
            return narrow(module.activation(hidden))
        gate, values = hidden.chunk(2, dim=-1)
        return narrow(module.activation(gate) * values)

    return feed_forward


class TorchDecoder:
    """The logits after one more token of each text, whose past is in the cache.

    Made for one call of `generate`: hooks that come later are not seen.

    Raises:
        ValueError: the model does not fit.
    """

    def __init__(self, model: Any) -> None:
        if not self.fits(model):
            raise ValueError("this decoder needs a plain GPT with norm_placement 'pre'")
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

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` is a GPT whose blocks can be bypassed.

        Linear layers and norms may have hooks, adapters, or other types.
        """
        return (
            is_plain_part(model, "GPT")
            and model.config.norm_placement == "pre"
            and all(
                is_plain_part(block, "TransformerBlock")
                and is_plain_part(block.attention, "MultiHeadAttention")
                and is_plain_part(block.feed_forward, "FeedForward")
                and type(block.dropout) is nn.Dropout
                and is_plain(block.dropout)
                for block in model.blocks
            )
        )

    def __call__(self, ids: Int[Tensor, "B 1"], cache: Any) -> Float[Tensor, "B 1 V"]:
        """Logits after the tokens `ids`, which are added to `cache`.

        Raises:
            ValueError: an id is outside the vocabulary; the cache is full or made for
                another number of texts.
        """
        model, c, past = self.model, self.model.config, cache.length
        cache.require_room(*ids.shape)
        shape = (-1, 3, c.n_heads, 1, c.head_dim)
        positions = torch.arange(past, past + 1, device=ids.device)
        x = model.embed(ids, positions)  # [B, 1, C]
        for layer, (norm1, qkv, output, norm2, feed_forward) in enumerate(self.layers):
            q, k, v = qkv(norm1(x)).view(shape).unbind(1)  # [B, H, 1, D] each
            if c.qk_norm:
                q, k = (F.rms_norm(t, (c.head_dim,)) for t in (q, k))
            if model.rotary:
                q, k = (model.rotary(t, positions) for t in (q, k))
            mixed = F.scaled_dot_product_attention(q, *cache.extend(layer, k, v))
            x = x + output(mixed.reshape(x.shape))
            x = x + feed_forward(norm2(x))
        cache.advance(1)
        return model.softcap(self.head(self.norm(x)))
