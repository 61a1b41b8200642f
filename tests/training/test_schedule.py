"""schedule: the learning rate by steps and by the clock, and what resuming does."""

import math
import re
from dataclasses import replace

import pytest

from tinygpt.config import FinetuneConfig, TrainConfig
from tinygpt.training.schedule import lr_factor, position, rate_change


@pytest.mark.parametrize("step", range(4))
def test_the_warm_up_rises_linearly(step: int) -> None:
    config = TrainConfig(steps=10, warmup_steps=4)
    assert lr_factor(step, config) == (step + 1) / 4


def test_the_warm_up_never_overshoots() -> None:
    """By the clock a run may stand between its last two steps of warm-up."""
    assert lr_factor(3.7, TrainConfig(steps=10, warmup_steps=4)) == 1.0


@pytest.mark.parametrize("warmup", [0, 50])
@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_cosine(progress: float, warmup: int) -> None:
    """Half a cosine down to the final share, as in SGDR's equation 5."""
    config = TrainConfig(
        steps=200 + warmup, warmup_steps=warmup, schedule="cosine",
        final_lr_fraction=0.1,
    )  # fmt: skip
    wanted = 0.1 + 0.5 * (1 - 0.1) * (1 + math.cos(math.pi * progress))
    now = warmup + 200 * progress
    assert lr_factor(now, config) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize(
    ("now", "wanted"),
    [(0, 1.0), (40, 1.0), (70, 0.6), (85, 0.4), (100, 0.2), (150, 0.2)],
)
def test_linear_over_the_last_part(now: int, wanted: float) -> None:
    config = TrainConfig(
        steps=100, schedule="linear", decay_fraction=0.6, final_lr_fraction=0.2
    )
    assert lr_factor(now, config) == pytest.approx(wanted, abs=1e-12)


def test_one_step_after_the_warm_up_is_the_whole_decay() -> None:
    config = TrainConfig(
        steps=5, warmup_steps=4, schedule="linear", final_lr_fraction=0.2,
        decay_fraction=1.0,
    )  # fmt: skip
    assert lr_factor(5, config) == pytest.approx(0.2)


def test_constant_and_no_decay_at_all() -> None:
    assert lr_factor(299, TrainConfig(schedule="constant")) == 1.0
    never = TrainConfig(schedule="linear", decay_fraction=0.0)
    assert lr_factor(300, never) == 1.0


def test_the_position_follows_the_steps_or_the_clock() -> None:
    config = TrainConfig(steps=50)
    assert [position(step, 1e9, config) for step in (0, 20, 50, 70)] == [0, 20, 50, 50]
    by_clock = replace(config, minutes=2.0)
    assert [position(7, t, by_clock) for t in (0.0, 30.0, 120.0, 999.0)] == [
        0.0,
        12.5,
        50.0,
        50.0,
    ]
    with pytest.raises(ValueError, match="not known yet"):
        position(0, 0.0, FinetuneConfig())


SHORT = TrainConfig(steps=100, schedule="linear")


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (SHORT, None),
        (replace(SHORT, lr=0.5), None),  # the peak is another matter
        (
            replace(SHORT, steps=200),
            "From step 100 on the learning rate is 50% of its peak instead of 0% and "
            "follows the new settings: the run lasts 200 steps instead of 100 steps.",
        ),
        (replace(SHORT, minutes=4.0), "lasts 4 minutes instead of 100 steps"),
        (replace(SHORT, schedule="constant"), "instead of 0% .* its schedule is anoth"),
    ],
)
def test_what_other_settings_do_to_the_rate(
    new: TrainConfig, words: str | None
) -> None:
    told = rate_change(100, 60.0, SHORT, new)
    if words is None:
        assert told is None
    else:
        assert told is not None
        assert re.search(words, told)


def test_a_constant_rate_is_the_same_however_long_the_run_is() -> None:
    flat = replace(SHORT, steps=200, schedule="constant")
    assert rate_change(100, 60.0, flat, flat) is None
    for steps in (100, 400):
        told = rate_change(100, 60.0, flat, replace(flat, steps=steps))
        assert told is not None
        assert "is 100% of its peak and follows" in told


def test_a_rate_that_falls_is_told_like_one_that_rises() -> None:
    flat = replace(SHORT, schedule="constant")
    told = rate_change(50, 60.0, flat, SHORT)
    assert told is not None
    assert "is 50% of its peak instead of 100% and" in told
    assert told.endswith("follows the new settings: its schedule is another.")
