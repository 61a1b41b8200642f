"""The loss: how surprised a model is by the tokens that came, in nats.

What it leaves out: bits per byte and evaluation of whole texts (see `evaluation`).
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tinygpt.fast.linear_cross_entropy import (
    Reduction,
    cross_entropy,
    linear_cross_entropy,
)
from tinygpt.fast.plain import is_plain


class NextTokenLoss(nn.Module):
    """Cross-entropy of `model`, which is a part of this module, at the next tokens.

    `model` takes ids [B, T] and returns logits [B, T, V]. Of a model with `features`
    and a plain linear `head`, such as `GPT`, the same number is found without keeping
    all logits. DistributedDataParallel, `fully_shard` and `torch.compile` wrap this
    module, so that a call of it is all they see.

    Source: Shannon (1948), "A Mathematical Theory of Communication", section 7.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        ids: Int[Tensor, "B T"],
        targets: Int[Tensor, "B T"],
        mask: Bool[Tensor, "..."] | None = None,
        positions: Int[Tensor, "..."] | None = None,
        reduction: Reduction = "mean",
    ) -> Float[Tensor, "*BT"]:
        """Minus the log-probability of `targets`, in nats.

        Args:
            ids: token ids.
            targets: the tokens that came next; `IGNORE_INDEX` counts nothing.
            mask: for the model, if given (see `GPT.forward`).
            positions: for the model, if given.
            reduction: "mean" over the targets (0 if there are none), "sum", or "none".

        Returns:
            The mean or the sum [], or every loss [B, T], 0 at `IGNORE_INDEX`.
        """
        arguments = {"mask": mask, "positions": positions}
        given = {name: t for name, t in arguments.items() if t is not None}
        model: Any = self.model
        flat = targets.flatten()
        if not torch.compiler.is_compiling() and reads_features(model):
            x, head = model.features(ids, **given).flatten(0, 1), model.head
            cap = model.config.logit_softcap
            loss = linear_cross_entropy(x, head.weight, head.bias, flat, cap, reduction)
        else:
            logits = model(ids, **given)  # [B, T, V]
            loss = cross_entropy(logits.flatten(0, 1), flat, reduction)
        return loss.unflatten(0, targets.shape) if reduction == "none" else loss


def reads_features(model: Any) -> bool:
    """Whether `model` is its `features` under a plain linear head, and nothing else.

    So forward (pre-)hooks on model or head, and subclasses that override one of
    `forward` and `features`, are run.
    """
    owners = [
        next((c for c in type(model).__mro__ if name in vars(c)), None)
        for name in ("features", "forward")
    ]
    return (
        owners[0] is not None
        and owners[0] is owners[1]
        and is_plain(model)
        and type(model.head) is nn.Linear
        and is_plain(model.head)
    )
