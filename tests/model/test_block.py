"""block: norms, activations and the whole block against PyTorch's and by hand."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.model.block import (
    FeedForward,
    LayerNorm,
    RMSNorm,
    TransformerBlock,
    layer_norm,
    rms_norm,
)
from tinygpt.model.masking import causal_mask

B, H, T, C, D_FF = 2, 3, 5, 18, 28
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}


def inputs(dtype: torch.dtype, size: float) -> Tensor:
    """Vectors with a mean; small ones make the epsilon count."""
    return (size * (torch.randn(B, T, C, dtype=dtype) + 0.7)).requires_grad_()


def assert_same_with_gradient(ours: Tensor, theirs: Tensor, x: Tensor) -> None:
    """Equal outputs, and equal gradients of `x` relative to their size."""
    tolerance = TOLERANCE[x.dtype]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
    upstream = torch.randn_like(ours)
    (mine,) = torch.autograd.grad(ours, x, upstream, retain_graph=True)
    (other,) = torch.autograd.grad(theirs, x, upstream, retain_graph=True)
    scale = other.abs().max().item()
    torch.testing.assert_close(mine, other, rtol=0, atol=5 * tolerance * scale)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_norms_equal_torch(dtype: torch.dtype, size: float) -> None:
    x = inputs(dtype, size)
    assert_same_with_gradient(layer_norm(x), F.layer_norm(x, (C,)), x)
    assert_same_with_gradient(rms_norm(x), F.rms_norm(x, (C,), eps=1e-5), x)
    assert_same_with_gradient(RMSNorm(C)(x), rms_norm(x), x)


def test_layer_norm_module_equals_torch_with_its_gain_and_bias() -> None:
    ours, theirs = LayerNorm(C), nn.LayerNorm(C)
    with torch.no_grad():
        ours.weight.normal_()
        ours.bias.normal_()
    theirs.load_state_dict(ours.state_dict())
    x, upstream = torch.randn(B, T, C, requires_grad=True), torch.randn(B, T, C)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    plain = layer_norm(x) * ours.weight + ours.bias
    torch.testing.assert_close(ours(x), plain, rtol=0, atol=2e-6)
    mine = torch.autograd.grad(ours(x), [x, *ours.parameters()], upstream)
    others = torch.autograd.grad(theirs(x), [x, *theirs.parameters()], upstream)
    for gradient, other in zip(mine, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=0)


def test_norms_by_hand() -> None:
    x = torch.tensor([1.0, 7.0], dtype=torch.float64)  # mean 4, variance 9
    expected = torch.tensor([-3.0, 3.0]).double() / math.sqrt(9 + 1e-5)
    torch.testing.assert_close(layer_norm(x), expected)
    expected = x / math.sqrt(25 + 1e-5)  # mean of squares: (1 + 49) / 2
    torch.testing.assert_close(rms_norm(x), expected)
    assert not RMSNorm(C).state_dict()


# Each activation at a number x, by its formula.
FORMULAS = {
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "gelu": lambda x: (
        0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
}


@pytest.mark.parametrize("activation", FORMULAS)
def test_feed_forward_bends_by_the_formula(activation: str) -> None:
    layer = FeedForward(C, D_FF, activation=activation).double()
    assert layer.input.weight.shape == (D_FF, C)
    x = torch.randn(B, T, C, dtype=torch.float64)
    hidden = x @ layer.input.weight.mT + layer.input.bias
    bent = hidden.detach().apply_(FORMULAS[activation])
    expected = bent @ layer.output.weight.mT + layer.output.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)


def test_swiglu_gates_by_the_formula() -> None:
    """output(silu(gate) * values), where silu(x) = x / (1 + exp(-x))."""
    layer = FeedForward(C, D_FF, activation="swiglu").double()
    assert layer.input.weight.shape == (2 * D_FF, C)
    x = torch.randn(B, T, C, dtype=torch.float64)
    gate = x @ layer.input.weight[:D_FF].mT + layer.input.bias[:D_FF]
    values = x @ layer.input.weight[D_FF:].mT + layer.input.bias[D_FF:]
    opened = gate.detach().apply_(lambda g: g / (1 + math.exp(-g)))
    expected = (opened * values) @ layer.output.weight.mT + layer.output.bias
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-14)


def test_feed_forward_without_bias_and_with_an_unknown_name() -> None:
    layer = FeedForward(C, D_FF, bias=False)
    assert sorted(layer.state_dict()) == ["input.weight", "output.weight"]
    with pytest.raises(KeyError, match="tanh"):
        FeedForward(C, D_FF, activation="tanh")


def tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


NAMES = {  # ours: PyTorch's
    "attention.qkv.weight": "self_attn.in_proj_weight",
    "attention.qkv.bias": "self_attn.in_proj_bias",
    "attention.output.weight": "self_attn.out_proj.weight",
    "attention.output.bias": "self_attn.out_proj.bias",
    "feed_forward.input.weight": "linear1.weight",
    "feed_forward.input.bias": "linear1.bias",
    "feed_forward.output.weight": "linear2.weight",
    "feed_forward.output.bias": "linear2.bias",
    "norm1.weight": "norm1.weight",
    "norm1.bias": "norm1.bias",
    "norm2.weight": "norm2.weight",
    "norm2.bias": "norm2.bias",
}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=str
)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    ("activation", "function"), [("relu", F.relu), ("gelu", tanh_gelu)]
)
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_block_equals_torch_with_copied_weights(
    placement: str,
    activation: str,
    function: Callable[[Tensor], Tensor],
    fused: bool,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    ours = TransformerBlock(
        C, H, D_FF, activation=activation, norm_placement=placement
    ).to(dtype)
    ours.attention.fused = fused
    theirs = nn.TransformerEncoderLayer(
        C,
        H,
        D_FF,
        dropout=0.0,
        activation=function,
        batch_first=True,
        norm_first=placement == "pre",
        dtype=dtype,
    )
    with torch.no_grad():
        for parameter in ours.parameters():  # norms and biases are to count too
            parameter.add_(0.3 * torch.randn_like(parameter))
    theirs.load_state_dict({NAMES[n]: w for n, w in ours.state_dict().items()})
    x = torch.randn(B, T, C, dtype=dtype, requires_grad=True)
    mine = ours(x, is_causal=True)
    other = theirs(x, src_mask=~causal_mask(T), is_causal=True)
    torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)

    upstream = torch.randn_like(x)
    mine.backward(upstream)
    ours_x, x.grad = x.grad, None
    other.backward(upstream)
    torch.testing.assert_close(ours_x, x.grad, rtol=0, atol=10 * tolerance)
    twins = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, twins[NAMES[name]].grad, rtol=0, atol=10 * tolerance
        )
        assert parameter.grad.abs().max().item() > 1e-3


@pytest.mark.parametrize("placement", ["pre", "post"])
@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_where_the_norm_stands(norm: str, placement: str) -> None:
    """Sub-layers that add nothing leave the stream alone, or normalise it (twice)."""
    block = TransformerBlock(C, H, D_FF, norm=norm, norm_placement=placement)
    for layer in (block.attention.output, block.feed_forward.output):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x = torch.randn(B, T, C)
    once = layer_norm if norm == "layernorm" else rms_norm
    expected = x if placement == "pre" else once(once(x))
    torch.testing.assert_close(block(x, is_causal=True), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_bias_switches(bias: bool, qkv_bias: bool) -> None:
    block = TransformerBlock(C, H, D_FF, bias=bias, qkv_bias=qkv_bias)
    layers = {name for name, m in block.named_modules() if isinstance(m, nn.Linear)}
    with_bias = {n for n in layers if f"{n}.bias" in block.state_dict()}
    assert ("attention.qkv" in with_bias) == qkv_bias
    assert with_bias - {"attention.qkv"} == (
        layers - {"attention.qkv"} if bias else set()
    )


def test_dropout_acts_on_what_a_sub_layer_adds() -> None:
    block, x = TransformerBlock(C, H, D_FF), torch.randn(B, T, C)
    block.dropout.p = 1.0  # drops all that is added
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)
    block.eval()
    assert not torch.allclose(block(x), x, atol=1e-2)


def test_dropout_reaches_attention_and_residuals_only_while_training() -> None:
    block, x = TransformerBlock(C, H, D_FF, dropout=0.3), torch.randn(B, T, C)
    assert block.dropout.p == block.attention.dropout == 0.3
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))
