"""Token embeddings: a table with one vector for every token.

What it leaves out: positions (see `positional`) and the output head, which may share
this table (see `gpt`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class TokenEmbedding(nn.Module):
    """Look up one learned vector per token id.

    The table `weight` has shape [vocab_size, d_model]. Row `i` is the vector of token
    `i`; the lookup is the same as multiplying a one-hot row by the table, only faster.

    Source: Bengio et al. (2003), "A Neural Probabilistic Language Model", section 2.

    >>> embedding = TokenEmbedding(vocab_size=5, d_model=3)
    >>> embedding(torch.tensor([[4, 0]])).shape
    torch.Size([1, 2, 3])
    """

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """The vectors of the tokens `ids`.

        Raises:
            IndexError: an id is outside the table (on a GPU, a device-side assertion
                of PyTorch instead).
        """
        return F.embedding(ids, self.weight)
