"""memory: parameters counted without a model, sizes refused before they are made."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.lora import add_lora
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.runtime import memory
from tinygpt.runtime.memory import least_memory, n_parameters, require_memory

CPU = torch.device("cpu")
SMALL = GPTConfig(vocab_size=13, context_length=6, d_model=8, n_heads=2, n_layers=2)


def shapes() -> Iterator[GPTConfig]:
    """Every switch that adds or removes parameters."""
    for places, norm, activation, bias, qkv_bias, tie_head, norm_first in product(
        ("learned", "rotary"), ("layernorm", "rmsnorm"), ("gelu", "swiglu"),
        *[(True, False)] * 4,
    ):  # fmt: skip
        yield replace(
            SMALL, positions=places, norm=norm, activation=activation, bias=bias,
            qkv_bias=qkv_bias, tie_head=tie_head, head_bias=not tie_head and bias,
            embedding_norm=norm_first, d_ff=None if bias else 20,
        )  # fmt: skip


@pytest.mark.slow
def test_parameters_are_counted_without_a_model() -> None:
    configs = [*shapes(), *(preset.model for preset in PRESETS.values())]
    for config in configs:
        with torch.device("meta"):
            assert n_parameters(config) == GPT(config).n_parameters(), config


@pytest.mark.parametrize(
    "targets",
    [("qkv",), ("q", "v"), ("output",), ("attention.k", "input", "attention.output")],
)
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_adapters_are_counted_too(targets: tuple[str, ...], activation: Any) -> None:
    small = replace(SMALL, activation=activation)
    model = GPT(small)
    add_lora(model, targets, rank=3)
    adapters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    lora, full = (
        least_memory(
            small, FinetuneConfig(lora=lora, lora_rank=3, lora_targets=targets)
        )
        for lora in (True, False)
    )
    # 16 bytes per trained number: weight, gradient, and AdamW's two.
    assert lora - full == 16 * adapters - 12 * n_parameters(small)


def test_memory_by_hand() -> None:
    """8 bytes more per parameter than weights and gradients, 16 per id and target."""
    train = TrainConfig(batch_size=3, dtype="float32")
    fixed = 16 * n_parameters(SMALL) + 2 * memory.PER_BLOCK
    tokens = 3 * 6
    kept = tokens * 2 * (8 * 8 + 2 * 32) * 4
    assert least_memory(SMALL, train) == fixed + kept + 16 * tokens
    four = replace(train, grad_accumulation=4)
    assert least_memory(SMALL, four) == fixed + kept + 64 * tokens
    muon = replace(train, optimizer="muon")
    assert least_memory(SMALL, train) - least_memory(SMALL, muon) == 4 * n_parameters(
        SMALL
    )
    sharded = replace(train, sharding="full")
    assert least_memory(SMALL, sharded, 4) < least_memory(SMALL, train, 4)
    mixed = replace(train, dtype="auto")
    assert least_memory(SMALL, mixed) == fixed + kept // 2 + 16 * tokens
    tuning = FinetuneConfig(batch_size=3, dtype="float32", window=2, recompute=True)
    assert least_memory(SMALL, tuning) == fixed + (6 * 2 * 8 * 4) + 16 * 6


def test_the_estimate_is_not_above_what_a_step_keeps() -> None:
    """As autograd saves it: the activations of one step, without the weights."""
    config = replace(SMALL, d_model=48, n_heads=4, context_length=32)
    train, kept = TrainConfig(batch_size=5, dtype="float32"), {}
    model = GPT(config)

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(torch.randint(13, (5, 32))).sum()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    measured = sum(size for at, size in kept.items() if at not in weights)
    tokens = 5 * 32
    fixed = 16 * n_parameters(config) + 2 * memory.PER_BLOCK + 16 * tokens
    estimated = least_memory(config, train) - fixed
    assert 0.5 * measured < estimated <= measured


@pytest.mark.parametrize(
    ("model", "train"),
    [
        ({"d_model": 100_000_000}, {}),
        ({"n_layers": 100_000_000}, {}),
        ({"n_layers": 100_000_000, "d_model": 4, "vocab_size": 5}, {}),
        ({"context_length": 10**12}, {}),
        ({"d_ff": 10**12}, {}),
        ({}, {"batch_size": 99_999_999_999_999}),
        ({}, {"grad_accumulation": 10**12}),
    ],
)
def test_what_no_memory_holds_is_refused(model: dict, train: dict) -> None:
    config = GPTConfig(**model)
    with pytest.raises(
        UserError, match=r"takes at least [\d,.]+ GB of memory, and this"
    ):
        require_memory(config, TrainConfig(**train), CPU)


def test_adapters_of_any_rank_are_refused_too() -> None:
    config = FinetuneConfig(lora=True, lora_rank=10**9)
    with pytest.raises(UserError, match="of memory"):
        require_memory(SMALL, config, CPU)


def test_presets_fit_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """124 million parameters: 2 GB for weights, gradients and AdamW, and a batch."""
    gpt2 = PRESETS["gpt2"]
    for gigabytes, fits in ((6, True), (2, False)):
        there = gigabytes * 10**9
        monkeypatch.setattr(memory, "available_memory", lambda _, there=there: there)
        if fits:
            require_memory(gpt2.model, gpt2.train, CPU)
        else:
            with pytest.raises(UserError, match=r"124,439,808 parameters .* 2\.0 GB"):
                require_memory(gpt2.model, gpt2.train, CPU)


def test_a_machine_that_tells_nothing_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda _: None)
    require_memory(GPTConfig(d_model=100_000_000), TrainConfig(), CPU)


def test_the_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text, wanted in (("1000000", 1_000_000), ("max", None), ("9" * 30, None)):
        limit = tmp_path / "memory.max"
        limit.write_text(text + "\n", encoding="ascii")
        monkeypatch.setattr(memory, "CGROUP", limit)
        assert memory.available_memory(CPU) == (wanted or physical)
