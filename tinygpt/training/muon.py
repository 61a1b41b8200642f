"""Muon: momentum whose matrix steps are made orthogonal before they are taken.

The algorithm is that of `torch.optim.Muon`, which this subclasses. Here matrices of one
shape are orthogonalised together, as one batch; the dtype of the products can be
chosen; and a weight that stacks several matrices (queries, keys, values) is split into
them first. A test shows that the steps are equal. What it leaves out: parameters that
are not matrices, which AdamW trains.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

# Jordan et al. (2024), "Muon": a, b, c of the odd polynomial a x + b x^3 + c x^5.
COEFFICIENTS = (3.4445, -4.775, 2.0315)


def orthogonalize(
    matrices: Float[Tensor, "N R S"], steps: int = 5
) -> Float[Tensor, "N R S"]:
    """Push all singular values of each matrix towards 1 (to within about 0.7 to 1.2).

    Each step applies a x + b x^3 + c x^5 to the singular values, with matrix products
    only (Newton-Schulz; Jordan et al., 2024).
    """
    a, b, c = COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(
            x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a
        )
    return x.mT if tall else x


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` for matrices [R, S], one batch per shape.

    Args:
        params: the matrices.
        lr: learning rate, also that of the decay.
        momentum: of the gradient; Nesterov's form.
        weight_decay: per unit of learning rate, decoupled as in AdamW.
        steps: Newton-Schulz steps.
        n_stacked: how many matrices of equal height a parameter stacks, if not 1; each
            is orthogonalised on its own.
        precision: dtype of the matrix products.

    Raises:
        ValueError: a parameter is not a matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        n_stacked: dict[Tensor, int] | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, ns_steps=steps
        )
        self.n_stacked = n_stacked or {}
        self.precision = precision

    @torch.no_grad()  # torch's step takes a closure and returns its loss; ours does not
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the orthogonalised momentum of every matrix."""
        for group in self.param_groups:
            same_shape = defaultdict(list)  # (rows, columns) -> (matrix, direction)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                nesterov = weight.grad.lerp(momentum, group["momentum"])
                n = self.n_stacked.get(weight, 1)
                parts = zip(weight.chunk(n), nesterov.chunk(n), strict=True)
                for matrix, direction in parts:
                    same_shape[matrix.shape].append((matrix, direction))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
            for (rows, columns), pairs in same_shape.items():
                stacked = torch.stack([direction for _, direction in pairs])
                steps = orthogonalize(stacked.to(self.precision), group["ns_steps"])
                lr = group["lr"] * math.sqrt(max(1.0, rows / columns))
                for (matrix, _), update in zip(pairs, steps, strict=True):
                    matrix.add_(update, alpha=-lr)
