"""The loss of the output head without the table of all logits.

A head's logits [N, V] are by far the largest numbers of a step: at GPT-2's vocabulary
half a thousand tokens need 100 MB, and as much again for every operation on them.
`HeadLoss` takes some tokens at a time: their logits, their share of the loss and of all
gradients, while the numbers are still near the processor, and then forgets them. What
it leaves out: where the vectors come from (see `gpt`).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100
ROWS = 256  # tokens at a time: enough for a matrix product at full speed


def naive_head_loss(
    x: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    softcap: float = 0.0,
) -> Float[Tensor, ""]:
    """`head_loss` in the plainest words: all logits, then PyTorch's cross-entropy."""
    logits = F.linear(x, weight, bias)  # [N, V]
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return F.cross_entropy(logits.float(), targets)


def head_loss(
    x: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    softcap: float = 0.0,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of the head's logits x weight^T + bias, in nats per token.

    `softcap` squashes logits smoothly into plus or minus this (0 leaves them alone).
    Targets of -100 do not count. In float32 it goes chunk by chunk (Wijmans et al.,
    2024, "Cut Your Losses in Large-Vocabulary Language Models", section 4, keep no
    logits either); mixed precision and compilers are given the plain form.
    """
    mixed = torch.is_autocast_enabled(x.device.type) or x.dtype != torch.float32
    if mixed or torch.compiler.is_compiling():
        return naive_head_loss(x, weight, bias, targets, softcap)
    return HeadLoss.apply(x, weight, bias, targets, softcap)


class HeadLoss(torch.autograd.Function):
    """`head_loss` by chunks; the gradients are made on the way forward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        softcap: float,
    ) -> Tensor:
        """The loss of `head_loss`, same shapes.

        With p the softmax, d loss / d logits is (p - one-hot) / N.
        """
        n = int((targets != IGNORED).sum())
        wanted = ctx.needs_input_grad
        dx = torch.empty_like(x) if wanted[0] else None
        dweight = torch.zeros_like(weight) if wanted[1] else None
        dbias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        loss = x.new_zeros(())
        for i in range(0, len(x), ROWS):
            part, target = x[i : i + ROWS], targets[i : i + ROWS, None]
            counts = target != IGNORED
            target = target.clamp_min(0)
            logits = F.linear(part, weight, bias)
            squashed = logits.div_(softcap).tanh_() if softcap else None
            if squashed is not None:
                logits = squashed * softcap
            right = logits.gather(1, target)
            highest = logits.amax(1, keepdim=True)  # exp of it would be too large
            p = logits.sub_(highest).exp_()
            total = p.sum(1, keepdim=True)
            loss += ((total.log() + highest - right) * counts).sum()
            if not any(wanted):
                continue
            p.mul_(counts / total / n)
            p.scatter_add_(1, target, -counts.to(p.dtype) / n)
            if squashed is not None:  # the slope of tanh is 1 - tanh^2
                p.addcmul_(p, squashed.square_(), value=-1)
            if dx is not None:
                torch.mm(p, weight, out=dx[i : i + ROWS])
            if dweight is not None:
                dweight.addmm_(p.T, part)
            if dbias is not None:
                dbias += p.sum(0)
        ctx.save_for_backward(dx, dweight, dbias)
        return loss / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias, times the loss's own, a number []."""
        grads = ctx.saved_tensors
        if scale != 1:  # rarely: another pass over a large table
            grads = [None if g is None else g * scale for g in grads]
        return (*grads, None, None)
