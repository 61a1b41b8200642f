"""LoRA: fine-tune a large matrix by training two thin ones beside it.

`add_lora` freezes a model and adds adapters to chosen linear layers; only these are
trained and saved. `merge` adds them to the weights, `unmerge` subtracts them again.
What it leaves out: adapters for embeddings, quantised base weights, a rank for each
layer.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tinygpt.errors import require
from tinygpt.training.tensor_file import load_tensors, save_tensors

FORMAT = "tinygpt lora 1"
TARGETS = ("qkv",)


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank adapter: W x + b + (alpha / rank) B A x.

    Weight and bias are those of `linear`, under the same names, frozen; `lora_a`
    [rank, in] and `lora_b` [out, rank] are new. `lora_b` starts at zero, so that the
    layer begins with the output of `linear`. Dropout acts on the adapter's input only.

    Source: Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models",
    section 4.1, equation 3; `lora_a` starts uniform as in their code.

    Raises:
        UserError: rank < 1, alpha not above 0, or dropout outside [0, 1).

    >>> layer = LoRALinear(nn.Linear(5, 3), rank=2, alpha=4.0)
    >>> layer.lora_a.shape, layer.lora_b.shape, layer.scale
    (torch.Size([2, 5]), torch.Size([3, 2]), 2.0)
    """

    def __init__(
        self, linear: nn.Linear, rank: int, alpha: float, dropout: float = 0.0
    ) -> None:
        require(rank >= 1, f"A LoRA rank must be at least 1, not {rank}.")
        require(
            alpha > 0 and math.isfinite(alpha),
            f"LoRA's alpha must be a number above 0, not {alpha}.",
        )
        require(0 <= dropout < 1, f"LoRA's dropout must be in [0, 1), not {dropout}.")
        inputs, outputs, weight = linear.in_features, linear.out_features, linear.weight
        super().__init__(inputs, outputs, linear.bias is not None, device="meta")
        self.weight, self.bias = weight.requires_grad_(False), linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self.rank, self.alpha, self.merged = rank, alpha, False
        self.n_stacked: int = getattr(linear, "n_stacked", 1)
        self.lora_dropout = nn.Dropout(dropout)
        self.lora_a = nn.Parameter(weight.new_empty(rank, inputs))
        self.lora_b = nn.Parameter(weight.new_zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.train(linear.training)

    @property
    def scale(self) -> float:
        """The factor alpha / rank, with which one learning rate suits all ranks."""
        return self.alpha / self.rank

    @torch.no_grad()
    def delta(self) -> Float[Tensor, "out in"]:
        """What the adapter adds to the weight: (alpha / rank) B A."""
        return self.scale * (self.lora_b @ self.lora_a)

    def forward(self, x: Float[Tensor, "*B in"]) -> Float[Tensor, "*B out"]:
        """The frozen layer and its adapter; merged, the weight holds both."""
        y = super().forward(x)
        if self.merged:
            return y
        # [..., in] -> [..., rank] -> [..., out]: B A itself is never built.
        return y + self.scale * (self.lora_dropout(x) @ self.lora_a.T @ self.lora_b.T)


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The wrapped layers and their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def add_lora(
    model: nn.Module,
    targets: Sequence[str] = TARGETS,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
) -> list[str]:
    """Add adapters to the linear layers that `targets` name; freeze everything else.

    A target is the end of a dotted name: "qkv" is that layer in every block,
    "attention.output" leaves the feed-forward layers' output alone. Returns the names
    of the wrapped layers. Of GPT-2's joint `qkv`, all three parts are adapted.

    Raises:
        UserError: a target is no linear layer of the model or shares its weight with
            another (a tied head), there are adapters already, or a number is wrong.
    """
    require(not any(adapters(model)), "The model has adapters: remove_lora them first.")
    linears = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    for target in targets:
        require(
            any(f".{name}".endswith(f".{target}") for name in linears),
            f"The model has no linear layer {target!r}: choose of "
            f"{', '.join(sorted({name.rpartition('.')[2] for name in linears}))}.",
        )
    require(bool(targets), "LoRA needs at least one layer to adapt.")
    ends = tuple(f".{target}" for target in targets)
    chosen = {n: m for n, m in linears.items() if f".{n}".endswith(ends)}
    every = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    for name, linear in chosen.items():
        require(
            every.count(id(linear.weight)) == 1,
            f"{name} shares its weight with another layer, so it cannot be merged: "
            "leave it out.",
        )
    wrapped = {n: LoRALinear(m, rank, alpha, dropout) for n, m in chosen.items()}
    model.requires_grad_(False)
    for name, module in wrapped.items():
        module.lora_a.requires_grad_(True)
        module.lora_b.requires_grad_(True)
        _put(model, name, module)
    return list(wrapped)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add the adapters to the weights: the same output, at the speed of a plain model.

    The adapters are kept for `unmerge`; layers that are merged already stay so.
    Source: Hu et al. (2021), section 4.1, "No Additional Inference Latency".
    """
    for _, module in adapters(model):
        if not module.merged:
            module.weight += module.delta()
            module.merged = True


@torch.no_grad()
def unmerge(model: nn.Module) -> None:
    """Subtract the adapters from the weights: undoes `merge`, up to rounding."""
    for _, module in adapters(model):
        if module.merged:
            module.weight -= module.delta()
            module.merged = False


def remove_lora(model: nn.Module) -> None:
    """Put plain linear layers back, so that the model can be exported; all trains.

    After `merge` they keep what was learned; without, the model is what it was before
    `add_lora`.
    """
    for name, module in list(adapters(model)):
        shape = (module.in_features, module.out_features, module.bias is not None)
        linear = nn.Linear(*shape, device="meta").train(module.training)
        linear.weight, linear.bias = module.weight, module.bias
        # torch says Tensor of any attribute.
        linear.n_stacked = module.n_stacked  # type: ignore[assignment]
        _put(model, name, linear)
    model.requires_grad_(True)


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' `lora_a` [rank, in] and `lora_b` [out, rank] by name, no copies."""
    return {
        f"{name}.{part}": getattr(module, part).detach()
        for name, module in adapters(model)
        for part in ("lora_a", "lora_b")
    }


def save_lora(model: nn.Module, path: str | Path) -> None:
    """Write the adapters and their settings as one safetensors file.

    Raises:
        UserError: there are none, or the file cannot be written.
    """
    wrapped = dict(adapters(model))
    require(bool(wrapped), "The model has no adapters to save.")
    first = next(iter(wrapped.values()))
    metadata = {
        "format": FORMAT,
        "targets": list(wrapped),
        "rank": first.rank,
        "alpha": first.alpha,
        "dropout": first.lora_dropout.p,
    }
    save_tensors(Path(path), lora_state(model), metadata)


def load_lora(model: nn.Module, path: str | Path) -> list[str]:
    """Add the adapters of a file to a plain model; returns the wrapped names.

    Raises:
        UserError: the file holds no adapters, belongs to a model of another shape, or
            the model has adapters already.
    """
    tensors, metadata = load_tensors(Path(path))
    numbers: dict[str, Any] = {n: metadata.get(n) for n in ("rank", "alpha", "dropout")}
    targets: Any = metadata.get("targets")
    require(
        metadata.get("format") == FORMAT
        and isinstance(targets, list)
        and all(isinstance(name, str) for name in targets)
        and type(numbers["rank"]) is int
        and all(type(number) in (int, float) for number in numbers.values()),
        f"{path} holds no LoRA adapters.",
    )
    wanted: dict[str, tuple[int, int]] = {}
    linears = dict(model.named_modules())
    for name in targets:
        linear, rank = linears.get(name), numbers["rank"]
        if isinstance(linear, nn.Linear):
            wanted[f"{name}.lora_a"] = (rank, linear.in_features)
            wanted[f"{name}.lora_b"] = (linear.out_features, rank)
    require(
        wanted == {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        f"{path} does not fit this model: load the model that it was trained on.",
    )
    names = add_lora(model, targets, **numbers)
    with torch.no_grad():
        for name, tensor in lora_state(model).items():
            tensor.copy_(tensors[name])
    return names
