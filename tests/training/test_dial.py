"""The dial: a plan for a real text on this machine, however fast it is."""

import re
from dataclasses import replace

import pytest

from tinygpt.presets import PRESETS
from tinygpt.text.tokenizer import get_tokenizer
from tinygpt.training import dial
from tinygpt.training.plan import plan
from tinygpt.training.text_data import TextData

PRESET = PRESETS["tiny"]


@pytest.fixture
def text(monkeypatch: pytest.MonkeyPatch) -> TextData:
    monkeypatch.setattr(dial, "MEASURED", 0.01)  # seconds
    return TextData("handbook", get_tokenizer("handbook-4k"), 64)


def test_a_plan_follows_from_the_measured_speed(
    text: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = replace(PRESET.train, minutes=1.0, device="cpu")
    assert dial.measure_speed(PRESET.model, train, text) > 0
    monkeypatch.setattr(dial, "measure_speed", lambda *_: 1e12)
    made = dial.plan_for(PRESET.model, train, text, ("n_layers",))
    assert made.expected is None  # with another size nobody has tried it
    size, vocab = text.n_tokens, text.tokenizer.vocab_size
    assert made == plan(size, vocab, 1.0, 1e12, PRESET.model, train, ("n_layers",))
    assert made.model.n_layers == PRESET.model.n_layers
    assert text.context_length == made.model.context_length == 128


def test_what_to_expect_is_told_where_it_was_tried(
    text: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dial, "measure_speed", lambda *_: 1e11)
    train = replace(PRESET.train, minutes=1.0, device="cpu")
    counted = dial.bits_by_counting(text)
    assert 1.54 < counted < 1.58  # triples alone: 1.552
    made = dial.plan_for(PRESET.model, train, text, ("data", "minutes"))
    assert made.expected == pytest.approx(1.40, abs=0.05)  # 1.399 in benchmarks/dial
    assert re.search(r"; expected 1\.3\d to 1\.5\d bits per byte\n", str(made))
    short = replace(train, minutes=0.1)
    assert dial.plan_for(PRESET.model, short, text, ()).expected is None
    monkeypatch.setattr(dial, "MOST_KNOWN", 1000)
    assert dial.plan_for(PRESET.model, train, text, ()).expected is None
