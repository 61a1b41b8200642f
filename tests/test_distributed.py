"""distributed: a process alone adds up with itself, torchrun's words are understood."""

import os

import pytest

from tinygpt.distributed import World, calm_threads

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
    assert world.mean(2.5) == world.main_says(2.5) == 2.5
    world.wait()
    world.stop()


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_are_calmed_unless_the_user_has_spoken(
    before: str | None, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", before or "")  # put back at the end
    if before is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    calm_threads()
    assert os.environ["OMP_WAIT_POLICY"] == after
