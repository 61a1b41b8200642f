"""The average of the weights: its arithmetic, and giving it to the model and back."""

import pytest
import torch
from tiny_run import assert_same_tensors
from torch import nn

from tinygpt.training.average import WeightAverage


def one_weight() -> tuple[nn.Linear, torch.optim.SGD, WeightAverage]:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD([layer.weight], lr=1.0, momentum=0.5)
    return layer, optimizer, WeightAverage([optimizer])


def move_to(layer: nn.Linear, optimizer: torch.optim.SGD, value: float) -> None:
    layer.weight.grad = torch.zeros(1, 1)
    optimizer.step()  # so that the weight has a state
    with torch.no_grad():
        layer.weight.fill_(value)


def test_the_average_by_hand() -> None:
    layer, optimizer, average = one_weight()
    for value, share in ((8.0, 1.0), (4.0, 0.5), (10.0, 0.25)):
        move_to(layer, optimizer, value)
        average.add(share)
    # 8, then half way to 4, then a quarter of the way to 10
    assert optimizer.state[layer.weight]["average"].item() == 7.0
    assert layer.weight.item() == 10.0


def test_the_model_gets_the_average_and_its_own_weights_back() -> None:
    layer, optimizer, average = one_weight()
    move_to(layer, optimizer, 8.0)
    average.add(1.0)
    move_to(layer, optimizer, 4.0)
    average.add(0.5)
    with average.in_use():
        assert layer.weight.item() == 6.0
        with average.in_use(False):
            assert layer.weight.item() == 4.0
        with average.in_use():
            assert layer.weight.item() == 6.0
    assert layer.weight.item() == 4.0
    with pytest.raises(KeyError), average.in_use():
        raise KeyError
    assert layer.weight.item() == 4.0
    average.use(True)
    average.use(True)
    assert layer.weight.item() == 6.0


def test_without_an_average_nothing_changes() -> None:
    layer, _, average = one_weight()
    before = {name: p.clone() for name, p in layer.named_parameters()}
    with average.in_use():
        assert_same_tensors(dict(layer.named_parameters()), before)
