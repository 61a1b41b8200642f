"""LoRA: fine-tune a large matrix by training two thin ones beside it.

`add_lora` freezes a model and adds adapters to chosen linear layers; only these are
trained and saved. `merge` adds them to the weights, `unmerge` subtracts them again.
What it leaves out: quantised base weights, a rank for each layer, adapters for an
embedding that shares its weight with no head.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tinygpt.errors import UserError, require
from tinygpt.model.embeddings import TokenEmbedding
from tinygpt.training.tensor_file import load_tensors, save_tensors

FORMAT = "tinygpt lora 1"
TARGETS = ("qkv",)


class LoRALinear(nn.Linear):
    """A linear layer with a low-rank adapter: W x + b + (alpha / rank) B A x.

    Weight and bias are those of `linear`, under the same names, frozen; `lora_a`
    [rank, in] and `lora_b` [out, rank] are new. `lora_b` starts at zero, so that the
    layer begins with the output of `linear`. Dropout acts on the adapter's input only.

    Where `linear` stacks matrices of equal height (`n_stacked`), as queries, keys and
    values, `parts` numbers those that get adapters of their own: with P of them,
    `lora_a` [P rank, in] and `lora_b` [P out / n_stacked, rank] stack theirs. Without
    `parts` one adapter serves the whole matrix.

    Source: Hu et al. (2021), "LoRA: Low-Rank Adaptation of Large Language Models",
    section 4.1, equation 3, and section 4.2 for adapters of single projections;
    `lora_a` starts uniform as in their code.

    Raises:
        UserError: rank < 1, alpha not above 0, or dropout outside [0, 1).

    >>> layer = LoRALinear(nn.Linear(5, 3), rank=2, alpha=4.0)
    >>> layer.lora_a.shape, layer.lora_b.shape, layer.scale
    (torch.Size([2, 5]), torch.Size([3, 2]), 2.0)
    """

    def __init__(
        self,
        linear: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        parts: Sequence[int] = (),
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
        self.is_head: bool = getattr(linear, "is_head", False)
        self.parts = tuple(parts)
        self.lora_dropout = nn.Dropout(dropout)
        n, height = len(parts), outputs // self.n_stacked
        self.lora_a = nn.Parameter(weight.new_empty((n or 1) * rank, inputs))
        self.lora_b = nn.Parameter(weight.new_zeros(n * height or outputs, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.train(linear.training)

    @property
    def scale(self) -> float:
        """The factor alpha / rank, with which one learning rate suits all ranks."""
        return self.alpha / self.rank

    @torch.no_grad()
    def delta(self) -> Float[Tensor, "out in"]:
        """What the adapter adds to the weight: (alpha / rank) B A."""
        if not self.parts:
            return self.scale * (self.lora_b @ self.lora_a)
        n, delta = len(self.parts), torch.zeros_like(self.weight)
        pairs = zip(self.lora_b.chunk(n), self.lora_a.chunk(n), strict=True)
        stacked = delta.unflatten(0, (self.n_stacked, -1))  # the same memory
        for part, (b, a) in zip(self.parts, pairs, strict=True):
            stacked[part] = self.scale * (b @ a)
        return delta

    def forward(self, x: Float[Tensor, "*B in"]) -> Float[Tensor, "*B out"]:
        """The frozen layer and its adapter; merged, the weight holds both."""
        y = super().forward(x)
        if self.merged:
            return y
        # [..., in] -> [..., rank] -> [..., out]: B A itself is never built.
        x = self.lora_dropout(x) @ self.lora_a.T
        if not self.parts:
            return y + self.scale * (x @ self.lora_b.T)
        n = len(self.parts)
        pairs = zip(x.chunk(n, -1), self.lora_b.chunk(n), strict=True)
        more = {p: s @ b.T for p, (s, b) in zip(self.parts, pairs, strict=True)}
        none = torch.zeros_like(next(iter(more.values())))
        added = [more.get(part, none) for part in range(self.n_stacked)]
        return y + self.scale * torch.cat(added, -1)


class LoRAEmbedding(TokenEmbedding):
    """An embedding that shares its weight with a head, and so the head's adapter, too.

    Row i of W + (alpha / rank) B A needs only row i of W and of `lora_b`.
    """

    def __init__(self, head: LoRALinear) -> None:
        nn.Module.__init__(self)
        self.weight = head.weight  # type: ignore[assignment]
        self._head = (head,)  # in a tuple: it is registered where it stands

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """The frozen rows and what the adapter adds to them."""
        (head,), x = self._head, super().forward(ids)
        if head.merged:
            return x
        return x + head.scale * (F.embedding(ids, head.lora_b) @ head.lora_a)


def adapters(model: nn.Module) -> Iterator[tuple[str, LoRALinear]]:
    """The wrapped layers and their names."""
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            yield name, module


def _tables(model: nn.Module) -> Iterator[tuple[str, TokenEmbedding]]:
    for name, module in model.named_modules():
        if isinstance(module, TokenEmbedding):
            yield name, module


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _chosen(model: nn.Module, targets: Sequence[str]) -> dict[str, list[int]]:
    """The linear layers that `targets` name, and which parts of each; []: as a whole.

    A stacked layer's name has a letter for each part.
    """
    known: dict[str, tuple[str, int | None]] = {}  # what may be named: layer and part
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            known[name] = name, None
            above, dot, letters = name.rpartition(".")
            if len(letters) == getattr(module, "n_stacked", 1) > 1:
                for i, letter in enumerate(letters):
                    known[f"{above}{dot}{letter}"] = name, i
    found: dict[str, set[int | None]] = {}
    for target in targets:
        meant = [at for end, at in known.items() if f".{end}".endswith(f".{target}")]
        require(
            bool(meant) and target != "",
            f"The model has no linear layer {target!r}: choose of "
            f"{', '.join(sorted({end.rpartition('.')[2] for end in known}))}.",
        )
        for name, part in meant:
            found.setdefault(name, set()).add(part)
    require(bool(targets), "LoRA needs at least one layer to adapt.")
    for name, parts in found.items():
        require(
            None not in parts or len(parts) == 1,
            f"{name} is named as a whole and in parts: give one or the other.",
        )
    # In the model's order, whatever the order of the targets.
    order = [name for name, _ in model.named_modules() if name in found]
    return {name: sorted(p for p in found[name] if p is not None) for name in order}


def add_lora(
    model: nn.Module,
    targets: Sequence[str] = TARGETS,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
) -> list[str]:
    """Add adapters to the linear layers that `targets` name; freeze everything else.

    A target is the end of a dotted name: "qkv" is that layer in every block,
    "attention.output" leaves the feed-forward layers' output alone. The joint `qkv` has
    one adapter for all three parts; "q", "k" and "v" are its parts with an adapter
    each. The adapter of a head that is tied to the token embedding serves both. Returns
    the names of the wrapped layers.

    Raises:
        UserError: a target is no linear layer of the model or shares its weight with
            another, `qkv` is named beside a part of it, there are adapters already, or
            a number is wrong.
    """
    require(not any(adapters(model)), "The model has adapters: remove_lora them first.")
    chosen = _chosen(model, targets)
    linears = {name: model.get_submodule(name) for name in chosen}
    tables = dict(_tables(model))
    every = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    for name, linear in linears.items():
        tied = sum(table.weight is linear.weight for table in tables.values())
        require(
            every.count(id(linear.weight)) == 1 + tied,
            f"{name} shares its weight with another layer, so it cannot be merged: "
            "leave it out.",
        )
    wrapped = {
        name: LoRALinear(linear, rank, alpha, dropout, chosen[name])  # type: ignore[arg-type]
        for name, linear in linears.items()
    }
    model.requires_grad_(False)
    for name, module in wrapped.items():
        module.lora_a.requires_grad_(True)
        module.lora_b.requires_grad_(True)
        _put(model, name, module)
        for place, table in tables.items():
            if table.weight is module.weight:
                _put(model, place, LoRAEmbedding(module).train(table.training))
    return list(wrapped)


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Add the adapters to the weights: the same output, at the speed of a plain model.

    Layers that are merged already stay so.
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
    """Put plain layers back, so that the model can be exported; all trains.

    After `merge` they keep what was learned; without, all is as before `add_lora`.
    """
    for name, module in list(adapters(model)):
        shape = (module.in_features, module.out_features, module.bias is not None)
        linear = nn.Linear(*shape, device="meta").train(module.training)
        linear.weight, linear.bias = module.weight, module.bias
        # torch says Tensor of any attribute.
        linear.n_stacked = module.n_stacked  # type: ignore[assignment]
        linear.is_head = module.is_head  # type: ignore[assignment]
        _put(model, name, linear)
    for name, table in list(_tables(model)):
        if isinstance(table, LoRAEmbedding):
            with torch.device("meta"):
                plain = TokenEmbedding(*table.weight.shape)
            plain.weight = table.weight
            _put(model, name, plain.train(table.training))
    model.requires_grad_(True)


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' `lora_a` [rank, in] and `lora_b` [out, rank] by name, no copies.

    Their shapes are others if only parts are adapted (see `LoRALinear`).
    """
    return {
        f"{name}.{part}": getattr(module, part).detach()
        for name, module in adapters(model)
        for part in ("lora_a", "lora_b")
    }


def _ends(name: str, module: LoRALinear) -> list[str]:
    """The targets that mean just this layer, or just its adapted parts."""
    above, dot, letters = name.rpartition(".")
    return [f"{above}{dot}{letters[part]}" for part in module.parts] or [name]


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
        "targets": [end for item in wrapped.items() for end in _ends(*item)],
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
    misfit = f"{path} does not fit this model: load the model that it was trained on."
    wanted: dict[str, tuple[int, int]] = {}
    try:
        chosen = _chosen(model, targets)
    except UserError as error:
        raise UserError(misfit) from error
    for name, parts in chosen.items():
        linear: Any = model.get_submodule(name)
        n, rank = len(parts), numbers["rank"]
        height = n * (linear.out_features // getattr(linear, "n_stacked", 1))
        wanted[f"{name}.lora_a"] = ((n or 1) * rank, linear.in_features)
        wanted[f"{name}.lora_b"] = (height or linear.out_features, rank)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    require(wanted == found, misfit)
    names = add_lora(model, targets, **numbers)
    with torch.no_grad():
        for name, tensor in lora_state(model).items():
            tensor.copy_(tensors[name])
    return names
