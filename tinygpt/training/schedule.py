"""The learning rate over time: warm-up, plateau, decay.

What it leaves out: the peak rates, which belong to the parameter groups (see
`optimizers`).
"""

import math

from tinygpt.config import TrainConfig


def position(step: int, seconds: float, config: TrainConfig) -> float:
    """Where a run stands, in steps: between 0 and `config.steps`.

    A run of `minutes` walks through the same schedule at the pace of the clock: after
    half of its time it stands at half of `steps`, however many it has taken.

    Raises:
        ValueError: `steps` has not been filled in (see `FinetuneConfig.with_steps`).
    """
    if config.steps is None:
        raise ValueError("the number of steps is not known yet")
    if config.minutes is not None:
        return config.steps * min(1.0, seconds / (60 * config.minutes))
    return float(min(step, config.steps))


def lr_factor(position: float | int, config: TrainConfig) -> float:
    """The share of the peak learning rate at `position` (see above).

    It rises linearly over the warm-up, stays, and falls over the last
    `decay_fraction` of what follows the warm-up: along half a cosine (Loshchilov and
    Hutter, 2017, "SGDR", equation 5) or a straight line.

    >>> lr_factor(5, TrainConfig(steps=10, schedule="linear"))
    0.5
    """
    steps, warmup = config.steps or 0, config.warmup_steps
    if position < warmup:
        return min(1.0, (position + 1) / warmup)
    progress = (position - warmup) / max(1, steps - warmup)
    start = 1 - config.decay_fraction
    if config.schedule == "constant" or progress <= start:
        return 1.0
    fallen = min(1.0, (progress - start) / config.decay_fraction)
    if config.schedule == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return 1 - fallen * (1 - config.final_lr_fraction)


def rate_change(
    step: int, seconds: float, old: TrainConfig, new: TrainConfig
) -> str | None:
    """What resuming with other settings does to the learning rate, in one sentence.

    Args:
        step: the step at which the run is resumed.
        seconds: its training time so far.
        old: the settings it had.
        new: the settings it goes on with.

    Returns:
        A sentence, or None if nothing changes.
    """
    was, now = (lr_factor(position(step, seconds, c), c) for c in (old, new))
    lengths = [
        f"{c.steps} steps" if c.minutes is None else f"{c.minutes:g} minutes"
        for c in (old, new)
    ]
    if lengths[0] == lengths[1] and was == now:
        return None
    instead = "" if was == now else f" instead of {was:.0%}"
    reason = f"the run lasts {lengths[1]} instead of {lengths[0]}"
    if lengths[0] == lengths[1]:
        reason = "its schedule is another"
    return (
        f"From step {step} on the learning rate is {now:.0%} of its peak{instead} and "
        f"follows the new settings: {reason}."
    )
