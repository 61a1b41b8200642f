"""sharding: a process alone keeps all; what two do with it stands in test_resume."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from tinygpt.config import TrainConfig
from tinygpt.errors import UserError
from tinygpt.presets import PRESETS
from tinygpt.runtime import fsdp as sharding


def test_a_plain_tensor_is_whole() -> None:
    tensor, other = torch.zeros(3, 5), torch.ones(3, 5)
    assert sharding.full_tensor(tensor) is tensor
    assert sharding.shard_like(tensor, other) is other
    assert not sharding.is_sharded_tensor(tensor)
    assert not sharding.is_sharded(nn.Linear(3, 5))


class Sharded(nn.Linear):
    """What `fully_shard` adds, as far as waiting goes."""

    waits = False

    def set_requires_gradient_sync(self, on: bool) -> None:
        self.waits = not on


def test_gradients_wait_in_every_kind_of_model() -> None:
    plain, sharded = nn.Linear(3, 5), Sharded(3, 5)
    with sharding.gradients_wait(plain):
        plain(torch.ones(2, 3)).sum().backward()
    assert plain.weight.grad is not None
    with sharding.gradients_wait(sharded):
        assert sharded.waits
    assert not sharded.waits

    class Averaging(nn.Linear):
        """What DistributedDataParallel adds."""

        def no_sync(self) -> Any:
            return sharding.gradients_wait(sharded)

    with sharding.gradients_wait(Averaging(3, 5)):
        assert sharded.waits


def test_muon_needs_whole_matrices() -> None:
    assert TrainConfig(sharding="full", optimizer="adamw").sharding == "full"
    with pytest.raises(UserError, match="choose --optimizer adamw"):
        replace(PRESETS["tiny"].train, sharding="full")
