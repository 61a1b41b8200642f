"""One process among several under torchrun: its rank, and sums over all ranks.

What it leaves out: starting the processes, which torchrun does; sharded weights (see
`fsdp`).
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinygpt.errors import UserError, require
from tinygpt.runtime.device import pick_device

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class World:
    """The process of rank `rank` among `size`; `local_rank` counts on its machine.

    `sum`, `mean`, `broadcast` and `barrier` are collective: every rank must call them.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Only rank 0 prints and writes."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "World":
        """What torchrun says in the environment; a process alone if it says nothing.

        Raises:
            UserError: a variable is missing, not a number or out of range.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        given = {n: os.environ[n] for n in names if n in os.environ}
        if not given:
            return cls()
        advice = "start the processes with torchrun, or unset RANK, WORLD_SIZE and "
        advice += "LOCAL_RANK"
        for name in names:
            require(
                name in given, f"{next(iter(given))} is set without {name}: {advice}"
            )
        try:
            rank, size, local_rank = (int(given[name]) for name in names)
        except ValueError as error:
            said = ", ".join(f"{name}={value}" for name, value in given.items())
            raise UserError(f"{said} must be whole numbers: {advice}") from error
        require(
            0 <= rank < size and 0 <= local_rank < size,
            f"RANK {rank} and LOCAL_RANK {local_rank} must be in 0..WORLD_SIZE - 1 = "
            f"{size - 1}: {advice}",
        )
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            require(size == 1 or name in os.environ, f"{name} is missing: {advice}")
        return cls(rank, size, local_rank)

    def pick_device(self, name: str = "auto") -> "torch.device":
        """`pick_device`, with a GPU for each process; raises what that raises."""
        return pick_device(name, self.local_rank if self.size > 1 else None)

    def start(self, device_type: str) -> None:
        """Connect to the other ranks: gloo, and nccl between GPUs. Nothing alone.

        Raises:
            UserError: the others cannot be reached.
        """
        if self.size > 1:
            from torch import distributed

            both = "cpu:gloo,cuda:nccl"
            try:
                distributed.init_process_group(
                    both if device_type == "cuda" else "gloo"
                )
            except (RuntimeError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"the other processes cannot be reached ({reason}): start all of "
                    "them with torchrun"
                ) from error

    def stop(self) -> None:
        """Disconnect from the other ranks."""
        if self.size > 1:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()

    def sum(self, value: float | int) -> float:
        """The sum of every rank's `value`."""
        if self.size == 1:
            return float(value)
        import torch
        from torch import distributed

        total = torch.tensor(value, dtype=torch.float64)
        distributed.all_reduce(total)
        return total.item()

    def mean(self, value: float) -> float:
        """The mean of every rank's `value`."""
        return self.sum(value) / self.size

    def broadcast(self, value: float) -> float:
        """Rank 0's `value`, on every rank."""
        if self.size == 1:
            return value
        import torch
        from torch import distributed

        sent = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(sent, src=0)
        return sent.item()

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.sum(0.0)


def torchrun_job() -> tuple[str, bool]:
    """The id of torchrun's job, or "", and whether it has restarted its processes."""
    count = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return os.environ.get("TORCHELASTIC_RUN_ID", ""), count != "0"
