"""The loss of the output head without the table of all logits.

The logits [N, V] are by far the largest activation of a step: with GPT-2's vocabulary
512 tokens need 100 MB, and as much again for every operation on them. Here a chunk of
tokens at a time gets its logits, its losses and its share of all gradients while the
numbers are still in the processor's cache. The plain twin is
`naive_linear_cross_entropy`; a test shows that both give the same numbers. What it
leaves out: where the activations come from (see `tinygpt.model.gpt`).
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tinygpt.config import IGNORE_INDEX

ROWS = 256  # tokens at a time: enough for a matrix product at full speed

Reduction = Literal["mean", "sum", "none"]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of x, weight, bias


def cross_entropy(
    logits: Float[Tensor, "N V"],
    targets: Int[Tensor, " N"],
    reduction: Reduction = "mean",
) -> Float[Tensor, "*N"]:
    """PyTorch's cross-entropy in float32 or better; the mean of no targets is 0.

    Returns:
        Nats: their mean or sum over the targets [], or one per target [N]; those of
        `IGNORE_INDEX` count nothing.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    how = "none" if reduction == "none" else "sum"
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction=how)
    return loss / n_targets(targets) if reduction == "mean" else loss


def n_targets(targets: Int[Tensor, "*N"]) -> Int[Tensor, ""]:
    """How many targets count; at least 1, to divide by."""
    return (targets != IGNORE_INDEX).sum().clamp_min(1)


def naive_linear_cross_entropy(
    x: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    softcap: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*N"]:
    """`linear_cross_entropy` from all logits at once: the same arguments."""
    logits = F.linear(x, weight, bias)  # [N, V]
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return cross_entropy(logits, targets, reduction)


def linear_cross_entropy(
    x: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    softcap: float = 0.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "*N"]:
    """Cross-entropy of the head's logits x weight^T + bias, in nats.

    Chunk by chunk (Wijmans et al., 2024, "Cut Your Losses in Large-Vocabulary Language
    Models", section 4, keep no logits either), in float32 or under bfloat16 autocast:
    then the products are in bfloat16, softmax and sums in float32. Other dtypes,
    compilers and gradients of single losses get the plain form. Without gradients to
    compute, nothing is computed for them.

    Args:
        x: activations that the head reads.
        weight: of the head.
        bias: of the head, or None.
        targets: the right classes; `IGNORE_INDEX` counts nothing.
        softcap: squashes logits smoothly into plus or minus this; 0 leaves them alone.
        reduction: "mean" over the targets (0 if there are none), "sum", or "none".

    Returns:
        The mean or the sum [], or the losses [N], 0 at `IGNORE_INDEX`.

    Raises:
        IndexError, RuntimeError: a target is outside the vocabulary, as in PyTorch.
    """
    leaves = [p for p in (x, weight, bias) if p is not None]
    backward = torch.is_grad_enabled() and any(p.requires_grad for p in leaves)
    single, kind = reduction == "none", dtype_of_products(x, weight)
    if kind is None or torch.compiler.is_compiling() or (single and backward):
        return naive_linear_cross_entropy(x, weight, bias, targets, softcap, reduction)
    n = n_targets(targets) if reduction == "mean" else None
    if backward:
        return LinearCrossEntropy.apply(x, weight, bias, targets, softcap, n, kind)
    with torch.autocast(x.device.type, enabled=False):
        losses, _ = chunked(x, weight, bias, targets, softcap, None, kind, [False] * 3)
    return losses if single else losses.sum() if n is None else losses.sum() / n


def dtype_of_products(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """In what dtype the chunked form multiplies here; None where it does not apply."""
    full, half = torch.float32, torch.bfloat16
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return full if x.dtype == full else None
    fits = x.dtype in (full, half) and weight.dtype == full
    return half if fits and torch.get_autocast_dtype(device) == half else None


def chunked(
    x: Float[Tensor, "N C"],
    weight: Float[Tensor, "V C"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " N"],
    softcap: float,
    n: Int[Tensor, ""] | None,
    kind: torch.dtype,
    wanted: Sequence[bool],
) -> tuple[Float[Tensor, " N"], Gradients]:
    """The losses, and those gradients of their sum / `n` that are `wanted`.

    Matrices are multiplied as `kind`, everything else is float32. With p the softmax,
    d loss / d logits is (p - one-hot) / n. Gradients are of x, weight and bias, in this
    order and of the same shapes.
    """
    losses = x.new_empty(len(x), dtype=torch.float32)
    dx = torch.empty_like(x) if wanted[0] else None
    dweight = torch.zeros_like(weight) if wanted[1] else None
    dbias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
    matrix = weight.to(kind)
    offset = None if bias is None else bias.to(kind)
    for i in range(0, len(x), ROWS):
        part, target = x[i : i + ROWS].to(kind), targets[i : i + ROWS, None]
        counts = target != IGNORE_INDEX
        target = target.masked_fill(~counts, 0)
        logits = F.linear(part, matrix, offset).float()
        squashed = logits.div_(softcap).tanh_() if softcap else None
        if squashed is not None:
            logits = squashed * softcap
        right = logits.gather(1, target)
        highest = logits.amax(1, keepdim=True)  # subtracted, or exp would overflow
        p = logits.sub_(highest).exp_()
        total = p.sum(1, keepdim=True)
        losses[i : i + ROWS] = ((total.log() + highest - right) * counts).squeeze(1)
        if not any(wanted):
            continue
        share = counts.to(p.dtype) if n is None else counts / n
        p.mul_(share / total)
        p.scatter_add_(1, target, -share)
        if squashed is not None:  # the slope of tanh is 1 - tanh^2
            p.addcmul_(p, squashed.square_(), value=-1)
        slopes = p.to(kind)
        if dx is not None:
            dx[i : i + ROWS] = torch.mm(slopes, matrix)
        if dweight is not None and kind == dweight.dtype:
            dweight.addmm_(slopes.T, part)
        elif dweight is not None:  # a sum in bfloat16 would lose its small terms
            dweight += torch.mm(slopes.T, part)
        if dbias is not None:
            dbias += p.sum(0)
    return losses, (dx, dweight, dbias)


class LinearCrossEntropy(torch.autograd.Function):
    """`linear_cross_entropy` whose gradients are made during the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        softcap: float,
        n: Tensor | None,
        kind: torch.dtype,
    ) -> Tensor:
        """The sum of the losses, divided by `n` if given, []; shapes as above."""
        wanted = ctx.needs_input_grad
        with torch.autocast(x.device.type, enabled=False):
            losses, grads = chunked(x, weight, bias, targets, softcap, n, kind, wanted)
        ctx.save_for_backward(*grads)
        return losses.sum() if n is None else losses.sum() / n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of x, weight and bias, times that of the loss, []."""
        grads = ctx.saved_tensors
        if scale != 1:  # another pass over a large table
            grads = [None if g is None else g * scale for g in grads]
        return (*grads, None, None, None, None)
