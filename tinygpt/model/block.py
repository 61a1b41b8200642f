"""One Transformer block and its parts: norm, attention, feed-forward, residual.

Each option is one line where it acts, so that GPT-2's block can be changed into a
modern one option by option. `layer_norm` and `rms_norm` are the plain twins of
PyTorch's kernels, which the modules use. What it leaves out: mixtures of experts,
cross-attention.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.model.attention import MultiHeadAttention


def layer_norm(x: Float[Tensor, "*B C"], eps: float = 1e-5) -> Float[Tensor, "*B C"]:
    """Shift and scale every token's activations to mean 0 and variance 1.

    Source: Ba et al. (2016), "Layer Normalization", equation 4, without gain and bias.

    >>> layer_norm(torch.tensor([[1.0, 3.0]])).round(decimals=3).tolist()
    [[-1.0, 1.0]]
    """
    mean = x.mean(dim=-1, keepdim=True)
    variance = x.var(dim=-1, keepdim=True, correction=0)
    return (x - mean) / torch.sqrt(variance + eps)


def rms_norm(x: Float[Tensor, "*B C"], eps: float = 1e-5) -> Float[Tensor, "*B C"]:
    """Scale every token's activations to a root mean square of 1, without centring.

    Source: Zhang and Sennrich (2019), "Root Mean Square Layer Normalization",
    equation 4, without gain.
    """
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + eps)


class LayerNorm(nn.Module):
    """`layer_norm` with a learned gain `weight` and `bias` for each dimension.

    Source: Ba et al. (2016), "Layer Normalization", equation 4.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """`x`, normalised over its last axis."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias)


class RMSNorm(nn.Module):
    """`rms_norm` over `d_model` dimensions; it has no parameters.

    Source: Zhang and Sennrich (2019), equation 4, without gain.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, x: Float[Tensor, "*B C"]) -> Float[Tensor, "*B C"]:
        """`x`, normalised over its last axis."""
        return F.rms_norm(x, (self.d_model,), eps=1e-5)


NORMS = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}


def gelu_tanh(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """GPT-2's approximation of GELU (Hendrycks and Gimpel, 2016, section 2)."""
    return F.gelu(x, approximate="tanh")


def squared_relu(x: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
    """relu(x)^2 (So et al., 2021, "Primer", section 4.2)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": gelu_tanh,
    "relu2": squared_relu,
    "swiglu": F.silu,  # a SiLU gate beside the values
}


class FeedForward(nn.Module):
    """Two linear layers with an activation between them, for every token on its own.

    `swiglu` makes the first layer twice as wide: one half, through SiLU, gates the
    other (Shazeer, 2020, "GLU Variants Improve Transformer", equation 6).

    Source: Vaswani et al. (2017), section 3.3, equation 2.

    Raises:
        KeyError: `activation` is none of relu, gelu, relu2, swiglu.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: str = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gated = activation == "swiglu"
        self.input = nn.Linear(d_model, d_ff * (2 if self.gated else 1), bias=bias)
        self.output = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T C"]:
        """Project to d_ff, apply the activation, and project back to d_model."""
        hidden = self.input(x)
        if self.gated:
            gate, values = hidden.chunk(2, dim=-1)  # [B, T, d_ff] each
            return self.output(self.activation(gate) * values)
        return self.output(self.activation(hidden))


class TransformerBlock(nn.Module):
    """Attention mixes tokens, the feed-forward layer transforms each; both are added.

    With `norm_placement` "pre", the norm acts on the input of a sub-layer and the
    residual stream is never normalised (GPT-2); with "post", on the sum (Vaswani et
    al., 2017). Dropout acts on what a sub-layer adds.

    Source: Radford et al. (2019), "Language Models are Unsupervised Multitask
    Learners", section 2.3 (pre-norm); Xiong et al. (2020) compare the two.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        activation: str = "gelu",
        norm: str = "layernorm",
        norm_placement: str = "pre",
        bias: bool = True,
        qkv_bias: bool = True,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.pre = norm_placement == "pre"
        self.norm1 = NORMS[norm](d_model)
        self.attention = MultiHeadAttention(
            d_model,
            n_heads,
            dropout=dropout,
            qkv_bias=qkv_bias,
            output_bias=bias,
            qk_norm=qk_norm,
        )
        self.norm2 = NORMS[norm](d_model)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, bias=bias)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B T C"], **attend: Any
    ) -> Float[Tensor, "B T C"]:
        """The residual stream after the block; `attend` is for the attention."""
        if self.pre:
            x = x + self.dropout(self.attention(self.norm1(x), **attend))
            return x + self.dropout(self.feed_forward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, **attend)))
        return self.norm2(x + self.dropout(self.feed_forward(x)))
