"""A model's weights cut up over the processes, so that no one has to hold them all.

torch's own `fully_shard` (FSDP2; Zhao et al., 2023, "PyTorch FSDP"; Rajbhandari et al.,
2020, "ZeRO", stage 3): every process keeps a share of each weight, of its gradient and
of the optimizer's state; a block's whole weights are gathered when it computes, and let
go again. What it leaves out: when to shard (see `trainer`) and files (`checkpoint`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

# torch's modules for this take long to load, so only `shard` and its shares do it.


def shard(model: nn.Module, device_type: str, size: int) -> None:
    """Cut the model's weights into `size` shares, in place; all processes must call it.

    What stands in a `ModuleList` (the blocks) is gathered one by one, the rest at once.
    All processes must have made the same weights.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device_type, (size,))
    for stack in [m for m in model.modules() if isinstance(m, nn.ModuleList)]:
        for block in stack:
            fully_shard(block, mesh=mesh)
    # Let go after the forward pass, too: what is looked at between steps are shares.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def is_sharded(model: nn.Module) -> bool:
    """Whether `shard` was called on the model."""
    return hasattr(model, "set_requires_gradient_sync")


@contextmanager
def gradients_wait(model: Any) -> Iterator[None]:
    """Gradients stay in the process that makes them; a later round averages them."""
    if hasattr(model, "no_sync"):  # DistributedDataParallel
        with model.no_sync():
            yield
        return
    if is_sharded(model):
        model.set_requires_gradient_sync(False)
    yield
    if is_sharded(model):
        model.set_requires_gradient_sync(True)


def is_sharded_tensor(tensor: Tensor) -> bool:
    """Whether a tensor holds only what this process keeps of it (torch's DTensor)."""
    return hasattr(tensor, "full_tensor")


def full_tensor(tensor: Any) -> Tensor:
    """All of a tensor of any shape; of a share, all processes must ask together."""
    return tensor.full_tensor() if is_sharded_tensor(tensor) else tensor


def shard_like(mine: Any, tensor: Tensor) -> Tensor:
    """What belongs here of a whole `tensor` that all hold, if `mine` is a share.

    Nothing is sent. A tensor of another shape, such as a count of steps, stays whole.
    """
    if not is_sharded_tensor(mine) or tensor.shape != mine.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = mine.device_mesh, mine.placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)
