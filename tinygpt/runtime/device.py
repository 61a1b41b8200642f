"""Where a process computes: its device, dtype and threads, and what Ctrl-C means.

Everything that is chosen here follows from facts (the processor's features, the number
of cores, the size of the model), never from a stopwatch: on one machine the same
command makes the same choice every time. What it leaves out: other processes (see
`distributed`), how much memory there is (see `memory`).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tinygpt.errors import UserError

if TYPE_CHECKING:
    import torch

# On one core with AMX, a training step in bfloat16 is 1.4 times as fast as in float32
# at 1 million parameters, 1.6 at 3, 1.7 at 10 and 1.5 at 30. Below 10 million, where
# steps are short anyway, float32 stays: the recipes there were tuned in it.
BFLOAT16_FROM = 10_000_000  # parameters
# The matrices of a small model are soon shared out; then threads wait for each other.
SMALL, MOST_THREADS_FOR_SMALL = 10_000_000, 8


def calm_threads() -> None:
    """Let idle OpenMP threads sleep after a blink of spinning; before torch loads.

    Threads that spin for long fight other programs for the cores; threads that sleep at
    once are slow to wake between two small operations. NumPy's OpenBLAS spins without
    end, so it gets one thread: with another program on one of two cores, a model of 2
    million parameters wrote a tenth of its tokens. What the user has set stays.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


SAME_PRESS = 1.0  # seconds in which several signals are one wish to stop
_presses: list[float] = []  # when Ctrl-C came, while `gentle_interrupt` is in force


def _note_press(number: int, frame: object) -> None:
    """The signal handler of `gentle_interrupt`."""
    now = time.monotonic()
    if _presses and now - _presses[0] > SAME_PRESS:
        raise KeyboardInterrupt
    _presses.append(now)


@contextmanager
def gentle_interrupt() -> Iterator[Callable[[], bool]]:
    """Make Ctrl-C a request, which the program grants when it is ready to stop.

    The first Ctrl-C interrupts nothing; the function given here says that it came.
    Another one more than a second later raises KeyboardInterrupt, so that a program
    that does not react can be left; several at once count as one. A block inside
    another shares its presses: enter one early, and a Ctrl-C during the start is not
    lost.

    Only in the main thread: signals reach no other.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)
    outermost = before is not _note_press
    if outermost:
        signal.signal(signal.SIGINT, _note_press)
    try:
        yield lambda: bool(_presses)
    finally:
        if outermost:
            signal.signal(signal.SIGINT, before)
            _presses.clear()


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


def pick_dtype(
    name: str, device: "torch.device", n_parameters: int = 0
) -> "torch.dtype":
    """float32 or bfloat16 for matrix products; "auto": what suits device and model.

    That is bfloat16 on a GPU that has it, and on a CPU with matrix instructions for it
    (Intel's AMX) from `BFLOAT16_FROM` parameters on.
    """
    import torch

    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    fast = False
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    elif device.type == "cpu" and n_parameters >= BFLOAT16_FROM:
        fast = bool(cpu_features().get("amx_bf16", False))
    return torch.bfloat16 if fast else torch.float32


def cpu_features() -> dict[str, object]:
    """What torch knows about the processor by name; nothing if it is an older torch."""
    import torch

    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def available_cores() -> int:
    """Physical cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    physical = cpu_features().get("num_physical_cores")
    return min(allowed, physical) if isinstance(physical, int) and physical else allowed


def set_threads(n_parameters: int = 0, wanted: int | None = None) -> int:
    """Let torch compute with as many threads as suit the model; returns how many.

    All cores, but at most `MOST_THREADS_FOR_SMALL` for a small model; or `wanted`, as
    far as there are cores. OMP_NUM_THREADS, if set, decides before both.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        cores = available_cores()
        if wanted is None:
            wanted = MOST_THREADS_FOR_SMALL if n_parameters < SMALL else cores
        torch.set_num_threads(max(1, min(wanted, cores)))
    return torch.get_num_threads()
