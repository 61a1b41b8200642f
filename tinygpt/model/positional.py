"""Three ways to encode the positions of tokens.

Sinusoidal and learned positions are vectors *added* to the embeddings, once. Rotary
positions rotate each query and key by an angle, in every layer. What it leaves out:
relative biases (ALiBi, T5) and the scaling of rotary angles for longer contexts.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


def look_up(
    table: Float[Tensor, "S C"], positions: Int[Tensor, "*T"]
) -> Float[Tensor, "*T C"]:
    """The rows of `table` at `positions`; a negative one does not count from the end.

    Raises:
        ValueError: a position is outside the table (on a GPU, a device-side assertion
            of PyTorch instead).
    """
    try:
        return F.embedding(positions, table)
    except IndexError as error:
        first, last = (int(i) for i in positions.aminmax())
        raise ValueError(
            f"positions must be in 0..{len(table) - 1}, not {first}..{last}"
        ) from error


def sinusoidal_positions(
    context_length: int, d_model: int
) -> Float[Tensor, "{context_length} {d_model}"]:
    """The table of sines and cosines, one row per position.

    PE[t, 2i] = sin(t / 10000^(2i/d_model)) and PE[t, 2i+1] = cos of the same angle,
    t in tokens from 0. The wavelengths run from 2*pi to 10000*2*pi tokens.

    Source: Vaswani et al. (2017), "Attention Is All You Need", section 3.5.

    Raises:
        ValueError: d_model is odd; every sine needs its cosine.

    >>> sinusoidal_positions(2, 4)[1].round(decimals=3).tolist()
    [0.8410000205039978, 0.5400000214576721, 0.009999999776482582, 1.0]
    """
    if d_model % 2:
        raise ValueError(f"sinusoidal positions need an even d_model, not {d_model}")
    position = torch.arange(context_length).unsqueeze(1)  # [T, 1]
    frequency = 10_000.0 ** (-torch.arange(0, d_model, 2) / d_model)  # [C/2]
    angle = position * frequency  # [T, C/2]
    # [T, C/2, 2] -> [T, C]: each sine is followed by its cosine.
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


class SinusoidalPositions(nn.Module):
    """The fixed table of `sinusoidal_positions`, made once and never saved.

    Raises:
        ValueError: d_model is odd.
    """

    table: Tensor

    def __init__(self, context_length: int, d_model: int) -> None:
        super().__init__()
        table = sinusoidal_positions(context_length, d_model)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Int[Tensor, "*T"]) -> Float[Tensor, "*T C"]:
        """The vectors of `positions` (in tokens from 0).

        Raises:
            ValueError: a position is outside the context (see `look_up`).
        """
        return look_up(self.table, positions)


class LearnedPositions(nn.Module):
    """A table of positions learned like the token embeddings.

    Source: Radford et al. (2018), "Improving Language Understanding by Generative
    Pre-Training", section 4.1.
    """

    def __init__(self, context_length: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context_length, d_model))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, positions: Int[Tensor, "*T"]) -> Float[Tensor, "*T C"]:
        """The vectors of `positions` (in tokens from 0).

        Raises:
            ValueError: a position is outside the context (see `look_up`).
        """
        return look_up(self.weight, positions)


class RotaryPositions(nn.Module):
    """Rotate pairs of dimensions of queries and keys by angles that grow with position.

    Dimension `i` of the first half and dimension `i` of the second half form a point in
    a plane, which is rotated by t / base^(2i/head_dim) radians at position t. The dot
    product of a rotated query and a rotated key then depends on their distance only.

    Source: Su et al. (2021), "RoFormer", section 3.2.2, equation 15; pairs taken from
    the two halves, as in GPT-NeoX and Llama.

    Raises:
        ValueError: head_dim is odd; dimensions are rotated in pairs.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, context_length: int, head_dim: int, base: float = 1e4) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim, not {head_dim}")
        frequency = base ** (-torch.arange(0, head_dim, 2) / head_dim)  # [D/2]
        angle = torch.arange(context_length).unsqueeze(1) * frequency  # [T, D/2]
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(
        self, x: Float[Tensor, "B H T D"], positions: Int[Tensor, "*B T"]
    ) -> Float[Tensor, "B H T D"]:
        """`x`, rotated by the angles of its `positions` (in tokens from 0).

        Raises:
            ValueError: a position is outside the context (see `look_up`).
        """
        # [T, D/2] or [B, T, D/2] -> the same with an axis for the heads before T.
        cos = look_up(self.cos, positions).unsqueeze(-3)
        sin = look_up(self.sin, positions).unsqueeze(-3)
        first, second = x.chunk(2, dim=-1)  # [B, H, T, D/2] each
        rotated = first * cos - second * sin, first * sin + second * cos
        return torch.cat(rotated, dim=-1).type_as(x)
