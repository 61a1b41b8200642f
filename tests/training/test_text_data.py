"""text_data: a text is split, evaluated token by token, and measured."""

import math
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import VOCAB_SIZE, write_text

from tinygpt.config import GPTConfig
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training import text_data
from tinygpt.training.evaluation import baselines
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.text_data import TextData, measure


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    path, vocabulary = write_text(tmp_path_factory.mktemp("text"))
    return TextData(str(path), Tokenizer.load(vocabulary), context_length=8)


def test_a_text_is_split_and_comes_back(text: TextData) -> None:
    whole = Path(text.name).read_text(encoding="utf-8")
    cut = int(0.9 * len(whole))
    assert text.train_text == whole[:cut]
    assert text.tokenizer.decode(text.val.tolist()) == whole[cut:]
    n_train, n_val = len(text.train), len(text.val)
    assert str(text) == (
        f"{n_train:,} training and {n_val:,} validation tokens of {text.name}"
    )
    assert text.n_tokens == n_train


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        ("One.", "bit of it. The shop opens at nine.", "The shop"),
        ("One.", "bit of it\n\n- Yes, we do.", "- Yes,"),
        ("One.", "and no sentence ends", "and no"),
        ("One.<|endoftext|>", " Once. Twice.<|endoftext|>Two", "Once. Twice."),
        ("One.<|endoftext|>", "Once\nupon", "Once"),
        ("One.", 20 * "x", 16 * "x"),
        ("One.", 9 * "\U0001f600", 4 * "\U0001f600"),
        ("One.", "\n\n", ""),
    ],
)
def test_the_opening_of_a_text(
    text: TextData, train: str, validation: str, words: str
) -> None:
    data, tokenizer = copy(text), text.tokenizer
    data.context_length = 64
    data.train = torch.tensor(tokenizer.encode(train, allow_special=True))
    data.val = torch.tensor(tokenizer.encode(validation, allow_special=True))
    assert data.opening() == words
    assert data.opening("xzq") == "xzq"
    data.context_length = 2
    assert data.opening("xzq") == "xz"


def test_of_a_big_text_only_the_end_is_known(
    text: TextData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the baselines and the report on memorisation, which would take for ever."""
    monkeypatch.setattr(text_data, "MOST_KNOWN", 50)
    small = copy(text)
    small.__dict__.pop("known", None)
    small.__dict__.pop("train_text", None)
    assert small.known.tolist() == text.train[-50:].tolist()
    assert text.train_text.endswith(small.train_text)


def test_the_whole_split_is_evaluated_token_by_token(text: TextData) -> None:
    """Against a plain loop over single windows; every id but the first, once; 1e-5."""
    torch.manual_seed(4)
    model = GPT(replace(configs_of(text), dropout=0.0)).eval()
    ids, total, count = text.val, 0.0, 0
    for start in range(0, len(ids) - 1, 8):
        x, y = ids[start : start + 8], ids[start + 1 : start + 9]
        logits = model(x[: len(y)].unsqueeze(0))[0]
        total -= logits.log_softmax(-1).gather(1, y.unsqueeze(1)).sum().item()
        count += len(y)
    result = text.evaluate(model, batch_size=3)
    assert result.tokens == count == len(ids) - 1
    assert result.nats_per_token == pytest.approx(total / count, abs=1e-5)
    assert result.bytes == len(text.tokenizer.decode_bytes(ids[1:].tolist()))
    assert text.evaluate(model, windows=10**6) == text.evaluate(model)


def configs_of(text: TextData) -> GPTConfig:
    """A small model for the text."""
    small = replace(PRESETS["tiny"].model, d_model=12, n_heads=2, n_layers=1)
    return replace(small, context_length=8, vocab_size=text.tokenizer.vocab_size)


def test_a_sample_is_spread_over_the_split_and_the_same_each_time(
    text: TextData,
) -> None:
    model = GPT(configs_of(text)).eval()
    result = text.evaluate(model, windows=3, batch_size=2)
    assert result == text.evaluate(model, windows=3, batch_size=2)
    assert result.tokens == 3 * 8
    assert not result.whole_split
    assert text.evaluate(model).whole_split
    middle = (len(text.val) - 9) // 2
    starts = [0, middle, len(text.val) - 9]
    x = torch.stack([text.val[s : s + 8] for s in starts])
    y = torch.stack([text.val[s + 1 : s + 9] for s in starts])
    wanted = NextTokenLoss(model)(x, y).item()
    assert result.nats_per_token == pytest.approx(wanted, abs=1e-5)


def test_baselines_know_the_training_part_and_guess_the_validation_part(
    text: TextData,
) -> None:
    bits, t = text.baselines(), text.tokenizer
    assert bits == baselines(text.train, text.val, t.vocab_size, t.decode_bytes)
    # Nine words, drawn alike: every guess beats that of a fair die.
    assert all(bits[name] < bits["uniform"] for name in bits.keys() - {"uniform"})
    per_byte = math.log2(VOCAB_SIZE) * len(text.val)
    size = len(text.tokenizer.decode_bytes(text.val.tolist()))
    assert bits["uniform"] == pytest.approx(per_byte / size)


def test_what_measure_says_is_what_was_evaluated(text: TextData) -> None:
    model = GPT(configs_of(text)).eval()
    lines = list(measure("the model", model, text.tokenizer, text.name, 1))
    assert lines[0] == f"the model, validation part of {text.name}:"
    reached = text.evaluate(model).bits_per_byte
    assert any(f"{reached:8.4f}" in line for line in lines)
