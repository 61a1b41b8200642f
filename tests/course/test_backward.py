"""backward: every function against autograd and finite differences, in float64."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tinygpt.config import IGNORE_INDEX, GPTConfig
from tinygpt.course.backward import (
    attention_backward,
    block_backward,
    block_forward,
    cross_entropy_backward,
    embedding_backward,
    gelu_backward,
    gradients,
    layer_norm_backward,
    linear_backward,
    positions_backward,
    softmax_backward,
)
from tinygpt.errors import UserError
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.model.attention import attention_weights, scaled_dot_product_attention
from tinygpt.model.block import TransformerBlock, gelu_tanh
from tinygpt.model.gpt import GPT
from tinygpt.training.loss import NextTokenLoss

B, H, T, D, V, C, D_FF = 2, 3, 5, 4, 7, 12, 10
IDS = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(V, (B, T), generator=torch.Generator().manual_seed(2))
TARGETS[0, 1] = IGNORE_INDEX
STEP = 1e-5  # of the finite differences, whose error is about its square


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def by_softmax(dp: Tensor, x: Tensor) -> tuple[Tensor]:
    return (softmax_backward(dp, x.softmax(dim=-1)),)


def by_attention(dmixed: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Any:
    weights = attention_weights(q, k, is_causal=True)
    return attention_backward(dmixed, q, k, v, weights)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True)


def loss_of(logits: Tensor) -> Tensor:
    flat = logits.flatten(0, 1)
    return F.cross_entropy(flat, TARGETS.flatten(), ignore_index=IGNORE_INDEX)


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, (C,), weight, bias)


# A layer, its backward function of dy and the inputs, and the shapes of the inputs.
CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Any], list[Any]]] = {
    "linear": (
        F.linear,
        lambda dy, x, weight, bias: linear_backward(dy, x, weight),
        [(B, T, C), (D_FF, C), (D_FF,)],
    ),
    "softmax": (lambda x: x.softmax(dim=-1), by_softmax, [(B, T, V)]),
    "cross-entropy": (
        loss_of,
        lambda dy, logits: (dy * cross_entropy_backward(logits, TARGETS),),
        [(B, T, V)],
    ),
    "embedding": (
        lambda table: table[IDS],
        lambda dy, table: (embedding_backward(dy, IDS, V),),
        [(V, C)],
    ),
    "positions": (
        lambda table: table[:T].expand(B, T, C),
        lambda dy, table: (positions_backward(dy, T + 2),),
        [(T + 2, C)],
    ),
    "layer norm": (
        norm,
        lambda dy, x, weight, bias: layer_norm_backward(dy, x, weight),
        [(B, T, C), (C,), (C,)],
    ),
    "gelu": (gelu_tanh, lambda dy, x: (gelu_backward(dy, x),), [(B, T, D_FF)]),
    "attention": (causal, by_attention, [(B, H, T, D)] * 3),
}


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("name", CASES)
def test_a_layer_agrees_with_autograd(name: str, size: float) -> None:
    forward, backward, shapes = CASES[name]
    inputs = [(size * draw(*shape)).requires_grad_() for shape in shapes]
    y = forward(*inputs)
    dy = torch.randn_like(y)
    with torch.no_grad():
        ours = backward(dy, *inputs)
    theirs = torch.autograd.grad(y, inputs, dy)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        scale = max(1.0, other.abs().max().item())
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10 * scale)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_a_layer_agrees_with_finite_differences(name: str) -> None:
    forward, backward, shapes = CASES[name]
    inputs = [draw(*shape) for shape in shapes]
    dy = torch.randn_like(forward(*inputs))
    for number, slope in enumerate(backward(dy, *inputs)):
        way = torch.randn_like(inputs[number])  # move all of its numbers at once
        ends = []
        for sign in (1, -1):
            moved = list(inputs)
            moved[number] = inputs[number] + sign * STEP * way
            ends.append((forward(*moved) * dy).sum())
        difference = (ends[0] - ends[1]) / (2 * STEP)
        torch.testing.assert_close(
            (slope * way).sum(), difference, rtol=1e-6, atol=1e-8
        )


def test_no_gradient_reaches_the_future() -> None:
    q, k, v = draw(H, T, D), draw(H, T, D), draw(H, T, D)
    dmixed = torch.zeros(H, T, D, dtype=torch.float64)
    dmixed[:, 1] = 1.0  # only token 1 matters to the loss
    _, dk, dv = by_attention(dmixed, q, k, v)
    assert dk[:, 2:].abs().max() == dv[:, 2:].abs().max() == 0
    assert dk[:, :2].abs().min() > 0


def test_a_block_agrees_with_autograd() -> None:
    block = TransformerBlock(C, H, D_FF).double()
    x = draw(B, T, C).requires_grad_()
    y = block(x, is_causal=True)
    dy = torch.randn_like(y)
    named = dict(block.named_parameters())
    dx, *others = torch.autograd.grad(y, [x, *named.values()], dy)
    with torch.no_grad():
        ours, kept = block_forward(block, x)
        mine, found = block_backward(dy, block, kept)
    torch.testing.assert_close(ours, y, rtol=0, atol=1e-12)
    torch.testing.assert_close(mine, dx, rtol=0, atol=1e-10)
    assert found.keys() == named.keys()
    for name, other in zip(named, others, strict=True):
        torch.testing.assert_close(found[name], other, rtol=0, atol=1e-10)


def compare(model: GPT, ids: Tensor, targets: Tensor) -> None:
    """`gradients` of every parameter against autograd's."""
    loss = NextTokenLoss(model)(ids, targets)
    loss.backward()
    mine, found = gradients(model, ids, targets)
    torch.testing.assert_close(mine, loss.detach(), rtol=0, atol=1e-10)
    named = dict(model.named_parameters())
    assert found.keys() == named.keys()
    for name, parameter in named.items():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-10)


def test_a_small_model_agrees_with_autograd() -> None:
    sizes = {"d_model": C, "n_heads": H, "n_layers": 3, "d_ff": D_FF}
    model = GPT(GPTConfig(vocab_size=V, context_length=T + 2, **sizes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)  # nothing is 0 or 1
    compare(model, IDS, TARGETS)


def test_a_trained_model_agrees_with_autograd() -> None:
    model, tokenizer = load_gpt2("story")
    ids = torch.tensor(
        [tokenizer.encode("Lily wanted to go to the park with her mom.")]
    )
    compare(model.double(), ids[:, :-1], ids[:, 1:])


def test_another_shape_is_refused() -> None:
    sizes = {"vocab_size": V, "context_length": T, "d_model": C, "n_heads": H}
    model = GPT(GPTConfig(**sizes, norm="rmsnorm", positions="rotary"))
    with pytest.raises(UserError, match=r"differs in positions, norm: choose"):
        gradients(model, IDS, TARGETS)


def test_a_step_along_the_gradients_lowers_the_loss() -> None:
    sizes = {"vocab_size": V, "context_length": T, "d_model": C, "n_heads": H}
    model = GPT(GPTConfig(**sizes))
    losses = []
    for _ in range(30):
        loss, found = gradients(model, IDS, TARGETS)
        losses.append(loss.item())
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= 0.3 * found[name]
    assert losses[0] == pytest.approx(math.log(V), abs=0.1)
    assert losses[-1] < 0.8 * losses[0]
