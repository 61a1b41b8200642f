"""trainer on several ranks: a step is the mean over all targets, wherever they are."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, has_loopback

# 16 windows per step: all targets of the first four count, one of the next, none of the
# third (so on two ranks one has a round without any), three per window of the last.
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

path, settings = sys.argv[1], json.loads(sys.argv[2])
world = World.from_environment()
world.start("cpu")
torch.manual_seed(6)
windows = Batches(torch.randint(11, (900,)), 5, 16, seed=7)
parts = settings["grad_accumulation"] * world.size


class Uneven:
    def at(self, step, rank=0, world_size=1):
        whole, part = divmod(step * world_size + rank, parts)
        ids, targets = windows.at(whole)
        targets = targets.clone()
        one = targets[6, 2].clone()
        targets[4:12] = IGNORE_INDEX
        targets[6, 2] = one
        targets[12:, 3:] = IGNORE_INDEX
        here = slice(part * 16 // parts, (part + 1) * 16 // parts)
        return ids[here], targets[here]


torch.manual_seed(5)
model = GPT(GPTConfig(11, 5, d_model=8, n_heads=2, n_layers=1, tie_head=False))
config = TrainConfig(
    steps=5, lr=0.01, eval_interval=2, device="cpu", dtype="float32", **settings
)
held = [windows.at(50)]
trainer = Trainer(
    model, Uneven(), lambda loss, _: evaluate(loss, held, [1] * 11), config, world
)
reports = list(trainer.run())
weights = {n: full_tensor(p.detach()) for n, p in model.named_parameters()}
if world.is_main:
    losses = [
        (report.training_loss, report.validation.nats_per_token) for report in reports
    ]
    torch.save({"losses": losses, "weights": weights}, path)
world.barrier()
world.stop()
"""


def train(path: Path, n_ranks: int, **settings: object) -> dict:
    """The losses and weights after five steps on so many ranks."""
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
@pytest.mark.parametrize(
    ("optimizer", "sharding"), [("muon", "none"), ("adamw", "full")]
)
def test_two_ranks_with_two_rounds_each_equal_one_big_batch(
    optimizer: str, sharding: str, tmp_path: Path
) -> None:
    one = train(tmp_path / "one", 1, optimizer=optimizer, grad_accumulation=1)
    two = train(
        tmp_path / "two", 2, optimizer=optimizer, sharding=sharding, grad_accumulation=2
    )
    # At step 0 each shows the loss on its own first batch.
    for mine, theirs in zip(two["losses"][1:], one["losses"][1:], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert two["weights"].keys() == one["weights"].keys()
    for name, weight in two["weights"].items():
        torch.testing.assert_close(weight, one["weights"][name], atol=1e-5, rtol=1e-4)
