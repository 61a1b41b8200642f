"""The learning rate over time: warm-up, plateau, decay.

What it leaves out: the peak rates, which belong to the parameter groups (see
`optimizers`).
"""

import math

from tinygpt.config import TrainConfig


def lr_factor(step: int, progress: float, config: TrainConfig) -> float:
    """The share of the peak learning rate at `step` (from 0).

    It rises linearly over the warm-up, stays, and falls over the last
    `decay_fraction` of the run: along half a cosine (Loshchilov and Hutter, 2017,
    "SGDR", equation 5) or a straight line. `progress` is the part of the time after
    the warm-up that has passed, from 0 to 1.

    >>> lr_factor(5, 0.5, TrainConfig(steps=10, schedule="linear"))
    0.5
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = 1 - config.decay_fraction
    if config.schedule == "constant" or progress <= start:
        return 1.0
    fallen = min(1.0, (progress - start) / config.decay_fraction)
    if config.schedule == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return 1 - fallen * (1 - config.final_lr_fraction)
