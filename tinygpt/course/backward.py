"""The backward pass written out: one function a layer, without autograd.

A layer's forward function turns `x` into `y`. Its backward function takes `dy`, which
says how much the loss grows with each number of `y`, and returns the same for whatever
`y` was computed from: `dx` for its input, `dweight` for its weights. Each has the shape
of the thing that it is about. `gradients` chains them for a whole model. Tests compare
every function with `loss.backward()`. What it leaves out: dropout, and the parts that
GPT-2 does not have (rotary positions, RMSNorm, other activations, a softcap).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import require
from tinygpt.fast.linear_cross_entropy import cross_entropy
from tinygpt.model.attention import attention_weights
from tinygpt.model.block import TransformerBlock, gelu_tanh
from tinygpt.model.gpt import GPT

Gradients = dict[str, Tensor]  # a gradient for each parameter, by the parameter's name
Backward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

# --- One layer ----------------------------------------------------------------------


def linear_backward(
    dy: Float[Tensor, "*B O"], x: Float[Tensor, "*B I"], weight: Float[Tensor, "O I"]
) -> tuple[Float[Tensor, "*B I"], Float[Tensor, "O I"], Float[Tensor, " O"]]:
    """Gradients of y = x weight^T + bias: of `x`, of the weight, of the bias."""
    dx = dy @ weight
    dy, x = dy.flatten(0, -2), x.flatten(0, -2)  # all tokens in one list
    return dx, dy.T @ x, dy.sum(dim=0)


def softmax_backward(
    dp: Float[Tensor, "*B V"], p: Float[Tensor, "*B V"]
) -> Float[Tensor, "*B V"]:
    """Gradient of the scores, where `p` is their softmax over the last axis."""
    return p * (dp - (dp * p).sum(dim=-1, keepdim=True))


def cross_entropy_backward(
    logits: Float[Tensor, "*B V"], targets: Int[Tensor, "*B"]
) -> Float[Tensor, "*B V"]:
    """Gradient of the logits, where the loss is the mean surprise at the targets.

    Softmax and logarithm together: what was predicted minus what came. A target of
    `IGNORE_INDEX` does not count.
    """
    counts = targets != IGNORE_INDEX
    came = F.one_hot(targets.where(counts, 0), logits.size(-1))
    wrong = logits.softmax(dim=-1) - came
    return wrong * counts.unsqueeze(-1) / counts.sum().clamp_min(1)


def embedding_backward(
    dx: Float[Tensor, "B T C"], ids: Int[Tensor, "B T"], vocab_size: int
) -> Float[Tensor, "{vocab_size} C"]:
    """Gradient of the table: each row sums what all places with its token say."""
    table = dx.new_zeros(vocab_size, dx.size(-1))
    return table.index_add(0, ids.flatten(), dx.flatten(0, 1))


def positions_backward(
    dx: Float[Tensor, "B T C"], context_length: int
) -> Float[Tensor, "{context_length} C"]:
    """Gradient of the table of learned positions: row t sums over the texts."""
    return F.pad(dx.sum(dim=0), (0, 0, 0, context_length - dx.size(1)))


def layer_norm_backward(
    dy: Float[Tensor, "*B C"],
    x: Float[Tensor, "*B C"],
    weight: Float[Tensor, " C"],
    eps: float = 1e-5,
) -> tuple[Float[Tensor, "*B C"], Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Gradients of y = normed weight + bias: of `x`, of the weight, of the bias."""
    deviation = torch.sqrt(x.var(dim=-1, keepdim=True, correction=0) + eps)
    normed = (x - x.mean(dim=-1, keepdim=True)) / deviation
    d = dy * weight  # the gradient of `normed`
    shift = d.mean(dim=-1, keepdim=True)
    stretch = (d * normed).mean(dim=-1, keepdim=True)
    dx = (d - shift - stretch * normed) / deviation
    return dx, (dy * normed).flatten(0, -2).sum(dim=0), dy.flatten(0, -2).sum(dim=0)


def gelu_backward(
    dy: Float[Tensor, "*B"], x: Float[Tensor, "*B"]
) -> Float[Tensor, "*B"]:
    """Gradient of `x`, where y = x (1 + tanh u) / 2 is GPT-2's GELU."""
    root = math.sqrt(2 / math.pi)
    t = torch.tanh(root * (x + 0.044715 * x**3))
    du = root * (1 + 3 * 0.044715 * x**2)  # the slope of u along x
    return dy * ((1 + t) / 2 + x / 2 * (1 - t**2) * du)


def attention_backward(
    dmixed: Float[Tensor, "*B T D"],
    q: Float[Tensor, "*B T D"],
    k: Float[Tensor, "*B S D"],
    v: Float[Tensor, "*B S D"],
    weights: Float[Tensor, "*B T S"],
) -> tuple[Float[Tensor, "*B T D"], Float[Tensor, "*B S D"], Float[Tensor, "*B S D"]]:
    """Gradients of q, k and v, where mixed = weights v; for every head on its own.

    `weights` are those of the forward pass. Where the mask has made a weight 0, no
    gradient goes through it, so the mask itself is not needed again.
    """
    dv = weights.transpose(-2, -1) @ dmixed
    dweights = dmixed @ v.transpose(-2, -1)
    dscores = softmax_backward(dweights, weights) / math.sqrt(q.size(-1))
    return dscores @ k, dscores.transpose(-2, -1) @ q, dv


# --- One block ----------------------------------------------------------------------


@dataclass
class Kept:
    """What the forward pass of a block keeps for its backward pass."""

    x: Tensor  # [B, T, C], the residual stream that came in
    normed1: Tensor  # [B, T, C]
    heads: tuple[Tensor, Tensor, Tensor]  # q, k and v [B, H, T, D]
    weights: Tensor  # [B, H, T, T]
    mixed: Tensor  # [B, T, C]
    middle: Tensor  # [B, T, C], the stream between attention and feed-forward
    normed2: Tensor  # [B, T, C]
    hidden: Tensor  # [B, T, d_ff]


def block_forward(
    block: TransformerBlock, x: Float[Tensor, "B T C"]
) -> tuple[Float[Tensor, "B T C"], Kept]:
    """The stream after a pre-norm block, and what the backward pass will need."""
    normed1 = block.norm1(x)
    q, k, v = block.attention.heads(normed1)
    weights = attention_weights(q, k, is_causal=True)
    mixed = (weights @ v).transpose(1, 2).flatten(2)
    middle = x + block.attention.output(mixed)
    normed2 = block.norm2(middle)
    hidden = block.feed_forward.input(normed2)
    y = middle + block.feed_forward.output(gelu_tanh(hidden))
    return y, Kept(x, normed1, (q, k, v), weights, mixed, middle, normed2, hidden)


def block_backward(
    dy: Float[Tensor, "B T C"], block: TransformerBlock, kept: Kept
) -> tuple[Float[Tensor, "B T C"], Gradients]:
    """Gradients of what entered the block, and of its parameters by name."""
    weights, found = dict(block.named_parameters()), Gradients()

    def through(name: str, backward: Backward, dy: Tensor, x: Tensor) -> Tensor:
        weight, bias = f"{name}.weight", f"{name}.bias"
        dx, found[weight], found[bias] = backward(dy, x, weights[weight])
        return dx

    # y = middle + feed_forward(norm2(middle)): the gradient goes both ways, and adds.
    active = gelu_tanh(kept.hidden)
    dactive = through("feed_forward.output", linear_backward, dy, active)
    dhidden = gelu_backward(dactive, kept.hidden)
    dnormed = through("feed_forward.input", linear_backward, dhidden, kept.normed2)
    dmiddle = dy + through("norm2", layer_norm_backward, dnormed, kept.middle)

    # middle = x + attention(norm1(x)), likewise.
    dmixed = through("attention.output", linear_backward, dmiddle, kept.mixed)
    dmixed = dmixed.unflatten(-1, (block.attention.n_heads, -1)).transpose(1, 2)
    dheads = attention_backward(dmixed, *kept.heads, kept.weights)
    # three of [B, H, T, D] -> [B, T, 3, H, D] -> [B, T, 3C], as `qkv` laid them out
    dqkv = torch.stack(dheads, dim=2).permute(0, 3, 2, 1, 4).flatten(2)
    dnormed = through("attention.qkv", linear_backward, dqkv, kept.normed1)
    return dmiddle + through("norm1", layer_norm_backward, dnormed, kept.x), found


# --- The whole model ----------------------------------------------------------------

SHAPE = {  # of GPT-2, whatever its sizes
    "positions": "learned",
    "norm": "layernorm",
    "norm_placement": "pre",
    "activation": "gelu",
    "bias": True,
    "qkv_bias": True,
    "qk_norm": False,
    "embedding_norm": False,
    "tie_head": True,
    "head_bias": False,
    "logit_softcap": 0.0,
    "dropout": 0.0,
}


def require_shape(model: GPT) -> None:
    """Check that `model` has GPT-2's shape, for which this file is written.

    Raises:
        UserError: it has another.
    """
    other = [
        name for name, value in SHAPE.items() if getattr(model.config, name) != value
    ]
    require(
        not other,
        f"The backward pass is written for GPT-2's shape; this model differs in "
        f"{', '.join(other)}: choose another, such as story.",
    )


@torch.no_grad()
def gradients(
    model: GPT, ids: Int[Tensor, "B T"], targets: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, ""], Gradients]:
    """The loss in nats, and its gradient by each parameter of `model`, by name.

    What `NextTokenLoss(model)(ids, targets).backward()` puts into `grad`, found by the
    functions above.

    Raises:
        UserError: the model does not have GPT-2's shape (see `SHAPE`).
    """
    require_shape(model)
    c = model.config
    blocks: Any = model.blocks
    weights = dict(model.named_parameters())
    table = weights["token_embedding.weight"]

    # Forward, keeping what the way back will need.
    x, all_kept = model.embed(ids, torch.arange(ids.size(1))), []
    for block in blocks:
        x, kept = block_forward(block, x)
        all_kept.append(kept)
    features = model.norm(x)
    logits = features @ table.T
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten())

    # Backward: the same steps, the last one first.
    dlogits = cross_entropy_backward(logits, targets)
    dfeatures, dtable, _ = linear_backward(dlogits, features, table)  # it is the head
    found = Gradients()
    dx, found["norm.weight"], found["norm.bias"] = layer_norm_backward(
        dfeatures, x, weights["norm.weight"]
    )
    for n in reversed(range(c.n_layers)):
        dx, of_block = block_backward(dx, blocks[n], all_kept[n])
        found |= {f"blocks.{n}.{name}": value for name, value in of_block.items()}
    found["positions.weight"] = positions_backward(dx, c.context_length)
    # The table was used twice, as embedding and as head, so its gradients add.
    found["token_embedding.weight"] = dtable + embedding_backward(dx, ids, c.vocab_size)
    return loss, found
