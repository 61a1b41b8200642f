"""The key-value cache: keys and values of earlier tokens are computed only once.

What it leaves out: what to do when the context is full (see `tinygpt.generation`), and
gradients: the tables are written in place.
"""

import torch
from jaxtyping import Float
from torch import Tensor


class KVCache:
    """Keys and values of all past tokens, one pair of tables per layer.

    Memory for `context_length` tokens is allocated once; `length` of them are in use.
    `extend` appends one layer's new keys and values; `advance` counts the new tokens
    when every layer has done so. Setting `length` to 0 empties the cache.

    Source: Pope et al. (2023), "Efficiently Scaling Transformer Inference",
    section 2.1.
    """

    def __init__(
        self,
        n_layers: int,
        batch_size: int,
        n_heads: int,
        context_length: int,
        head_dim: int,
        like: Tensor,
    ) -> None:
        """An empty cache with the dtype and the device of `like`."""
        shape = (n_layers, 2, batch_size, n_heads, context_length, head_dim)
        self.table = torch.empty(shape, dtype=like.dtype, device=like.device)
        # Keys and values of each layer, [B, H, context_length, D]: views of the table.
        self.layers = [(self.table[i, 0], self.table[i, 1]) for i in range(n_layers)]
        self.context_length = context_length
        self.length = 0
        self.batch_size = batch_size
        self.model_shape = (n_layers, n_heads, head_dim)

    def require_model(self, n_layers: int, n_heads: int, head_dim: int) -> None:
        """Check that the tables have the shape of a model's keys and values.

        Raises:
            ValueError: they have another.
        """
        if (given := (n_layers, n_heads, head_dim)) != self.model_shape:
            raise ValueError(
                "the cache is for layers, heads and head size "
                f"{self.model_shape}, not {given}"
            )

    def require_room(self, batch_size: int, n_tokens: int) -> None:
        """Check that `n_tokens` more of `batch_size` texts can be added.

        Raises:
            ValueError: the cache is for another number of texts, or too full.
        """
        if batch_size != self.batch_size:
            raise ValueError(
                f"the cache is for a batch of {self.batch_size}, not of {batch_size}"
            )
        if (end := self.length + n_tokens) > self.context_length:
            raise ValueError(
                f"{end} tokens do not fit into a cache of {self.context_length}"
            )

    def extend(
        self, layer: int, k: Float[Tensor, "B H T D"], v: Float[Tensor, "B H T D"]
    ) -> tuple[Float[Tensor, "B H S D"], Float[Tensor, "B H S D"]]:
        """Store T new keys and values of `layer`; returns all S = length + T of them.

        Raises:
            ValueError: as `require_room`.
        """
        self.require_room(k.size(0), k.size(2))
        end = self.length + k.size(2)
        keys, values = (table.narrow(2, 0, end) for table in self.layers[layer])
        keys.narrow(2, self.length, k.size(2)).copy_(k)
        values.narrow(2, self.length, v.size(2)).copy_(v)
        return keys, values

    def advance(self, n_tokens: int) -> None:
        """Count `n_tokens` more as in use, after every layer has appended them."""
        self.length += n_tokens

    def repeat(self, n: int) -> "KVCache":
        """A cache for `n` continuations of each text; text b's i-th is row i B + b."""
        layers, heads, head_dim = self.model_shape
        rows, length = n * self.batch_size, self.context_length
        cache = KVCache(layers, rows, heads, length, head_dim, like=self.table)
        used = self.table[..., : self.length, :]
        cache.table[..., : self.length, :] = used.repeat(1, 1, n, 1, 1, 1)
        cache.length = self.length
        return cache
