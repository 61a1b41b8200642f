"""Muon: momentum whose matrix steps are made orthogonal before they are taken.

The algorithm is `torch.optim.Muon`'s and so is its class; here matrices of one shape
are orthogonalised together as one batch, in float32 if the processor is slow in
bfloat16, and a matrix that stacks several others (queries, keys, values) can be cut
into them first. A test shows that the steps are equal. What it leaves out: everything
that is no matrix; AdamW trains that.
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

    Each step applies a x + b x^3 + c x^5 to the singular values, using products of
    matrices only (Newton-Schulz; Jordan et al., 2024).
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

    `pieces` maps a parameter to the number of equal blocks of rows that are
    orthogonalised each on its own. `precision` is the type of the matrix products.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        steps: int = 5,
        pieces: dict[Tensor, int] | None = None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, ns_steps=steps
        )
        self.pieces = pieces or {}
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the orthogonalised momentum of every matrix."""
        for group in self.param_groups:
            same_shape = defaultdict(list)  # (rows, columns) -> (weight, direction)
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                nesterov = weight.grad.lerp(momentum, group["momentum"])
                n = self.pieces.get(weight, 1)
                for piece, direction in zip(
                    weight.chunk(n), nesterov.chunk(n), strict=True
                ):
                    same_shape[piece.shape].append((piece, direction))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
            for (rows, columns), pairs in same_shape.items():
                stacked = torch.stack([direction for _, direction in pairs])
                steps = orthogonalize(stacked.to(self.precision), group["ns_steps"])
                lr = group["lr"] * math.sqrt(max(1.0, rows / columns))
                for (piece, _), update in zip(pairs, steps, strict=True):
                    piece.add_(update, alpha=-lr)
