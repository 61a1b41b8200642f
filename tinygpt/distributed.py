"""What torchrun tells a process: who it is, and how to add up with the others.

The only module that reads or sets environment variables. What it leaves out: starting
the processes, which torchrun does.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def calm_threads() -> None:
    """Let idle OpenMP threads sleep instead of spinning; call before torch loads.

    Spinning threads fight other programs for the cores. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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

    def start(self, device_type: str) -> None:
        """Meet the others: nccl on cuda, gloo elsewhere. Nothing to do alone."""
        if self.size > 1:
            from torch import distributed

            backend = "nccl" if device_type == "cuda" else "gloo"
            distributed.init_process_group(backend)

    def stop(self) -> None:
        """Part from the others."""
        if self.size > 1:
            from torch import distributed

            distributed.destroy_process_group()

    def mean(self, value: float, device: "torch.device | str" = "cpu") -> float:
        """The mean of every process's `value`."""
        return self._reduce(value, device) / self.size

    def main_says(self, value: float, device: "torch.device | str" = "cpu") -> float:
        """Rank 0's `value`, for all."""
        return self._reduce(value if self.is_main else 0.0, device)

    def wait(self) -> None:
        """Go on when all are here."""
        self.mean(0.0)

    def _reduce(self, value: float, device: "torch.device | str") -> float:
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        total = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(total)
        return total.item()
