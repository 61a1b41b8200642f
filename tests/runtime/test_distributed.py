"""distributed: a process alone adds up with itself, torchrun's words are understood."""

import os
import time
from collections.abc import Callable

import pytest
import torch

from tinygpt.errors import UserError
from tinygpt.runtime.device import calm_threads, pick_device, pick_dtype, set_threads
from tinygpt.runtime.distributed import World

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    world = World.from_environment()
    assert world == World(rank=0, size=1, local_rank=0)
    assert world.is_main


def test_torchrun_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(NAMES, ("5", "8", "1"), strict=True):
        monkeypatch.setenv(name, value)
    world = World.from_environment()
    assert (world.rank, world.size, world.local_rank) == (5, 8, 1)
    assert not world.is_main


def test_alone_every_sum_is_ones_own() -> None:
    """Nothing is started: init_process_group would fail without an address."""
    world = World()
    world.start("cpu")
    assert world.mean(2.5) == world.broadcast(2.5) == 2.5
    world.barrier()
    world.stop()


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_are_calmed_unless_the_user_has_spoken(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")  # put back at the end
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    calm_threads()
    assert os.environ["OMP_WAIT_POLICY"] == after
    assert os.environ["GOMP_SPINCOUNT"] == "7"


def clock_that_says(one: float, all_: float) -> Callable[[], float]:
    """A clock by which work takes this long with one thread, or with more."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += one if torch.get_num_threads() == 1 else all_
        return now

    return clock


@pytest.mark.parametrize(("all_", "expected"), [(0.5, 3), (2.0, 1)])
def test_all_threads_unless_one_is_faster(
    all_: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(time, "perf_counter", clock_that_says(1.0, all_))
    try:
        assert set_threads() == torch.get_num_threads() == expected
        assert set_threads(2) == torch.get_num_threads() == 2
        assert set_threads(9) == torch.get_num_threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert set_threads(1) == torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_device_by_name() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert World().pick_device("cpu") == torch.device("cpu")


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


def test_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pick_dtype("float32", cpu) == torch.float32
    assert pick_dtype("bfloat16", cpu) == torch.bfloat16
    assert pick_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    assert pick_dtype("auto", torch.device("mps")) == torch.float32
    for able, dtype in [(True, torch.bfloat16), (False, torch.float32)]:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able: able)
        assert pick_dtype("auto", gpu) == dtype


def test_what_each_rank_adds_to_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are silent here, so each result is this rank's own share."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: None)
    first, second = World(rank=0, size=2), World(rank=1, size=2)
    assert (first.mean(3.0), second.mean(3.0)) == (1.5, 1.5)
    assert (first.broadcast(3.0), second.broadcast(3.0)) == (3.0, 0.0)
