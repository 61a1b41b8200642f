"""muon: steps equal torch.optim.Muon's, orthogonalising equals a polynomial by SVD."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tinygpt.training.muon import COEFFICIENTS, Muon, orthogonalize

# tall, wide, square, and one shape twice: a batch of two
SHAPES = [(17, 6), (6, 17), (11, 11), (6, 17), (1, 9)]
LR = 0.02


def weights() -> list[Tensor]:
    torch.manual_seed(3)
    return [torch.randn(shape, requires_grad=True) for shape in SHAPES]


def train(optimizer: Any, matrices: list[Tensor], steps: int) -> None:
    """The same gradients for everyone: they do not depend on the weights."""
    generator = torch.Generator().manual_seed(4)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn(matrix.shape, generator=generator)
        optimizer.step()


def difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_steps_equal_torch_in_bfloat16(momentum: float, weight_decay: float) -> None:
    """Both round to 8 bits, in another order: a step of lr differs by at most 3 %."""
    ours, theirs, start, steps = weights(), weights(), weights(), 6
    options = {"lr": LR, "momentum": momentum, "weight_decay": weight_decay}
    train(Muon(ours, **options, precision=torch.bfloat16), ours, steps)
    train(torch.optim.Muon(theirs, **options), theirs, steps)
    assert difference(ours, theirs) < 0.03 * LR * steps
    assert difference(ours, start) > LR


class ByHand:
    """Muon as Jordan et al. (2024) write it, in float64, by singular values."""

    def __init__(
        self, weights: list[Tensor], lr: float, momentum: float, weight_decay: float
    ) -> None:
        self.weights, self.lr = weights, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.velocities = [torch.zeros_like(w, dtype=torch.float64) for w in weights]

    @torch.no_grad()
    def step(self) -> None:
        for weight, velocity in zip(self.weights, self.velocities, strict=True):
            gradient, m = weight.grad.double(), self.momentum
            velocity.copy_(m * velocity + (1 - m) * gradient)
            nesterov = m * velocity + (1 - m) * gradient
            rows, columns = weight.shape
            lr = self.lr * max(1, rows / columns) ** 0.5
            decayed = weight.double() * (1 - self.lr * self.weight_decay)
            weight.copy_(decayed - lr * by_svd(nesterov, 5))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("momentum", [0.0, 0.95])
def test_steps_in_float32_equal_those_by_hand(
    momentum: float, weight_decay: float
) -> None:
    ours, theirs = weights(), weights()
    options = {"lr": LR, "momentum": momentum, "weight_decay": weight_decay}
    train(Muon(ours, **options), ours, 6)
    train(ByHand(theirs, **options), theirs, 6)
    assert difference(ours, theirs) < 2e-5


def by_svd(matrix: Tensor, steps: int) -> Tensor:
    """The polynomial, applied to the singular values themselves."""
    a, b, c = COEFFICIENTS
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(4, 17, 6), (4, 6, 17), (3, 11, 11)], ids=str)
@pytest.mark.parametrize("steps", [1, 5])
def test_orthogonalize_is_a_polynomial_of_the_singular_values(
    steps: int, shape: tuple
) -> None:
    matrices = torch.randn(shape, dtype=torch.float64)
    result = orthogonalize(matrices, steps)
    expected = torch.stack([by_svd(matrix, steps) for matrix in matrices])
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(4, 17, 6), (4, 6, 17)], ids=str)
def test_singular_values_come_near_one(shape: tuple) -> None:
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert 0.65 < values.min().item() < values.max().item() < 1.25


def test_a_zero_gradient_moves_nothing() -> None:
    assert not orthogonalize(torch.zeros(2, 6, 17)).any()


def test_stacked_matrices_are_orthogonalised_each_on_its_own() -> None:
    """Three square matrices in one tensor step like three tensors."""
    stacked = torch.randn(3 * 6, 6, requires_grad=True)
    parts = [p.clone().detach().requires_grad_() for p in stacked.split(6)]
    whole = stacked.clone().detach().requires_grad_()
    cut = Muon([stacked], LR, weight_decay=0.3, n_stacked={stacked: 3})
    apart = Muon(parts, LR, weight_decay=0.3)
    uncut = Muon([whole], LR, weight_decay=0.3)
    for _ in range(4):
        whole.grad = stacked.grad = torch.randn(18, 6)
        for part, gradient in zip(parts, stacked.grad.split(6), strict=True):
            part.grad = gradient
        for optimizer in (cut, apart, uncut):
            optimizer.step()
    torch.testing.assert_close(stacked, torch.cat(parts), rtol=0, atol=1e-6)
    assert difference([whole], [stacked]) > LR


def test_weight_decay_shrinks_weights_by_its_share() -> None:
    (matrix,) = matrices = [torch.randn(6, 17, requires_grad=True)]
    start = matrix.detach().clone()
    matrix.grad = torch.zeros(6, 17)
    Muon(matrices, 0.1, weight_decay=0.5).step()
    torch.testing.assert_close(matrix, start * (1 - 0.1 * 0.5))


def test_a_matrix_without_gradient_stays() -> None:
    moved, still = (torch.randn(6, 17, requires_grad=True) for _ in range(2))
    before = still.detach().clone()
    moved.grad = torch.randn(6, 17)
    Muon([moved, still], LR, weight_decay=0.5).step()
    assert torch.equal(still, before)


def resumed(optimizer: Muon, matrices: list[Tensor]) -> Muon:
    """Another optimizer with the state of this one."""
    other = Muon(matrices, 0.5, momentum=0.1)
    other.load_state_dict(optimizer.state_dict())
    return other


@pytest.mark.parametrize("go_on", [resumed, lambda optimizer, _: optimizer])
def test_goes_on_bit_for_bit_after_a_reload(go_on: Callable) -> None:
    ours, straight = weights(), weights()
    optimizer, other = Muon(ours, LR), Muon(straight, LR)
    train(optimizer, ours, 3)
    train(go_on(optimizer, ours), ours, 2)
    train(other, straight, 3)
    train(other, straight, 2)
    assert difference(ours, straight) == 0


def test_a_schedule_sets_the_learning_rate() -> None:
    ours = weights()
    optimizer = Muon(ours, LR)
    optimizer.param_groups[0]["lr"] = 0.0
    train(optimizer, ours, 2)
    assert difference(ours, weights()) == 0


def test_only_matrices() -> None:
    with pytest.raises(ValueError, match="2D"):
        Muon([torch.randn(7, requires_grad=True)], LR)
