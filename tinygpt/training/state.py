"""What a run needs to go on: weights, buffers and the optimizers' memory, by name.

A tensor is called "model.NAME", or SLOT.NAME for the optimizer's tensor SLOT
("exp_avg", "momentum_buffer") that belongs to the parameter NAME. Sharded tensors are
gathered. What it leaves out: counters (see `trainer`) and files (see `checkpoint`).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tinygpt.runtime.fsdp import full_tensor, shard_like


def gather_state(
    model: nn.Module, optimizers: Iterable[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """All tensors by name, whole. Collective: all ranks must ask together."""
    tensors = {f"model.{name}": t for name, t in _kept(model).items()}
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    for optimizer in optimizers:
        for p, slots in optimizer.state.items():
            tensors |= {f"{slot}.{names[p]}": t for slot, t in slots.items()}
    return {name: full_tensor(t.detach()) for name, t in tensors.items()}


@torch.no_grad()
def restore_state(
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    tensors: dict[str, Tensor],
) -> None:
    """Put back what `gather_state` gave, on every rank.

    Raises:
        KeyError, ValueError: a tensor is missing, unknown or of another shape.
    """
    kept = _kept(model)
    owner = {p: o for o in optimizers for g in o.param_groups for p in g["params"]}
    if missing := [name for name in kept if f"model.{name}" not in tensors]:
        raise ValueError(f"it lacks {missing[0]}")
    for key, saved in tensors.items():
        slot, _, name = key.partition(".")
        mine = kept[name]
        if saved.shape != mine.shape and slot != "step":  # AdamW's count of steps
            raise ValueError(f"{name} is {list(saved.shape)} there")
        shard = shard_like(mine, saved.to(mine.device))
        if slot == "model":
            mine.copy_(shard)
        else:
            owner[mine].state[mine][slot] = shard


def _kept(model: nn.Module) -> dict[str, Tensor]:
    """Trained parameters and persistent buffers; a frozen base stays out."""
    own: dict[str, Tensor] = dict(model.named_buffers())
    own |= {n: p for n, p in model.named_parameters() if p.requires_grad}
    return {name: own[name] for name in model.state_dict() if name in own}
