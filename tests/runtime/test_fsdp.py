"""fsdp: one process keeps whole weights; what two do is tested in test_resume."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tinygpt.config import TrainConfig
from tinygpt.errors import UserError
from tinygpt.presets import PRESETS
from tinygpt.runtime import fsdp


def test_a_plain_tensor_is_whole() -> None:
    tensor, other = torch.zeros(3, 5), torch.ones(3, 5)
    assert fsdp.full_tensor(tensor) is tensor
    assert fsdp.shard_like(tensor, other) is other
    assert not fsdp.is_sharded_tensor(tensor)
    assert not fsdp.is_sharded(nn.Linear(3, 5))


class Sharded(nn.Linear):
    """What `fully_shard` adds for gradient accumulation."""

    waits = False

    def set_requires_gradient_sync(self, on: bool) -> None:
        self.waits = not on


def test_gradients_stay_on_their_rank_in_every_kind_of_model() -> None:
    plain, sharded = nn.Linear(3, 5), Sharded(3, 5)
    with fsdp.no_gradient_sync(plain):
        plain(torch.ones(2, 3)).sum().backward()
    assert plain.weight.grad is not None
    with fsdp.no_gradient_sync(sharded):
        assert sharded.waits
    assert not sharded.waits

    class Averaging(nn.Linear):
        """What DistributedDataParallel adds."""

        def no_sync(self) -> Any:
            return fsdp.no_gradient_sync(sharded)

    with fsdp.no_gradient_sync(Averaging(3, 5)):
        assert sharded.waits


def test_muon_needs_whole_matrices() -> None:
    assert TrainConfig(sharding="full", optimizer="adamw").sharding == "full"
    with pytest.raises(UserError, match="choose --optimizer adamw"):
        replace(PRESETS["tiny"].train, sharding="full")
