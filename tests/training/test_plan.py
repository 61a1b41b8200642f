"""The plan: larger models for more time, fewer minutes for short texts."""

from dataclasses import asdict, replace

import pytest
import torch

from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.training.plan import (
    MOST_EPOCHS,
    Plan,
    advice,
    expected_bits,
    flops_per_token,
    ladder,
    n_weights,
    plan,
)

MODEL, TRAIN = PRESETS["tiny"].model, PRESETS["tiny"].train
SPEED = 1e11  # floating-point operations per second, of two cores


def for_text(tokens: int, minutes: float, *given: str, **settings: int) -> Plan:
    kept = {n: v for n, v in settings.items() if n in asdict(MODEL)}
    rest = {n: v for n, v in settings.items() if n not in kept}
    model, train = type(MODEL)(**asdict(MODEL) | kept), TRAIN
    train = type(TRAIN)(**asdict(TRAIN) | rest)
    return plan(tokens, 4096, float(minutes), SPEED, model, train, (*given, *settings))


def test_weights_are_those_of_the_matrix_products() -> None:
    model = GPT(ladder(MODEL, 500)[1])
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert n_weights(model.config) == sum(m.weight.numel() for m in linear)
    c = model.config
    attention = c.n_layers * c.context_length * c.d_model
    assert flops_per_token(c) == 6 * (n_weights(c) + attention)


def test_more_time_never_asks_for_less_training() -> None:
    for tokens in (2_000, 100_000, 600_000, 20_000_000):
        plans = [for_text(tokens, minutes) for minutes in (0.01, 0.5, 1, 2, 5, 10, 60)]
        sizes = [n_weights(made.model) for made in plans]
        assert sizes == sorted(sizes)
        most = max(MOST_EPOCHS, 200 * 1024 / tokens)
        assert all(made.epochs <= most + 1e-9 for made in plans)


def test_a_short_text_ends_the_training_early() -> None:
    made = for_text(3_000, minutes=10)
    assert made.train.minutes is None
    assert made.train.steps == 200
    assert made.used < 1
    assert made.minutes == 10
    assert "of 10, for the text is short" in str(made)
    assert "more text" in advice(made.tokens, made.epochs)


def test_a_long_text_uses_all_of_the_time() -> None:
    made = for_text(50_000_000, minutes=2)
    assert made.train.minutes == 2
    assert made.epochs < 1
    assert "short" not in str(made)
    assert "more minutes." in advice(made.tokens, made.epochs)


def test_what_is_read_often_decays_more() -> None:
    decays = [for_text(n, 1).train.weight_decay for n in (10_000_000, 300_000, 50_000)]
    assert decays == sorted(decays)
    assert decays[0] < 0.05 < 0.5 < decays[-1] <= 1.0


def test_as_many_epochs_of_a_longer_text_decay_less() -> None:
    short, long = for_text(50_000, 1000), for_text(500_000, 1000)
    assert short.epochs == pytest.approx(long.epochs, rel=1e-3)
    assert long.train.weight_decay == pytest.approx(short.train.weight_decay * 0.12)


def test_evaluations_take_three_hundredths_of_the_time_at_most() -> None:
    for tokens in (20_000, 100_000, 5_000_000):
        for minutes in (0.5, 1, 10, 60):
            t = (made := for_text(tokens, minutes)).train
            looks = t.steps // t.eval_interval + 1
            windows = looks * t.eval_windows + t.last_windows
            assert windows / 3 <= 0.0301 * t.steps * t.batch_size, (made, looks)


def test_more_reading_promises_more_but_never_much() -> None:
    once, often = (for_text(1_000_000, m) for m in (2, 60))
    assert expected_bits(1.5, often) < expected_bits(1.5, once) < 1.5
    whole = replace(once, tokens=1_000_000, epochs=1.0)
    assert expected_bits(1.5, whole) == pytest.approx(1.5 * 0.885)
    again = [replace(whole, epochs=e) for e in (2.0, 50.0, 500.0)]
    bits = [expected_bits(1.5, made) for made in again]
    assert bits == sorted(bits, reverse=True)
    assert bits[1] - bits[2] < 0.01


def test_what_is_given_is_kept() -> None:
    made = for_text(100_000, 1, n_layers=1, d_model=96, n_heads=3, batch_size=4)
    assert (made.model.n_layers, made.model.d_model, made.model.n_heads) == (1, 96, 3)
    assert made.train.batch_size == 4
    kept = for_text(100_000, 1, "weight_decay", "average_fraction").train
    assert (kept.weight_decay, kept.average_fraction) == (0.0, 0.0)


def test_a_plan_is_a_pure_function() -> None:
    assert for_text(100_000, 1) == for_text(100_000, 1)
    assert for_text(100_000, 1).record() == {
        "tokens": 100_000,
        "epochs": for_text(100_000, 1).epochs,
        "minutes": 1,
    }
