"""optimizers: which weights are decayed, and which move with Muon."""

import pytest
import torch
from torch import nn

from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.model.gpt import GPT
from tinygpt.training.muon import Muon
from tinygpt.training.optimizers import make_optimizers

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
    # Queries, keys and values are stacked in one weight and split before their step.
    stacked = [p.shape for p, n in muon.n_stacked.items() if n == 3]
    assert stacked == [(24, 8), (24, 8)]


@pytest.mark.parametrize(
    "shape",
    [{"d_ff": 24}, {"d_ff": 12, "activation": "swiglu"}],
    ids=["three times as wide", "gated, one and a half times as wide"],
)
def test_a_wide_layer_is_not_taken_for_a_stack(shape: dict) -> None:
    """Its weight has the shape of q, k and v, but the layer does not say so."""
    model = GPT(GPTConfig(**SMALL, n_layers=1, **shape))
    _, muon = make_optimizers(model, TrainConfig(optimizer="muon"))
    wide = model.blocks[0].feed_forward.input.weight
    assert wide.shape == model.blocks[0].attention.qkv.weight.shape == (24, 8)
    assert muon.n_stacked[wide] == 1
    assert muon.n_stacked[model.blocks[0].attention.qkv.weight] == 3


def test_roles_follow_from_modules_not_from_names() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.headline_embedding = nn.Linear(3, 5)  # neither head nor embedding
            self.words = nn.Embedding(7, 3)
            self.out = nn.Linear(5, 7)
            self.out.is_head = True

    model = Renamed()
    config = TrainConfig(optimizer="muon", lr=0.01, embedding_lr=0.02, head_lr=0.03)
    adamw, muon = make_optimizers(model, config)
    assert names_in(muon, model) == [{"headline_embedding.weight"}]
    lrs = [group["lr"] for group in adamw.param_groups]
    by_lr: dict[float, set[str]] = {}
    for lr, names in zip(lrs, names_in(adamw, model), strict=True):
        by_lr.setdefault(lr, set()).update(names)
    assert by_lr == {
        0.01: {"headline_embedding.bias"},
        0.02: {"words.weight"},
        0.03: {"out.weight", "out.bias"},
    }


def test_a_model_of_matrices_only_needs_no_adamw_and_a_frozen_one_nothing() -> None:
    model = nn.Linear(3, 5, bias=False)
    (muon,) = make_optimizers(model, TrainConfig(optimizer="muon"))
    assert isinstance(muon, Muon)
    assert make_optimizers(model.requires_grad_(False), TrainConfig()) == []
