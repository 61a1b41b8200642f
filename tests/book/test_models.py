"""The models that `make models` trains: small, usable, and as good as their cards say.

What it leaves out: story and pocket-gpt2 (`test_pocket`), and how pages run them
(`test_web`).
"""

import re
from pathlib import Path

import pytest

from tinygpt.files import shipped
from tinygpt.finetuning.chat import answer
from tinygpt.finetuning.chat_data import ChatData
from tinygpt.finetuning.run import PROMPTS, load_model
from tinygpt.presets import PRESETS
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.text_data import TextData

DATA = shipped("README.md").parent


def card(name: str) -> str:
    return (DATA / name / "README.md").read_text(encoding="utf-8")


def stated(name: str) -> float:
    """The bits per byte on the card."""
    found = re.findall(r"^bits_per_byte: ([\d.]+)$", card(name), re.MULTILINE)
    return float(found[0])


@pytest.mark.parametrize("name", ["tiny", "pocket-chat"])
def test_it_is_small_and_loads_as_the_card_says(name: str) -> None:
    files = [path for path in (DATA / name).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    model, tokenizer = load_model(DATA / name)
    assert tokenizer.vocab_size <= model.config.vocab_size
    assert f"{model.n_parameters():,} parameters" in " ".join(card(name).split())


@pytest.mark.slow
def test_tiny_is_the_preset_and_reaches_the_figure_on_its_card() -> None:
    model, tokenizer = load_model(DATA / "tiny")
    assert model.config == PRESETS["tiny"].model
    text = TextData("handbook", tokenizer, model.config.context_length)
    reached = text.evaluate(model).bits_per_byte
    assert reached == pytest.approx(stated("tiny"), abs=2e-3)


def foresight(folder: str | Path) -> Evaluation:
    """How well a model foresees the answers of the chats that validate."""
    model, tokenizer = load_model(folder)
    chats = ChatData("shop-chats", tokenizer, model.config.context_length)
    return chats.evaluate(model)


@pytest.mark.slow
def test_the_chat_model_has_learned_to_answer_and_to_stop() -> None:
    reached = foresight(DATA / "pocket-chat").bits_per_byte
    assert reached == pytest.approx(stated("pocket-chat"), abs=2e-3)
    assert reached < 0.5 * foresight("pocket-gpt2").bits_per_byte
    model, tokenizer = load_model(DATA / "pocket-chat")
    for prompt in PROMPTS:
        asked = [{"role": "user", "content": prompt}]
        pieces = list(answer(model, tokenizer, asked, seed=1))
        assert 1 <= len(pieces) < 120  # it ended by itself
