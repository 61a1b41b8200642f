"""A model's weights sharded over the ranks, so that none has to hold them all.

torch's `fully_shard` (FSDP2; Zhao et al., 2023, "PyTorch FSDP"; Rajbhandari et al.,
2020, "ZeRO", stage 3) does it: every rank keeps a shard of each weight, of its gradient
and of the optimizer's state; the whole weights of a block are gathered when it computes
and freed again. What it leaves out: when to shard (see `tinygpt.training.trainer`) and
files (see `tinygpt.training.checkpoint`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

# torch's modules for this take long to load, so only the functions that shard do it.


def shard(module: nn.Module, device_type: str, size: int) -> None:
    """Shard the module's weights over `size` ranks, in place; all ranks must call it.

    Each module in a `ModuleList` (a block) is gathered on its own, the rest together,
    whenever `module` itself is called. All ranks must hold the same weights before.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_type, (size,))
    for stack in [m for m in module.modules() if isinstance(m, nn.ModuleList)]:
        for block in stack:
            fully_shard(block, mesh=mesh)
    # Free the rest after the forward pass, too: between steps all weights are shards.
    fully_shard(module, mesh=mesh, reshard_after_forward=True)


def is_sharded(module: nn.Module) -> bool:
    """Whether the module's weights are sharded."""
    return any(is_sharded_tensor(p) for p in module.parameters())


@contextmanager
def no_gradient_sync(module: Any) -> Iterator[None]:
    """Gradients stay on the rank that computes them; a later backward pass adds up.

    For all rounds of gradient accumulation but the last, as DDP's own `no_sync`.
    """
    if hasattr(module, "no_sync"):  # DistributedDataParallel
        with module.no_sync():
            yield
        return
    sharded = hasattr(module, "set_requires_gradient_sync")  # `fully_shard`
    if sharded:
        module.set_requires_gradient_sync(False)
    yield
    if sharded:
        module.set_requires_gradient_sync(True)


def is_sharded_tensor(tensor: Tensor) -> bool:
    """Whether a tensor holds this rank's shard only (torch's DTensor)."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Any) -> Tensor:
    """The whole tensor; of a sharded one, all ranks must ask together."""
    return tensor.full_tensor() if is_sharded_tensor(tensor) else tensor


def shard_like(mine: Any, tensor: Tensor) -> Tensor:
    """Shard `tensor`, which all ranks hold, as `mine` is: returns this rank's shard.

    Nothing is sent. A tensor of another shape, such as a count of steps, stays whole.
    """
    if not is_sharded_tensor(mine) or tensor.shape != mine.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = mine.device_mesh, mine.placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)
