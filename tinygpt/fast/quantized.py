"""Weights of two bytes or one: a model in half or a quarter of its memory, and sooner.

Writing a token means reading every weight once, so smaller weights are read sooner. For
one byte, each row of a matrix is divided by a scale of its own and rounded to whole
numbers from -127 to 127. The plain twin of the fast product is the product with the
weights that `dequantize` gives; a test says how far apart the two may be. What it
leaves out: training, saving, fewer bits, and choosing scales by what the model then
predicts.

Source: Dettmers et al. (2022), "LLM.int8()", section 2 (a scale for each row).
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int8
from torch import Tensor, nn

TINY = 1e-30  # stands in for a largest number of zero
WEIGHTS = ("float32", "bfloat16", "int8")  # how a weight can be stored


def quantize_rows(
    weight: Float[Tensor, "O I"],
) -> tuple[Int8[Tensor, "O I"], Float[Tensor, " O"]]:
    """Whole numbers and a scale for each row, whose largest weight becomes 127.

    Rounding changes a weight by half the scale of its row at most.

    >>> rows, scale = quantize_rows(torch.tensor([[0.5, -1.27, 0.004, 0.0]]))
    >>> rows.tolist(), round(scale.item(), 4)
    ([[50, -127, 0, 0]], 0.01)
    """
    scale = weight.abs().amax(dim=1) / 127
    whole = (weight / scale.clamp_min(TINY).unsqueeze(1)).round()
    return whole.to(torch.int8), scale


def dequantize(
    rows: Int8[Tensor, "*O I"], scale: Float[Tensor, "*O"]
) -> Float[Tensor, "*O I"]:
    """The weights that `rows` and their `scale` stand for."""
    return rows * scale.unsqueeze(-1)


def pack(rows: Int8[Tensor, "O I"], scale: Float[Tensor, " O"]) -> Any:
    """The weights in the form that fbgemm, PyTorch's library for x86, multiplies.

    None where it is missing, and for other numbers than float32 on a CPU.
    """
    backend = torch.backends.quantized
    fits = scale.dtype == torch.float32 and scale.device.type == "cpu"
    if not fits or "fbgemm" not in backend.supported_engines:
        return None
    before = backend.engine
    backend.engine = "fbgemm"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this kind of tensor will go one day
            matrix = torch._make_per_channel_quantized_tensor(
                rows, scale.double(), torch.zeros(len(rows), dtype=torch.long), 0
            )
        return torch.ops.quantized.linear_prepack(matrix, None)
    except (AttributeError, RuntimeError):  # it has gone
        return None
    finally:
        backend.engine = before


class Int8Linear(nn.Module):
    """A linear layer whose weights have one byte each.

    fbgemm multiplies whole numbers, so it rounds the inputs, too, to 7 bits: then no
    x86 processor overflows. Without fbgemm the weights are dequantized for each
    product, which is right, but slow.
    """

    rows: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rows, scale = quantize_rows(linear.weight.detach())
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = linear.bias
        self.packed = pack(rows, scale)
        self.register_buffer("rows", rows if self.packed is None else None)

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """Weights times each of the vectors `x`, plus bias."""
        if self.rows is not None:
            return F.linear(x, dequantize(self.rows, self.scale), self.bias)
        multiply = torch.ops.quantized.linear_dynamic
        if x.numel() == x.size(-1):
            y = multiply(x, self.packed, True)
        else:  # all vectors are rounded alike, so first make them equally large
            largest = x.abs().amax(dim=-1, keepdim=True).clamp_min(TINY)
            y = multiply(x / largest, self.packed, True) * largest
        return y if self.bias is None else y + self.bias


class Int8Embedding(nn.Module):
    """A `TokenEmbedding` whose weights have one byte each."""

    rows: Tensor

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        rows, scale = quantize_rows(embedding.weight.detach())
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.register_buffer("rows", rows)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """The vectors of the tokens `ids`.

        Raises:
            IndexError: an id is outside the table.
        """
        return dequantize(F.embedding(ids, self.rows), self.scale[ids])


def convert_weights(model: Any, weights: str) -> None:
    """Give a `GPT` weights of another kind, in place; it can be trained no more.

    "bfloat16" stores every number in 16 bits, activations too: 8 binary digits and the
    range of float32. "int8" is for the embedding and the linear layers; biases, norms,
    positions and activations stay as they are.

    Raises:
        ValueError: `weights` is none of `WEIGHTS`.
    """
    if weights not in WEIGHTS:
        raise ValueError(f"weights are {', '.join(WEIGHTS)}, not {weights!r}")
    model.requires_grad_(False)
    if weights == "bfloat16":
        for part in model.children():
            if part is not model.rotary:  # its angles need more digits
                part.to(torch.bfloat16)
    elif weights == "int8":
        model.token_embedding = Int8Embedding(model.token_embedding)
        for part in list(model.modules()):
            for name, layer in list(part.named_children()):
                if type(layer) is nn.Linear:
                    setattr(part, name, Int8Linear(layer))
