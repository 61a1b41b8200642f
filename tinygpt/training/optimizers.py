"""Which optimizer moves which weights, and at what peak learning rate.

What it leaves out: the loop that asks for steps (see `trainer`), the learning rate over
time (see `schedule`), Muon's own arithmetic (see `muon`).
"""

import torch
from torch import Tensor, nn

from tinygpt.config import TrainConfig
from tinygpt.model.embeddings import TokenEmbedding
from tinygpt.training.muon import Muon


def make_optimizers(
    model: nn.Module, config: TrainConfig, precision: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the hidden matrices and AdamW for the rest.

    A weight's role follows from the module that holds it: the tables of `nn.Embedding`
    and `TokenEmbedding` train at `embedding_lr`; a linear layer whose `is_head` is True
    makes the logits and trains at `head_lr`; all other linear layers hold the hidden
    matrices. A weight that a head shares with an embedding is the embedding's. Weight
    decay acts on matrices only (Loshchilov and Hutter, 2019, "Decoupled Weight Decay
    Regularization"). A layer that stacks several matrices says so (`n_stacked`).

    Args:
        model: frozen parameters are left out.
        config: the learning rates and the optimizers' other settings.
        precision: dtype of Muon's matrix products.

    Returns:
        One optimizer or two, none if all is frozen. Every parameter group keeps its
        "peak_lr", which `lr_factor` scales.
    """
    embeddings, heads, hidden = set[Tensor](), set[Tensor](), dict[Tensor, int]()
    for module in model.modules():
        if isinstance(module, nn.Embedding | TokenEmbedding):
            embeddings.add(module.weight)
        elif isinstance(module, nn.Linear) and getattr(module, "is_head", False):
            heads |= set(module.parameters(recurse=False))
        elif isinstance(module, nn.Linear):
            hidden[module.weight] = getattr(module, "n_stacked", 1)
    with_muon: dict[Tensor, int] = {}
    with_adamw: dict[tuple[float, float], list[Tensor]] = {}
    for p in (p for p in model.parameters() if p.requires_grad):
        own = None
        if p in embeddings:
            own = config.embedding_lr
        elif p in heads:
            own = config.head_lr
        elif p in hidden and config.optimizer == "muon":
            with_muon[p] = hidden[p]
            continue
        lr = config.lr if own is None else own
        decay = config.weight_decay if p.ndim >= 2 else 0.0
        with_adamw.setdefault((lr, decay), []).append(p)
    optimizers: list[torch.optim.Optimizer] = []
    if with_adamw:
        groups = [
            {"params": parameters, "lr": lr, "weight_decay": decay}
            for (lr, decay), parameters in with_adamw.items()
        ]
        betas = (config.beta1, config.beta2)
        optimizers.append(torch.optim.AdamW(groups, betas=betas, fused=True))
    if with_muon:
        optimizers.append(
            Muon(
                with_muon,
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.weight_decay,
                steps=config.muon_steps,
                n_stacked=with_muon,
                precision=precision,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
