"""linear_cross_entropy: equals PyTorch on all logits, with gradients, and no more work.

Memory is not measured here.
"""

from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tinygpt.config import IGNORE_INDEX
from tinygpt.fast import linear_cross_entropy as module
from tinygpt.fast.linear_cross_entropy import (
    linear_cross_entropy,
    naive_linear_cross_entropy,
)

N, C, V = 23, 6, 11


def parts(bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Activations, the head's weight and bias, and targets, three of them ignored."""
    torch.manual_seed(0)
    x, weight = 3 * torch.randn(N, C), torch.randn(V, C)
    targets = torch.randint(V, (N,))
    targets[[0, 9, 22]] = IGNORE_INDEX
    leaves = (x, weight, torch.randn(V) if bias else None)
    return *(None if p is None else p.requires_grad_() for p in leaves), targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("bias", "softcap", "rows"), list(product([False, True], [0.0, 4.0], [4, 23, 256]))
)
def test_equals_pytorch_on_all_logits(
    bias: bool,
    softcap: float,
    rows: int,
    reduction: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    x, weight, b, targets = parts(bias)
    leaves = [p for p in (x, weight, b) if p is not None]
    logits = F.linear(x, weight, b)
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    expected = F.cross_entropy(logits, targets, reduction=reduction)
    upstream = torch.randn(expected.shape)
    wanted = torch.autograd.grad(expected, leaves, upstream)
    # Single losses reach 36 nats, their sum 230: larger numbers round more coarsely.
    atol = {"mean": 2e-6, "none": 8e-6, "sum": 4e-5}[reduction]
    for f in (linear_cross_entropy, naive_linear_cross_entropy):
        loss = f(x, weight, b, targets, softcap, reduction)
        torch.testing.assert_close(loss, expected, rtol=0, atol=atol)
        with torch.no_grad():
            same = f(x, weight, b, targets, softcap, reduction)
        torch.testing.assert_close(same, expected, rtol=0, atol=atol)
        ours = torch.autograd.grad(loss, leaves, upstream)
        for g, w in zip(ours, wanted, strict=True):
            torch.testing.assert_close(g, w, rtol=0, atol=atol)


def test_huge_logits_stay_finite() -> None:
    x, weight, _, targets = parts(bias=False)
    loss = linear_cross_entropy(1e4 * x, weight, None, targets)
    expected = naive_linear_cross_entropy(1e4 * x, weight, None, targets)
    torch.testing.assert_close(loss, expected)
    assert loss.isfinite()


@pytest.mark.parametrize("f", [linear_cross_entropy, naive_linear_cross_entropy])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("n", [0, N])
def test_no_target_is_a_loss_of_zero(
    f: Callable[..., Tensor], reduction: str, n: int
) -> None:
    x, weight, b, targets = parts(bias=True)
    nothing = torch.full_like(targets, IGNORE_INDEX)[:n]
    loss = f(x[:n], weight, b, nothing, 0.0, reduction)
    assert loss.shape == ((n,) if reduction == "none" else ())
    assert (loss == 0).all()
    for g in torch.autograd.grad(loss.sum(), [x, weight, b]):
        assert (g == 0).all()


@pytest.mark.parametrize("f", [linear_cross_entropy, naive_linear_cross_entropy])
@pytest.mark.parametrize("wrong", [-1, -99, V])
def test_a_target_outside_the_vocabulary_is_refused(
    f: Callable[..., Tensor], wrong: int
) -> None:
    x, weight, _, targets = parts(bias=False)
    targets[5] = wrong
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        f(x, weight, None, targets)


def test_a_frozen_head_costs_no_gradient() -> None:
    x, weight, _, targets = parts(bias=False)
    with Products() as products:
        linear_cross_entropy(x, weight.detach(), None, targets).backward()
    assert products.total() == 2  # logits and the gradient of x
    wanted = torch.autograd.grad(
        naive_linear_cross_entropy(x, weight, None, targets), x
    )
    torch.testing.assert_close(x.grad, wanted[0], rtol=0, atol=1e-6)


class Products(TorchDispatchMode):
    """Counts the matrix products that PyTorch computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def total(self) -> int:
        return sum(self.seen[name] for name in ("mm", "addmm", "addmm_"))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_without_gradients_only_the_logits_are_computed(
    reduction: str, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 4)
    chunks = -(-N // 4)
    x, weight, b, targets = parts(bias)
    with torch.no_grad(), Products() as off:
        linear_cross_entropy(x, weight, b, targets, 0.0, reduction)
    frozen = [None if p is None else p.detach() for p in (x, weight, b)]
    with Products() as nothing_learns:
        linear_cross_entropy(*frozen, targets, 0.0, reduction)
    assert off.total() == nothing_learns.total() == chunks
    if reduction != "none":
        with Products() as on:
            linear_cross_entropy(x, weight, b, targets, 0.0, reduction)
        assert on.total() == 3 * chunks


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("bias", "softcap", "rows"), list(product([False, True], [0.0, 4.0], [4, 256]))
)
def test_mixed_precision_equals_the_plain_form(
    bias: bool,
    softcap: float,
    rows: int,
    reduction: str,
    x_dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROWS", rows)
    x, weight, b, targets = parts(bias)
    x = x.detach().to(x_dtype).requires_grad_()
    leaves = [p for p in (x, weight, b) if p is not None]
    results = []
    for f in (naive_linear_cross_entropy, linear_cross_entropy):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = f(x, weight, b, targets, softcap, reduction)
            with torch.no_grad():
                same = f(x, weight, b, targets, softcap, reduction)
        torch.testing.assert_close(same, loss)
        grads = torch.autograd.grad(loss, leaves)
        assert [g.dtype for g in grads] == [p.dtype for p in leaves]
        results.append((loss, grads))
    (plain, expected), (ours, grads) = results
    assert ours.dtype == torch.float32
    # Both read the same bfloat16 logits; the plain softcap rounds to 8 bits once more.
    torch.testing.assert_close(ours, plain, rtol=4e-3 if softcap else 1e-6, atol=0)
    for g, e in zip(grads, expected, strict=True):
        atol = 2**-6 * float(e.abs().max())  # two units in the last place
        torch.testing.assert_close(g, e, rtol=0, atol=atol)


def test_mixed_precision_keeps_no_table_of_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROWS", 4)
    x, weight, _, targets = parts(bias=False)
    with torch.autocast("cpu", dtype=torch.bfloat16), Products() as products:
        linear_cross_entropy(x, weight, None, targets)
    assert products.total() == 3 * -(-N // 4)


@pytest.mark.parametrize("case", ["half weights", "float16"])
def test_other_dtypes_take_the_plain_form(case: str) -> None:
    x, weight, _, targets = parts(bias=False)
    kind = torch.float16 if case == "float16" else torch.bfloat16
    if case == "half weights":
        x, weight = x.to(kind), weight.to(kind)
    with torch.autocast("cpu", dtype=kind, enabled=case == "float16"):
        ours = linear_cross_entropy(x, weight, None, targets)
        assert ours.equal(naive_linear_cross_entropy(x, weight, None, targets))


def test_doubles_stay_doubles() -> None:
    x, weight, b, targets = parts(bias=True)
    doubles = [p.detach().double().requires_grad_() for p in (x, weight, b)]
    assert linear_cross_entropy(*doubles, targets).dtype == torch.float64
    assert torch.autograd.gradcheck(
        lambda *leaves: linear_cross_entropy(*leaves, targets, 4.0), doubles
    )
