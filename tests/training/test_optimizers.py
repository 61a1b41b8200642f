"""optimizers: who is decayed, who moves with Muon, and the learning rate's course."""

import math

import pytest
import torch
from torch import nn

from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.model.gpt import GPT
from tinygpt.training.muon import Muon
from tinygpt.training.optimizers import make_optimizers
from tinygpt.training.schedule import lr_factor

SMALL = {"vocab_size": 13, "context_length": 5, "d_model": 8, "n_heads": 2}


def names_in(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[set[str]]:
    """The parameter names of every group."""
    names = {p: name for name, p in model.named_parameters()}
    return [{names[p] for p in group["params"]} for group in optimizer.param_groups]


def test_decay_acts_on_matrices_only() -> None:
    model = GPT(GPTConfig(**SMALL, n_layers=1))
    config = TrainConfig(lr=0.003, weight_decay=0.2, beta1=0.7, beta2=0.8)
    (adamw,) = make_optimizers(model, config)
    assert isinstance(adamw, torch.optim.AdamW)
    decayed = {n for n, p in model.named_parameters() if p.ndim == 2}
    others = {n for n, p in model.named_parameters() if p.ndim == 1}
    for names, group in zip(names_in(adamw, model), adamw.param_groups, strict=True):
        assert names == (decayed if group["weight_decay"] else others)
        assert group["weight_decay"] in (0.2, 0.0)
        assert group["betas"] == (0.7, 0.8)
        assert group["lr"] == group["peak_lr"] == 0.003
    assert len(adamw.param_groups) == 2


def test_embedding_and_head_have_their_own_learning_rates() -> None:
    model = GPT(GPTConfig(**SMALL, n_layers=1, tie_head=False, bias=False))
    config = TrainConfig(lr=0.01, embedding_lr=0.02, head_lr=0.0)
    (adamw,) = make_optimizers(model, config)
    lr_of = {
        name: group["lr"]
        for names, group in zip(names_in(adamw, model), adamw.param_groups, strict=True)
        for name in names
    }
    assert lr_of["token_embedding.weight"] == 0.02
    assert lr_of["head.weight"] == 0.0  # zero is a value, not "not given"
    assert lr_of["norm.weight"] == lr_of["blocks.0.feed_forward.output.weight"] == 0.01
    assert lr_of.keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize("tied", [True, False])
def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest(tied: bool) -> None:
    model = GPT(GPTConfig(**SMALL, n_layers=2, tie_head=tied))
    config = TrainConfig(optimizer="muon", muon_lr=0.03, muon_momentum=0.6)
    adamw, muon = make_optimizers(model, config, torch.bfloat16)
    assert isinstance(muon, Muon)
    (inner,) = names_in(muon, model)
    assert inner == {
        name
        for name, p in model.named_parameters()
        if p.ndim == 2 and name.startswith("blocks.")
    }
    rest = set().union(*names_in(adamw, model))
    assert rest | inner == dict(model.named_parameters()).keys()
    assert not rest & inner
    assert muon.precision == torch.bfloat16
    assert muon.param_groups[0]["peak_lr"] == 0.03
    assert muon.param_groups[0]["momentum"] == 0.6
    # Queries, keys and values are stacked in one matrix and cut before their step.
    assert [p.shape for p in muon.pieces] == [(24, 8), (24, 8)]


def test_a_model_of_matrices_only_needs_no_adamw_and_a_frozen_one_nothing() -> None:
    model = nn.Linear(3, 5, bias=False)
    (muon,) = make_optimizers(model, TrainConfig(optimizer="muon"))
    assert isinstance(muon, Muon)
    assert make_optimizers(model.requires_grad_(False), TrainConfig()) == []


@pytest.mark.parametrize("step", range(4))
def test_the_warm_up_rises_linearly(step: int) -> None:
    config = TrainConfig(steps=10, warmup_steps=4)
    assert lr_factor(step, 0.0, config) == (step + 1) / 4


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_cosine(progress: float) -> None:
    """Half a cosine down to the final share, as in SGDR's equation 5."""
    config = TrainConfig(schedule="cosine", final_lr_fraction=0.1)
    wanted = 0.1 + 0.5 * (1 - 0.1) * (1 + math.cos(math.pi * progress))
    assert lr_factor(7, progress, config) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("progress", "wanted"),
    [(0.0, 1.0), (0.4, 1.0), (0.7, 0.6), (0.85, 0.4), (1.0, 0.2), (1.5, 0.2)],
)
def test_linear_over_the_last_part(progress: float, wanted: float) -> None:
    config = TrainConfig(schedule="linear", decay_fraction=0.6, final_lr_fraction=0.2)
    assert lr_factor(7, progress, config) == pytest.approx(wanted, abs=1e-12)


def test_constant_and_no_decay_at_all() -> None:
    assert lr_factor(9, 0.99, TrainConfig(schedule="constant")) == 1.0
    never = TrainConfig(schedule="linear", decay_fraction=0.0)
    assert lr_factor(9, 1.0, never) == 1.0
