"""distributed: what torchrun says is understood, and two ranks agree on numbers."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, has_loopback

from tinygpt.errors import UserError
from tinygpt.runtime.distributed import World

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def said(monkeypatch: pytest.MonkeyPatch, *values: str | None) -> None:
    """Let the environment hold these, in the order of NAMES, and no others."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in zip(NAMES, values, strict=False):
        if value is not None:
            monkeypatch.setenv(name, value)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch)
    world = World.from_environment()
    assert world == World(rank=0, size=1, local_rank=0)
    assert world.is_main


def test_torchrun_says_who_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, "5", "8", "1", "localhost", "29500")
    world = World.from_environment()
    assert (world.rank, world.size, world.local_rank) == (5, 8, 1)
    assert not world.is_main


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (("x", "2", "0"), "RANK=x, WORLD_SIZE=2, LOCAL_RANK=0 must be whole numbers"),
        (("0", "2.0", "0"), "must be whole numbers"),
        (("x",), "RANK is set without WORLD_SIZE"),
        ((None, "2"), "WORLD_SIZE is set without RANK"),
        (("0", "2"), "RANK is set without LOCAL_RANK"),
        (("2", "2", "0"), "must be in 0..WORLD_SIZE - 1 = 1"),
        (("-1", "2", "0"), "must be in 0..WORLD_SIZE - 1 = 1"),
        (("0", "2", "2"), "RANK 0 and LOCAL_RANK 2 must be"),
        (("0", "0", "0"), "must be in 0..WORLD_SIZE - 1 = -1"),
        (("0", "2", "0"), "MASTER_ADDR is missing"),
        (("0", "2", "0", "localhost"), "MASTER_PORT is missing"),
    ],
)
def test_half_of_torchruns_words_are_refused(
    values: tuple, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(monkeypatch, *values)
    with pytest.raises(UserError, match=words) as raised:
        World.from_environment()
    assert "start the processes with torchrun, or unset RANK" in str(raised.value)


def test_others_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    said(monkeypatch, "0", "2", "0", "localhost", "no number")
    world = World.from_environment()
    with pytest.raises(UserError, match="the other processes cannot be reached"):
        world.start("cpu")
    world.stop()  # there is nothing to stop, and that is no error


def test_alone_every_sum_is_ones_own() -> None:
    """Nothing is started: init_process_group would fail without an address."""
    world = World()
    world.start("cpu")
    assert world.sum(2.5) == world.mean(2.5) == world.broadcast(2.5) == 2.5
    world.barrier()
    world.stop()


def test_a_device_for_each_process() -> None:
    assert World().pick_device("cpu") == torch.device("cpu")


TALK = """
import json, sys
from tinygpt.runtime.distributed import World

world = World.from_environment()
world.start("cpu")
mine = [3.0, 10.0][world.rank]
heard = [world.sum(mine), world.mean(mine), world.broadcast(mine)]
world.barrier()
world.stop()
print(json.dumps([world.rank, heard]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not has_loopback(), reason="the loopback interface is down")
def test_two_ranks_agree() -> None:
    """On the sum of 3 and 10, their mean, and what rank 0 says."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    there = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TALK],
            cwd=ROOT,
            env={**os.environ, **there, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    told = [json.loads(process.communicate(timeout=120)[0]) for process in ranks]
    assert told == [[0, [13.0, 6.5, 3.0]], [1, [13.0, 6.5, 3.0]]]
