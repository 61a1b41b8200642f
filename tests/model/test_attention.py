"""attention: the plain version, PyTorch's kernel and nn.MultiheadAttention agree."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.model.attention import (
    MultiHeadAttention,
    attention_weights,
    scaled_dot_product_attention,
)
from tinygpt.model.masking import causal_mask, padding_mask
from tinygpt.model.positional import RotaryPositions

B, H, T, D, S, C = 2, 3, 5, 6, 7, 18
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-14}
GRADIENT_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13}


def masks() -> dict[str, dict]:
    """Ways to say who sees whom; everybody sees somebody."""
    torch.manual_seed(5)
    every_head = torch.rand(B, H, T, S) < 0.5
    every_head[..., 2] = True
    return {
        "none": {},
        "is_causal": {"is_causal": True},
        "causal mask": {"attn_mask": causal_mask(T, S)},
        "padding mask": {"attn_mask": padding_mask(torch.tensor([4, S]), S)},
        "mask per head": {"attn_mask": every_head},
    }


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("kind", masks())
def test_plain_attention_equals_torch(kind: str, dtype: torch.dtype) -> None:
    q = torch.randn(B, H, T, D, dtype=dtype, requires_grad=True)
    k, v = torch.randn(2, B, H, S, D, dtype=dtype).unbind()
    inputs = q, k.requires_grad_(), v.requires_grad_()
    ours = scaled_dot_product_attention(*inputs, **masks()[kind])
    theirs = F.scaled_dot_product_attention(*inputs, **masks()[kind])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE[dtype])
    upstream = torch.randn_like(ours)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, upstream),
        torch.autograd.grad(theirs, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=0, atol=GRADIENT_TOLERANCE[dtype])


def test_weights_by_hand() -> None:
    """A score of 2 ln 3 / sqrt(4) = ln 3 against 0: three quarters to one quarter."""
    q = torch.tensor([[2.0, 0, 0, 0]])
    k = torch.tensor([[math.log(3), 5, 0, 0], [0.0, 0, 7, 0]])
    v = torch.tensor([[4.0, 0, 8, 0], [0.0, 4, 0, 8]])
    weights = attention_weights(q, k)
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.25]]))
    mixed = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(mixed, torch.tensor([[3.0, 1.0, 6.0, 2.0]]))


@pytest.mark.parametrize("kind", masks())
def test_weights_sum_to_one_and_hidden_keys_get_none(kind: str) -> None:
    q, k = torch.randn(B, H, T, D), torch.randn(B, H, S, D)
    options = masks()[kind]
    mask, is_causal = options.get("attn_mask"), options.get("is_causal", False)
    weights = attention_weights(q, k, mask, is_causal)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H, T))
    if is_causal:
        mask = torch.ones(T, S, dtype=torch.bool).tril()
    if mask is not None:
        assert (weights[~mask.expand(B, H, T, S)] == 0).all()


def test_mask_and_is_causal_together_must_both_agree() -> None:
    q, k, v = torch.randn(3, B, H, S, D)
    mask = padding_mask(torch.tensor([4, S]), S)
    both = scaled_dot_product_attention(q, k, v, mask, is_causal=True)
    expected = F.scaled_dot_product_attention(q, k, v, mask & causal_mask(S))
    torch.testing.assert_close(both, expected, rtol=0, atol=2e-6)


def test_dropout_drops_weights_and_doubles_the_rest() -> None:
    q, k = torch.randn(2, B, H, S, D)
    identity = torch.eye(S, D).expand(B, H, S, D)  # shows the first D weights
    weights = attention_weights(q, k)[..., :D]
    dropped = scaled_dot_product_attention(q, k, identity, dropout_p=0.5)
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * weights[kept])
    assert 0.3 < kept.float().mean().item() < 0.7


def with_torch(attention: MultiHeadAttention, bias: bool) -> nn.MultiheadAttention:
    """PyTorch's module with the same weights."""
    theirs = nn.MultiheadAttention(C, H, bias=bias, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(attention.qkv.weight)
        theirs.out_proj.weight.copy_(attention.output.weight)
        if bias:
            theirs.in_proj_bias.copy_(attention.qkv.bias)
            theirs.out_proj.bias.copy_(attention.output.bias.normal_())
    return theirs


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_multihead_attention_with_copied_weights(
    bias: bool, causal: bool
) -> None:
    ours = MultiHeadAttention(C, H, qkv_bias=bias, output_bias=bias)
    theirs = with_torch(ours, bias)
    x = torch.randn(B, T, C, requires_grad=True)
    hidden = ~causal_mask(T) if causal else None  # there, True means "may not look"
    expected, weights = theirs(x, x, x, attn_mask=hidden, average_attn_weights=False)
    mixed = ours(x, is_causal=True) if causal else ours(x)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=2e-6)

    q, k, _ = ours.heads(x)
    torch.testing.assert_close(
        attention_weights(q, k, is_causal=causal), weights, rtol=0, atol=2e-6
    )

    upstream = torch.randn(B, T, C)
    pairs = [
        (x, x),
        (ours.qkv.weight, theirs.in_proj_weight),
        (ours.output.weight, theirs.out_proj.weight),
    ]
    if bias:
        pairs += [
            (ours.qkv.bias, theirs.in_proj_bias),
            (ours.output.bias, theirs.out_proj.bias),
        ]
    mine = torch.autograd.grad(mixed, [a for a, _ in pairs], upstream)
    others = torch.autograd.grad(expected, [b for _, b in pairs], upstream)
    for gradient, other in zip(mine, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=1e-5)


EARLIER = torch.linspace(-1, 1, B * H * (S - T) * D).view(B, H, S - T, D)


def remember(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """S - T older keys and values before the new ones."""
    return torch.cat([EARLIER, k], dim=2), torch.cat([-EARLIER, v], dim=2)


OPTIONS = {
    "none": {},
    "causal": {"is_causal": True},
    "mask": {"mask": torch.ones(T, T, dtype=torch.bool).tril(1)},
    "rotary": {"rotate": partial(RotaryPositions(S, D), positions=torch.arange(T))},
    "earlier tokens": {"extend": remember, "mask": causal_mask(T, S)},
}


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("option", OPTIONS)
def test_fused_equals_plain(option: str, qk_norm: bool) -> None:
    attention = MultiHeadAttention(C, H, qk_norm=qk_norm)
    x = torch.randn(B, T, C, requires_grad=True)
    inputs, upstream = [x, *attention.parameters()], torch.randn(B, T, C)
    results = []
    for attention.fused in (True, False):
        y = attention(x, **OPTIONS[option])
        results.append((y, *torch.autograd.grad(y, inputs, upstream)))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-5)
    changed = attention(x + 1, **OPTIONS[option])
    assert not torch.allclose(changed, results[0][0], atol=1e-2)


def test_qk_norm_bounds_the_scores() -> None:
    """Two vectors of D numbers with root mean square 1 have a product of at most D."""
    x = 1e3 * torch.randn(B, T, C)
    torch.manual_seed(7)
    wild = MultiHeadAttention(C, H, qk_norm=False)
    torch.manual_seed(7)
    tame = MultiHeadAttention(C, H, qk_norm=True)
    q, k, _ = tame.heads(x)
    torch.testing.assert_close(q.square().mean(-1), torch.ones(B, H, T))
    torch.testing.assert_close(k.square().mean(-1), torch.ones(B, H, T))
    bound = math.sqrt(D) * (1 + 1e-5)
    assert (q @ k.mT / math.sqrt(D)).abs().max().item() <= bound
    q, k, _ = wild.heads(x)
    assert (q @ k.mT / math.sqrt(D)).abs().max().item() > 1000 * bound


@pytest.mark.parametrize("fused", [True, False])
def test_dropout_only_while_training(fused: bool) -> None:
    attention, x = MultiHeadAttention(C, H, dropout=0.5), torch.randn(B, T, C)
    attention.fused = fused
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    spoken = attention(x)
    attention.dropout = 0.0
    assert torch.equal(spoken, attention(x))
    assert torch.equal(spoken, attention.train()(x))


def test_is_causal_without_a_batch() -> None:
    """Matrices [T, D] and [S, D], as in PyTorch's kernel."""
    q, k, v = torch.randn(T, D), torch.randn(S, D), torch.randn(S, D)
    ours = scaled_dot_product_attention(q, k, v, is_causal=True)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


def test_layers_have_biases_and_use_the_kernel_unless_told_otherwise() -> None:
    attention = MultiHeadAttention(C, H)
    names = {"qkv.weight", "qkv.bias", "output.weight", "output.bias"}
    assert set(attention.state_dict()) == names
    assert attention.qkv.n_stacked == 3
    assert not attention.qk_norm
    bare = MultiHeadAttention(C, H, qkv_bias=False, output_bias=False)
    assert set(bare.state_dict()) == {"qkv.weight", "output.weight"}


def test_the_kernel_is_used_unless_fused_is_false(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, kernel = [], F.scaled_dot_product_attention

    def counting(*arguments: object, **named: object) -> Tensor:
        calls.append(1)
        return kernel(*arguments, **named)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counting)
    attention, x = MultiHeadAttention(C, H), torch.randn(B, T, C)
    attention(x)
    assert calls == [1]
    attention.fused = False
    attention(x)
    assert calls == [1]


@pytest.mark.parametrize("trains", [False, True])
def test_training_under_autocast_attends_in_float32(
    trains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    seen, real = [], F.scaled_dot_product_attention

    def kernel(q: Tensor, k: Tensor, v: Tensor, **options: object) -> Tensor:
        mixed = real(q, k, v, **options)
        seen.append(mixed.dtype)
        return mixed

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    attention = MultiHeadAttention(12, 3, qk_norm=True)
    rotate = partial(RotaryPositions(5, 4), positions=torch.arange(5))
    x = torch.randn(2, 5, 12)
    exact = attention(x, is_causal=True, rotate=rotate)
    with torch.set_grad_enabled(trains), torch.autocast("cpu", dtype=torch.bfloat16):
        y = attention(x, is_causal=True, rotate=rotate)
    assert seen == [torch.float32, torch.float32 if trains else torch.bfloat16]
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=0.02)
    if trains:
        y.sum().backward()
        assert attention.qkv.weight.grad.dtype == torch.float32


def test_heads_must_divide_the_model() -> None:
    with pytest.raises(ValueError, match="n_heads 4 does not divide d_model 18"):
        MultiHeadAttention(C, 4)
