"""A process among others under torchrun: its rank, and what they tell each other.

What it leaves out: starting the processes, which torchrun does.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinygpt.runtime.device import pick_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class World:
    """A process among its fellows: `rank` of `size`, `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Only rank 0 prints and writes."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "World":
        """As torchrun set it; one process alone if it did not."""
        defaults = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
        return cls(*(int(os.environ.get(n, d)) for n, d in defaults.items()))

    def pick_device(self, name: str = "auto") -> "torch.device":
        """`pick_device`, with a GPU for each process; raises what that raises."""
        return pick_device(name, self.local_rank if self.size > 1 else None)

    def start(self, device_type: str) -> None:
        """Meet the others: gloo, and nccl between GPUs. Nothing to do alone."""
        if self.size > 1:
            from torch import distributed

            both = "cpu:gloo,cuda:nccl"
            distributed.init_process_group(both if device_type == "cuda" else "gloo")

    def stop(self) -> None:
        """Part from the others."""
        if self.size > 1:
            from torch import distributed

            distributed.destroy_process_group()

    def mean(self, value: float) -> float:
        """The mean of every process's `value`."""
        return self._sum(value) / self.size

    def broadcast(self, value: float) -> float:
        """Rank 0's `value`, for all."""
        return self._sum(value if self.is_main else 0.0)

    def barrier(self) -> None:
        """Go on when all are here."""
        self._sum(0.0)

    def _sum(self, value: float) -> float:
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item()
