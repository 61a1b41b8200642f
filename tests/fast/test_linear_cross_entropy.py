"""head_loss: by chunks equals PyTorch on all logits, gradients too, in less memory."""

from itertools import product

import pytest
import torch
from torch import Tensor

from tinygpt.config import GPTConfig
from tinygpt.fast import linear_cross_entropy as module
from tinygpt.fast.linear_cross_entropy import head_loss, naive_head_loss
from tinygpt.model.gpt import GPT

N, C, V = 23, 6, 11


def parts(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Vectors, the head's weight and bias, and targets, three of them ignored."""
    torch.manual_seed(0)
    x, weight = 3 * torch.randn(N, C), torch.randn(V, C)
    targets = torch.randint(V, (N,))
    targets[[0, 9, 22]] = -100
    leaves = (x, weight, torch.randn(V) if bias else None)
    return *(None if p is None else p.requires_grad_() for p in leaves), targets


@pytest.mark.parametrize(
    ("bias", "softcap", "rows"), list(product([False, True], [0.0, 4.0], [4, 23, 256]))
)
def test_equals_pytorch_on_all_logits(
    bias: bool, softcap: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    x, weight, b, targets = parts(bias)
    leaves = [p for p in (x, weight, b) if p is not None]
    losses = [f(x, weight, b, targets, softcap) for f in (naive_head_loss, head_loss)]
    torch.testing.assert_close(*losses, rtol=0, atol=2e-6)
    expected, ours = ([2 * g for g in torch.autograd.grad(a, leaves)] for a in losses)
    twice = torch.autograd.grad(2 * head_loss(x, weight, b, targets, softcap), leaves)
    for wanted, g, scaled in zip(expected, ours, twice, strict=True):
        torch.testing.assert_close(g, wanted, rtol=0, atol=2e-6)
        torch.testing.assert_close(scaled, wanted, rtol=0, atol=2e-6)


def test_huge_logits_stay_finite() -> None:
    x, weight, _, targets = parts(bias=False)
    loss = head_loss(1e4 * x, weight, None, targets)
    torch.testing.assert_close(loss, naive_head_loss(1e4 * x, weight, None, targets))
    assert loss.isfinite()


def test_no_target_is_no_number_as_in_pytorch() -> None:
    x, weight, _, targets = parts(bias=False)
    nothing = torch.full_like(targets, -100)
    assert head_loss(x, weight, None, nothing).isnan()
    assert naive_head_loss(x, weight, None, nothing).isnan()


def test_a_frozen_head_gets_no_gradient() -> None:
    x, weight, _, targets = parts(bias=False)
    frozen = weight.detach()
    head_loss(x, frozen, None, targets).backward()
    wanted = torch.autograd.grad(naive_head_loss(x, weight, None, targets), x)
    torch.testing.assert_close(x.grad, wanted[0], rtol=0, atol=1e-6)
    assert frozen.grad is None


@pytest.mark.parametrize("tie_head", [False, True])
def test_a_gpt_gives_the_loss_of_its_logits(tie_head: bool) -> None:
    torch.manual_seed(1)
    config = GPTConfig(
        vocab_size=V, context_length=5, d_model=6, n_heads=2, tie_head=tie_head
    )
    model = GPT(config)
    ids, targets = torch.randint(V, (3, 5)), torch.randint(V, (3, 5))
    wanted = torch.nn.functional.cross_entropy(model(ids).mT, targets)
    loss = model(ids, targets=targets)
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-6)
    every = list(model.parameters())
    pairs = zip(
        torch.autograd.grad(loss, every),
        torch.autograd.grad(wanted, every),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_mixed_precision_takes_the_plain_way() -> None:
    x, weight, _, targets = parts(bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head_loss(x, weight, None, targets)
        assert ours.equal(naive_head_loss(x, weight, None, targets))
    assert ours.dtype == torch.float32
    assert not ours.equal(head_loss(x, weight, None, targets))
