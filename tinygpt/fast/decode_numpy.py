"""One token of one text through a small GPT in NumPy: the whole model in a few lines.

For a small model on a CPU, calling PyTorch costs more than computing; NumPy's calls are
lighter, and one token needs only matrices times vectors. The arrays are the model's own
weights and the cache's own tables, not copies. The plain twin is the way through the
blocks in `GPT.forward`; a test shows that both give the same logits. What it leaves
out: several texts or tokens at once, training, adapters, norms after the sub-layers.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, from_numpy, nn

Array = Any  # np.ndarray of any shape; a vector [C] where nothing else is said
LARGEST = 10_000_000  # parameters; above, computing outweighs calling


def fits(model: Any) -> bool:
    """Whether `model` is small, plain, and where NumPy can reach it."""
    linear = [model.head]
    for block in model.blocks:
        linear += [block.attention.qkv, block.attention.output]
        linear += [block.feed_forward.input, block.feed_forward.output]
    weights = list(model.parameters())
    return (
        all(type(m) is nn.Linear for m in linear)
        and all(p.device.type == "cpu" for p in weights)
        and {str(p.dtype) for p in weights} <= {"torch.float32", "torch.float64"}
        and model.config.norm_placement == "pre"
        and model.n_parameters() <= LARGEST
    )


def gelu(x: Array) -> Array:
    """The tanh form, as GPT-2 has it (Hendrycks and Gimpel, 2016, section 2)."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "relu2": lambda x: np.square(np.maximum(x, 0)),
    "swiglu": lambda x: x / (1 + np.exp(-x)),
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


class NumpyStep:
    """The logits after one more token of one text, whose past is in the cache.

    `model` is a GPT that `fits`, and the cache its `new_cache(1)`.
    """

    def __init__(self, model: Any) -> None:
        c = self.config = model.config
        self.embedding = model.token_embedding.weight.detach().numpy()
        table = getattr(
            model.positions, "weight", getattr(model.positions, "table", None)
        )
        self.positions = None if table is None else table.detach().numpy()
        self.turns = model.rotary and (
            model.rotary.cos.numpy(),
            model.rotary.sin.numpy(),
        )
        self.embedding_norm = model.embedding_norm and norm(model.embedding_norm)
        self.norm, self.head = norm(model.norm), linear(model.head)
        self.bend = ACTIVATIONS[c.activation]
        self.layers = [
            (
                norm(block.norm1),
                linear(block.attention.qkv),
                linear(block.attention.output),
                norm(block.norm2),
                linear(block.feed_forward.input),
                linear(block.feed_forward.output),
            )
            for block in model.blocks
        ]

    def __call__(self, token: int, cache: Any) -> Tensor:
        """Logits [1, 1, V] after the id `token`, which `cache` takes in.

        Raises:
            ValueError: the cache is full.
        """
        c, past = self.config, cache.length
        if past >= c.context_length:
            raise ValueError(f"the cache of {c.context_length} tokens is full")
        table = cache.table.numpy()[:, :, 0]  # [layers, 2, H, context, D]
        shape, shrink = (3, c.n_heads, c.head_dim), 1 / math.sqrt(c.head_dim)
        x = self.embedding[token]
        if self.positions is not None:
            x = x + self.positions[past]
        if self.embedding_norm:
            x = self.embedding_norm(x)
        for stored, (norm1, qkv, output, norm2, widen, narrow) in zip(
            table, self.layers, strict=True
        ):
            q, k, v = qkv(norm1(x)).reshape(shape)  # [H, D] each
            if c.qk_norm:
                q, k = self.unit(q), self.unit(k)
            if self.turns:
                q, k = self.turn(q, past), self.turn(k, past)
            stored[0, :, past], stored[1, :, past] = k, v
            keys, values = stored[:, :, : past + 1]  # [H, S, D] each
            scores = (keys @ q[:, :, None])[:, :, 0] * shrink  # [H, S]
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            x = x + output((weights[:, None] @ values).reshape(-1))
            hidden = widen(norm2(x))
            if c.activation == "swiglu":
                gate, hidden = np.split(hidden, 2)
                x = x + narrow(self.bend(gate) * hidden)
            else:
                x = x + narrow(self.bend(hidden))
        cache.advance(1)
        logits = self.head(self.norm(x))
        cap = c.logit_softcap
        logits = cap * np.tanh(logits / cap) if cap else logits
        return from_numpy(logits)[None, None]

    def unit(self, x: Array) -> Array:
        """Each head's vector [H, D] with a root mean square of 1."""
        mean = np.square(x).mean(1, keepdims=True)
        return x / np.sqrt(mean + np.finfo(x.dtype).eps)

    def turn(self, x: Array, place: int) -> Array:
        """Each head's vector [H, D] turned by the angles of its place."""
        cos, sin = (table[place] for table in self.turns)
        first, second = np.split(x, 2, axis=1)
        turned = (first * cos - second * sin, first * sin + second * cos)
        return np.concatenate(turned, axis=1).astype(x.dtype, copy=False)
