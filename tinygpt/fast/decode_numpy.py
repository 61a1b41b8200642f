"""One token of one text through a small GPT in NumPy: the whole model in a few lines.

For a small model on a CPU, calling PyTorch costs more than computing; NumPy's calls are
lighter, and one token needs only matrices times vectors. The arrays are the model's own
weights and the cache's own tables, not copies. The plain twin is `GPT.forward`; a test
shows that both give the same logits. What it leaves out, and leaves to the twin:
several texts or tokens at once, training, norms after the sub-layers, and models of
which any part has hooks, an adapter, or was replaced.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, from_numpy, nn

from tinygpt.fast.decode_torch import TorchDecoder
from tinygpt.fast.plain import is_plain, is_plain_part

Array = Any  # np.ndarray of any shape; a vector [C] where nothing else is said
LARGEST = 10_000_000  # parameters; above, computing outweighs calling


def gelu_tanh(x: Array) -> Array:
    """The tanh form, as GPT-2 has it (Hendrycks and Gimpel, 2016, section 2)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


# By the name of the function that the feed-forward layer applies.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu_tanh": gelu_tanh,
    "squared_relu": lambda x: np.square(np.maximum(x, 0)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def linear(module: nn.Linear) -> Callable[[Array], Array]:
    """Weight times vector, plus bias: [I] -> [O]."""
    weight = module.weight.detach().numpy()
    if module.bias is None:
        return lambda x: weight @ x
    bias = module.bias.detach().numpy()
    return lambda x: weight @ x + bias


def norm(module: Any) -> Callable[[Array], Array]:
    """LayerNorm, or RMSNorm if nothing is learned: [C] -> [C]."""
    if not list(module.parameters()):
        return lambda x: x / math.sqrt(x @ x / len(x) + 1e-5)
    gain, shift = module.weight.detach().numpy(), module.bias.detach().numpy()

    def layer_norm(x: Array) -> Array:
        x = x - x.sum() / len(x)
        return x / math.sqrt(x @ x / len(x) + 1e-5) * gain + shift

    return layer_norm


class NumpyDecoder:
    """The logits after one more token of one text, whose past is in the cache.

    Made for one call of `generate`: hooks that come later are not seen.

    Raises:
        ValueError: the model does not fit.
    """

    def __init__(self, model: Any) -> None:
        if not self.fits(model):
            raise ValueError("this decoder needs a small, plain GPT on the CPU")
        c = self.config = model.config
        self.embedding = model.token_embedding.weight.detach().numpy()
        table = getattr(
            model.positions, "weight", getattr(model.positions, "table", None)
        )
        self.positions = None if table is None else table.detach().numpy()
        self.rotary = model.rotary and (
            model.rotary.cos.numpy(),
            model.rotary.sin.numpy(),
        )
        self.embedding_norm = model.embedding_norm and norm(model.embedding_norm)
        self.norm, self.head = norm(model.norm), linear(model.head)
        self.layers = [
            (
                norm(block.norm1),
                linear(block.attention.qkv),
                linear(block.attention.output),
                norm(block.norm2),
                linear(block.feed_forward.input),
                ACTIVATIONS[block.feed_forward.activation.__name__],
                linear(block.feed_forward.output),
            )
            for block in model.blocks
        ]
        self.gated = c.activation == "swiglu"

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether `model` is a small GPT, every part plain, where NumPy can reach it.

        Small: up to `LARGEST` parameters. Weights are float32 or float64 on the CPU.
        """
        if not TorchDecoder.fits(model) or torch.is_autocast_enabled("cpu"):
            return False
        norms, linears = [model.norm], [model.head]
        for block in model.blocks:
            attention, feed_forward = block.attention, block.feed_forward
            norms += [block.norm1, block.norm2]
            linears += [attention.qkv, attention.output]
            linears += [feed_forward.input, feed_forward.output]
            if getattr(feed_forward.activation, "__name__", "") not in ACTIVATIONS:
                return False
        if model.embedding_norm is not None:
            norms.append(model.embedding_norm)
        weights = list(model.parameters())  # a tied one once
        return (
            is_plain_part(model.token_embedding, "TokenEmbedding")
            and is_plain_part(
                model.positions or model.rotary,
                "LearnedPositions",
                "SinusoidalPositions",
                "RotaryPositions",
            )
            and type(model.dropout) is nn.Dropout
            and is_plain(model.dropout)
            and all(is_plain_part(m, "LayerNorm", "RMSNorm") for m in norms)
            and all(type(m) is nn.Linear and is_plain(m) for m in linears)
            and all(type(p) is nn.Parameter and p.device.type == "cpu" for p in weights)
            and {p.dtype for p in weights} in ({torch.float32}, {torch.float64})
            and sum(p.numel() for p in weights) <= LARGEST
        )

    def __call__(self, ids: Int[Tensor, "1 1"], cache: Any) -> Float[Tensor, "1 1 V"]:
        """Logits after the token `ids`, which is added to `cache`.

        Raises:
            ValueError: the id is outside the vocabulary; the cache is full or made for
                another number of texts.
        """
        c, past, token = self.config, cache.length, int(ids)
        cache.require_room(*ids.shape)
        if not 0 <= token < c.vocab_size:
            raise ValueError(f"token ids must be in 0..{c.vocab_size - 1}, not {token}")
        table = cache.table.numpy()[:, :, 0]  # [layers, 2, H, context, D]
        shape, shrink = (3, c.n_heads, c.head_dim), 1 / math.sqrt(c.head_dim)
        x = self.embedding[token]
        if self.positions is not None:
            x = x + self.positions[past]
        if self.embedding_norm:
            x = self.embedding_norm(x)
        for stored, (norm1, qkv, output, norm2, widen, activation, narrow) in zip(
            table, self.layers, strict=True
        ):
            q, k, v = qkv(norm1(x)).reshape(shape)  # [H, D] each
            if c.qk_norm:
                q, k = self.unit(q), self.unit(k)
            if self.rotary:
                q, k = self.rotate(q, past), self.rotate(k, past)
            stored[0, :, past], stored[1, :, past] = k, v
            keys, values = stored[:, :, : past + 1]  # [H, S, D] each
            scores = (keys @ q[:, :, None])[:, :, 0] * shrink  # [H, S]
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            x = x + output((weights[:, None] @ values).reshape(-1))
            hidden = widen(norm2(x))
            if self.gated:
                gate, hidden = np.split(hidden, 2)
                x = x + narrow(activation(gate) * hidden)
            else:
                x = x + narrow(activation(hidden))
        cache.advance(1)
        logits = self.head(self.norm(x))
        cap = c.logit_softcap
        logits = cap * np.tanh(logits / cap) if cap else logits
        return from_numpy(logits)[None, None]

    def unit(self, x: Array) -> Array:
        """Each head's vector [H, D] with a root mean square of 1."""
        mean = np.square(x).mean(1, keepdims=True)
        return x / np.sqrt(mean + np.finfo(x.dtype).eps)

    def rotate(self, x: Array, position: int) -> Array:
        """Each head's vector [H, D] turned by the angles of its position."""
        cos, sin = (table[position] for table in self.rotary)
        first, second = np.split(x, 2, axis=1)
        rotated = (first * cos - second * sin, first * sin + second * cos)
        return np.concatenate(rotated, axis=1).astype(x.dtype, copy=False)
