"""When a shortcut may bypass a module: a call would run its forward and nothing else.

PyTorch runs more than `forward` where somebody has registered a hook (to record
activations, to change them, to count) or has replaced a part; the shortcuts of this
room then step aside. What it leaves out: hooks that are registered while a shortcut is
in use.
"""

from torch import nn
from torch.nn.modules import module as torch_module


def is_plain(module: nn.Module) -> bool:
    """Whether calling `module` runs the forward of its class and nothing else."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)
        or torch_module._has_any_global_hook()
    )


def is_plain_part(module: object, *names: str) -> bool:
    """Whether `module` is plain and exactly one of the classes `names` of the model.

    A subclass or a class of the same name from elsewhere may compute something else.
    """
    kind = type(module)
    return (
        isinstance(module, nn.Module)
        and kind.__module__.startswith("tinygpt.model.")
        and kind.__name__ in names
        and is_plain(module)
    )
