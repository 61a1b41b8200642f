"""Where a process computes: its device, dtype and threads, and what Ctrl-C means.

What it leaves out: other processes (see `distributed`).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
