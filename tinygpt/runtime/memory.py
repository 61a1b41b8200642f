"""Will it fit? Parameters and memory of a training run, before anything is allocated.

Closed formulas of the settings alone. They count what a run cannot do without, so what
is refused could not have worked; what is not refused may still be too much. What it
leaves out: text and tokenizer, other programs, and measuring.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tinygpt.config import FinetuneConfig, GPTConfig, TrainConfig
from tinygpt.errors import require

if TYPE_CHECKING:
    import torch

FLOAT32, INT64 = 4, 8  # bytes
PER_BLOCK = 20_000  # bytes of Python objects that make up an empty block
CGROUP = Path("/sys/fs/cgroup/memory.max")  # a container's limit, on Linux


def n_parameters(model: GPTConfig) -> int:
    """The number of learned parameters of `GPT(model)`, without making it."""
    c, width = model, model.d_model
    norm = 2 * width if c.norm == "layernorm" else 0
    gates = 2 if c.activation == "swiglu" else 1
    block = 2 * norm + 4 * width * width + (gates + 1) * width * c.ff_width
    if c.bias:
        block += 2 * width + gates * c.ff_width + (3 * width if c.qkv_bias else 0)
    total = c.vocab_size * width + c.n_layers * block + norm
    total += norm if c.embedding_norm else 0
    total += c.context_length * width if c.positions == "learned" else 0
    if not c.tie_head:
        total += c.vocab_size * (width + (1 if c.head_bias else 0))
    return total


def _n_adapted(model: GPTConfig, train: FinetuneConfig) -> int:
    """The learned numbers of the adapters in the blocks."""
    width, wide = model.d_model, model.ff_width
    gates = 2 if model.activation == "swiglu" else 1
    sizes = {  # inputs and outputs together
        "attention.qkv": 4 * width,
        **dict.fromkeys(("attention.q", "attention.k", "attention.v"), 2 * width),
        "attention.output": 2 * width,
        "feed_forward.input": width + gates * wide,
        "feed_forward.output": width + wide,
    }
    ends = tuple(f".{target}" for target in train.lora_targets)
    adapted = sum(size for name, size in sizes.items() if f".{name}".endswith(ends))
    return adapted * train.lora_rank * model.n_layers


def least_memory(model: GPTConfig, train: TrainConfig, world_size: int = 1) -> int:
    """Bytes that a process needs at least to train `model` as `train` says.

    Weights, gradients, the optimizer's state (two numbers per parameter for AdamW, one
    for Muon), the batches of one step, and the activations of one round that the
    backward pass needs: 8 d_model + 2 d_ff numbers per token and block.
    """
    weights = trained = n_parameters(model)
    tokens_per_text, recompute = model.context_length, False
    if isinstance(train, FinetuneConfig):
        tokens_per_text, recompute = train.window or tokens_per_text, train.recompute
        if train.lora:
            trained = _n_adapted(model, train)
            weights += trained
    states = 1 if train.optimizer == "muon" else 2
    fixed = FLOAT32 * (weights + (1 + states) * trained)
    if train.sharding == "full":
        fixed //= world_size
    tokens = train.batch_size * tokens_per_text
    kept = model.d_model if recompute else 8 * model.d_model + 2 * model.ff_width
    number = FLOAT32 if train.dtype == "float32" else FLOAT32 // 2
    activations = tokens * model.n_layers * kept * number
    batches = 2 * INT64 * tokens * train.grad_accumulation
    return fixed + activations + batches + PER_BLOCK * model.n_layers


def available_memory(device: "torch.device") -> int | None:
    """Bytes of memory of the device, used or not; None if nobody says."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    if not hasattr(os, "sysconf"):  # Windows
        return None
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(CGROUP.read_text(encoding="ascii")))
    except (OSError, ValueError):  # no such limit, or "max"
        return physical


def require_memory(
    model: GPTConfig,
    train: TrainConfig,
    device: "torch.device",
    world_size: int = 1,
) -> None:
    """Refuse sizes that the device cannot hold; call it before the model is made.

    Raises:
        UserError: with the estimate.
    """
    needed, there = least_memory(model, train, world_size), available_memory(device)
    require(
        there is None or needed <= there,
        f"training {n_parameters(model):,} parameters with a batch of "
        f"{train.batch_size:,} takes at least {needed / 1e9:,.1f} GB of memory, and "
        f"this machine has {(there or 0) / 1e9:,.1f} GB: choose a smaller --d-model, "
        "--n-layers or --batch-size",
    )
