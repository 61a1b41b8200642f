"""A running average of the weights, evaluated and kept in their place.

The steps of a run jump around a good point; their average lies nearer to it (Polyak
and Juditsky, 1992, "Acceleration of Stochastic Approximation by Averaging"). What it
leaves out: when to add and when to use it (see `trainer`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class WeightAverage:
    """The average of all weights that `optimizers` have moved.

    It stands beside the optimizers' own memory, as the slot "average" of each
    parameter's state, and so is saved, resumed and sharded like the rest of it.
    """

    def __init__(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        self.optimizers = list(optimizers)
        self.is_in_use = False

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """The weights, and the average of each, in the same order."""
        states = [o.state.items() for o in self.optimizers]
        kept = [
            (p, s["average"]) for items in states for p, s in items if "average" in s
        ]
        return [p for p, _ in kept], [average for _, average in kept]

    @torch.no_grad()
    def add(self, share: float) -> None:
        """Move the average towards the weights by `share` of the distance, 0 to 1.

        Weights that have no average yet begin with themselves.
        """
        weights, averages = self._pairs()
        if weights:
            torch._foreach_lerp_(averages, weights, share)
        for optimizer in self.optimizers:
            for p, state in optimizer.state.items():
                state.setdefault("average", p.detach().clone())

    @contextmanager
    def in_use(self, wanted: bool = True) -> Iterator[None]:
        """Within, the model has the average as its weights; with False, its own."""
        before = self.is_in_use
        self.use(wanted)
        try:
            yield
        finally:
            self.use(before)

    @torch.no_grad()
    def use(self, wanted: bool) -> None:
        """Give the model the average as its weights, or its own back."""
        if wanted == self.is_in_use:
            return
        weights, averages = self._pairs()
        for p, average in zip(weights, averages, strict=True):
            kept = p.detach().clone()
            p.copy_(average)
            average.copy_(kept)
        self.is_in_use = wanted
