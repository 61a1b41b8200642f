"""Where a process runs: its device, its place among its fellows under torchrun, Ctrl-C.

The only module that reads or sets environment variables. What it leaves out: starting
the processes, which torchrun does.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from tinygpt.errors import UserError

if TYPE_CHECKING:
    import torch


def calm_threads() -> None:
    """Let idle OpenMP threads sleep after a blink of spinning; before torch loads.

    Threads that spin for long fight other programs for the cores; threads that sleep at
    once are slow to wake between two small operations. What the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@contextmanager
def gentle_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends nothing, but what is given here says that it came; a second one does.

    Only in the main thread: signals reach no other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def note(number: int, _: object) -> None:
        if came:
            raise KeyboardInterrupt
        came.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


def pick_device(name: str = "auto", local_rank: int | None = None) -> "torch.device":
    """cuda, mps or cpu, in this order of preference; or the device `name`.

    With a `local_rank`, "auto" and "cuda" mean the GPU of this number.

    Raises:
        UserError: there is no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and local_rank is not None:
        name = f"cuda:{local_rank}"
    sentence = f"device '{name}' cannot be used here: choose auto, cpu, cuda or mps"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(sentence) from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(sentence)
    return device


def pick_dtype(name: str, device: "torch.device") -> "torch.dtype":
    """float32 or bfloat16 for matrix products; "auto": what this device does faster.

    A GPU says whether it has bfloat16. A CPU is timed at a product of two matrices,
    and bfloat16 has to win clearly.
    """
    import torch

    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type != "cpu":
        return torch.float32

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(384, 384, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        return min(times)

    faster = seconds(torch.bfloat16) < 0.7 * seconds(torch.float32)
    return torch.bfloat16 if faster else torch.float32


def set_threads(wanted: int | None = None) -> int:
    """Let torch use `wanted` threads, or all, or one where all are slower; how many.

    Threads wait for the slowest of them after every operation: where other programs
    keep the cores busy, one that must share its core holds up all. So without `wanted`
    a short measurement decides. OMP_NUM_THREADS, if set, decides before both.
    """
    import torch

    cores = os.cpu_count() or 1
    if "OMP_NUM_THREADS" in os.environ or cores == 1:
        return torch.get_num_threads()
    a, b = torch.ones(1024, 128), torch.ones(128, 512)  # the size of a small model

    def seconds(n: int) -> float:
        torch.set_num_threads(n)
        start = time.perf_counter()
        for _ in range(8):
            torch.relu(a @ b)
        return time.perf_counter() - start

    if wanted is None:
        seconds(cores)  # the first time wakes the threads
        gains = [seconds(1) - seconds(cores) for _ in range(5)]
        wanted = cores if median(gains) > 0 else 1
    torch.set_num_threads(min(wanted, cores))
    return torch.get_num_threads()


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

    def main_says(self, value: float) -> float:
        """Rank 0's `value`, for all."""
        return self._sum(value if self.is_main else 0.0)

    def wait(self) -> None:
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
