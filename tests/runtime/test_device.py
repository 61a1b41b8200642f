"""device: what is chosen follows from facts; Ctrl-C is a request."""

import os
import signal
import threading
import time

import pytest
import torch

from tinygpt.errors import UserError
from tinygpt.runtime import device as device_module
from tinygpt.runtime.device import (
    available_cores,
    calm_threads,
    gentle_interrupt,
    pick_device,
    pick_dtype,
    set_threads,
)
from tinygpt.runtime.distributed import World

BIG = 100_000_000  # parameters


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_are_calmed_unless_the_user_has_spoken(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")  # put back at the end
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    calm_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "2"
    assert os.environ["OMP_WAIT_POLICY"] == after
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize(
    ("cores", "n_parameters", "wanted", "expected"),
    [
        (3, 1_000_000, None, 3),
        (64, 1_000_000, None, 8),  # a small model's matrices are soon shared out
        (64, BIG, None, 64),
        (3, BIG, 2, 2),
        (3, BIG, 9, 3),
        (3, BIG, 0, 1),
    ],
)
def test_threads(
    cores: int,
    n_parameters: int,
    wanted: int | None,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device_module, "available_cores", lambda: cores)
    try:
        assert set_threads(n_parameters, wanted) == expected
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_the_environment_decides_about_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(device_module, "available_cores", lambda: before + 1)
    assert set_threads(BIG) == set_threads(BIG, before + 1) == before


@pytest.mark.parametrize(
    ("allowed", "features", "cores"),
    [
        ({0, 1, 2, 5}, {"num_physical_cores": 2}, 2),  # two threads per core
        ({3}, {"num_physical_cores": 2}, 1),
        ({0, 1}, {}, 2),
        ({0, 1}, {"num_physical_cores": 0}, 2),
    ],
)
def test_cores_that_this_process_may_use(
    allowed: set, features: dict, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed, raising=False)
    monkeypatch.setattr(device_module, "cpu_features", lambda: features)
    assert available_cores() == cores


def test_cores_where_no_system_call_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(device_module, "cpu_features", dict)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert available_cores() == 6


def test_a_device_by_name() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["quantum", "cuda:99", "meta"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"device '{name}' cannot be used here"):
        pick_device(name)


@pytest.mark.parametrize(
    ("gpu", "apple", "name"),
    [
        (True, False, "cuda"),
        (False, True, "mps"),
        (False, False, "cpu"),
    ],
)
def test_auto_prefers_what_is_fastest(
    gpu: bool, apple: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def empty(size: int, device: str) -> torch.Tensor:
        """Take down what is asked for, and give what every machine has."""
        asked.append(device)
        return torch.zeros(size)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    monkeypatch.setattr(torch, "empty", empty)
    pick_device()
    World(rank=5, size=8, local_rank=1).pick_device()
    assert asked == [name, "cuda:1" if name == "cuda" else name]


@pytest.mark.parametrize(
    ("features", "n_parameters", "dtype"),
    [
        ({"amx_bf16": True}, BIG, torch.bfloat16),
        ({"amx_bf16": True}, 1_000_000, torch.float32),
        ({"amx_bf16": False, "avx512_bf16": True}, BIG, torch.float32),
        ({}, BIG, torch.float32),  # an older torch, or another kind of processor
    ],
)
def test_auto_takes_bfloat16_on_a_cpu_by_its_features_and_the_models_size(
    features: dict,
    n_parameters: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert pick_dtype("auto", torch.device("cpu"), n_parameters) == dtype


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("float32", cpu, BIG) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    assert pick_dtype("auto", torch.device("mps"), BIG) == torch.float32
    for able, dtype in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able: able)
        assert pick_dtype("auto", gpu) == dtype


# --- Ctrl-C ------------------------------------------------------------------------


def test_five_at_once_are_one_wish() -> None:
    before = signal.getsignal(signal.SIGINT)
    with gentle_interrupt() as ctrl_c:
        assert not ctrl_c()
        for _ in range(5):
            signal.raise_signal(signal.SIGINT)
        assert ctrl_c()
    assert signal.getsignal(signal.SIGINT) is before
    with gentle_interrupt() as ctrl_c:
        assert not ctrl_c()  # that was another run


def test_one_that_comes_later_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGINT)
    with gentle_interrupt():
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.9
        signal.raise_signal(signal.SIGINT)
        now[0] += 0.2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_one_that_came_early_is_not_lost() -> None:
    """A block inside another shares its presses, and leaves its handler in place."""
    with gentle_interrupt() as outer:
        signal.raise_signal(signal.SIGINT)
        with gentle_interrupt() as inner:
            assert inner()
        signal.raise_signal(signal.SIGINT)
        assert outer()


def test_other_threads_hear_no_signals() -> None:
    heard = []

    def listen() -> None:
        with gentle_interrupt() as ctrl_c:
            heard.append(ctrl_c())

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert heard == [False]
