"""trainer on several ranks: a step is the mean over all targets, wherever they are."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, has_loopback

# 16 windows per step: all targets of the first four count, one of the next, none of the
# third (so on two ranks one has a round without any), three per window of the last.
# Each of some settings is trained with, and the losses and weights are kept in a file.
TRAIN = """
import json, sys
import torch
from tinygpt.config import IGNORE_INDEX, GPTConfig, TrainConfig
from tinygpt.model.gpt import GPT
from tinygpt.runtime.distributed import World
from tinygpt.runtime.fsdp import full_tensor
from tinygpt.text.dataset import Batches
from tinygpt.training.evaluation import evaluate
from tinygpt.training.trainer import Trainer

world = World.from_environment()
world.start("cpu")
torch.manual_seed(6)
windows = Batches(torch.randint(11, (900,)), 5, 16, seed=7)
held = [windows.at(50)]


class Uneven:
    def __init__(self, parts):
        self.parts = parts

    def at(self, step, rank=0, world_size=1):
        whole, part = divmod(step * world_size + rank, self.parts)
        ids, targets = windows.at(whole)
        targets = targets.clone()
        one = targets[6, 2].clone()
        targets[4:12] = IGNORE_INDEX
        targets[6, 2] = one
        targets[12:, 3:] = IGNORE_INDEX
        here = slice(part * 16 // self.parts, (part + 1) * 16 // self.parts)
        return ids[here], targets[here]


def train(settings):
    torch.manual_seed(5)
    model = GPT(GPTConfig(11, 5, d_model=8, n_heads=2, n_layers=1, tie_head=False))
    config = TrainConfig(
        steps=5, lr=0.01, eval_interval=2, device="cpu", dtype="float32", **settings
    )
    uneven = Uneven(config.grad_accumulation * world.size)
    trainer = Trainer(
        model, uneven, lambda loss, _: evaluate(loss, held, [1] * 11), config, world
    )
    losses = [
        (report.training_loss, report.validation.nats_per_token)
        for report in trainer.run()
    ]
    weights = {n: full_tensor(p.detach()) for n, p in model.named_parameters()}
    return {"losses": losses, "weights": weights}


path, several = sys.argv[1:]
results = [train(settings) for settings in json.loads(several)]
if world.is_main:
    torch.save(results, path)
world.barrier()
world.stop()
"""


def train(path: Path, n_ranks: int, settings: list[dict[str, object]]) -> Any:
    """For each of the settings, the losses and weights after five steps on ranks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(path), json.dumps(settings)],
            cwd=ROOT,
            env=os.environ
            | there
            | {"WORLD_SIZE": str(n_ranks), "RANK": str(i), "LOCAL_RANK": str(i)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(n_ranks)
    ]
    complaints = [process.communicate(timeout=200)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [0] * n_ranks, complaints
    return torch.load(path)


@pytest.mark.slow
@pytest.mark.skipif(not has_loopback(), reason="the loopback interface is down")
def test_two_ranks_with_two_rounds_each_equal_one_big_batch(tmp_path: Path) -> None:
    """Whole and with their weights shared out."""
    ways = [{"optimizer": "muon"}, {"optimizer": "adamw", "sharding": "full"}]
    alone = [{"optimizer": way["optimizer"]} for way in ways]
    rounds = [way | {"grad_accumulation": 2} for way in ways]
    one, two = train(tmp_path / "one", 1, alone), train(tmp_path / "two", 2, rounds)
    for mine, theirs in zip(two, one, strict=True):
        # At step 0 each shows the loss on its own first batch.
        for a, b in zip(mine["losses"][1:], theirs["losses"][1:], strict=True):
            assert a == pytest.approx(b, abs=1e-5)
        assert mine["weights"].keys() == theirs["weights"].keys()
        for name, weight in mine["weights"].items():
            expected = theirs["weights"][name]
            torch.testing.assert_close(weight, expected, atol=1e-5, rtol=1e-4)
