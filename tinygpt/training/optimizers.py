"""Which optimizer moves which weights, and at what peak learning rate.

What it leaves out: the loop that asks for steps (see `trainer`), Muon's own arithmetic
(see `muon`).
"""

import torch
from torch import Tensor, nn

from tinygpt.config import TrainConfig
from tinygpt.training.muon import Muon


def make_optimizers(
    model: nn.Module, config: TrainConfig, precision: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices and AdamW for the rest.

    Weight decay acts on matrices only (Loshchilov and Hutter, 2019, "Decoupled Weight
    Decay Regularization"). Muon takes the weights of linear layers except one that is
    called "head" or shared with an embedding. Tables whose name holds "embedding" and
    the head have learning rates of their own in the config. `precision` is the type of
    Muon's matrix products. Every group keeps its "peak_lr", which `lr_factor` scales.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    linear_weights = {id(m.weight) for m in linear}
    muon: list[Tensor] = []
    adamw: dict[tuple[float, float], list[Tensor]] = {}
    for name, p in parameters.items():
        embedding, head = "embedding" in name and p.ndim == 2, name.startswith("head.")
        inner = id(p) in linear_weights and not embedding and not head
        if config.optimizer == "muon" and inner:
            muon.append(p)
            continue
        own = config.embedding_lr if embedding else config.head_lr if head else None
        lr = config.lr if own is None else own
        decay = config.weight_decay if p.ndim >= 2 else 0.0
        adamw.setdefault((lr, decay), []).append(p)
    groups = [
        {"params": p, "lr": lr, "weight_decay": decay}
        for (lr, decay), p in adamw.items()
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        betas = (config.beta1, config.beta2)
        optimizers.append(torch.optim.AdamW(groups, betas=betas, fused=True))
    if muon:
        # A layer that makes queries, keys and values holds three matrices, stacked.
        stacked = {m.weight: 3 for m in linear if m.out_features == 3 * m.in_features}
        optimizers.append(
            Muon(
                muon,
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.weight_decay,
                steps=config.muon_steps,
                pieces=stacked,
                precision=precision,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers
