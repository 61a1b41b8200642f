"""The models in GPT-2's shape that ship: as small, good and usable as their cards say.

What it leaves out: the model that chats, and the one in another shape (`test_models`).
"""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from tinygpt.files import shipped
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.generation.generate import generate
from tinygpt.presets import PRESETS
from tinygpt.text.tokenizer import get_tokenizer
from tinygpt.training.dial import bits_by_counting
from tinygpt.training.text_data import TextData

DATA = shipped("README.md").parent
NAMES = ["story", "pocket-gpt2"]
PRESET = {"story": "story", "pocket-gpt2": "pocket"}
TEXTS = {"story": ["stories"], "pocket-gpt2": ["stories", "handbook"]}
START = {"story": "The dog", "pocket-gpt2": "The salesperson asks"}
MOST_BYTES = {"story": 3_000_000, "pocket-gpt2": 8_000_000}


def card(name: str) -> str:
    return (DATA / name / "README.md").read_text(encoding="utf-8")


@cache
def text_and_baselines(chosen: str) -> tuple[TextData, list[float]]:
    """A text in the course's tokens, and what predicts it without a network."""
    text = TextData(chosen, get_tokenizer("course-4k"), 128)
    simple = text.baselines()
    counted = bits_by_counting(text)
    return text, [simple["unigram"], simple["bigram"], counted, simple["xz"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_reaches_the_bits_per_byte_on_its_card(name: str) -> None:
    found = re.findall(r"^bits_per_byte: ([\d.]+)$", card(name), re.MULTILINE)
    model, _ = load_gpt2(name)
    for chosen in TEXTS[name]:
        text, simple = text_and_baselines(chosen)
        assert text.context_length == model.config.context_length
        reached = text.evaluate(model).bits_per_byte
        (row,) = re.findall(rf"^\| {chosen} \| (.+) \|$", card(name), re.MULTILINE)
        stated, *others = map(float, row.split(" | "))
        assert reached == pytest.approx(stated, abs=2e-3)
        assert others == [float(f"{bits:.2f}") for bits in simple]
        assert reached < min(others)
    assert float(found[0]) == stated  # the last text's


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_shaped_like_gpt2(name: str) -> None:
    files = [path for path in (DATA / name).iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES[name]
    model, tokenizer = load_gpt2(name)
    c, made = model.config, PRESETS[PRESET[name]].model
    for size in ("n_layers", "n_heads", "d_model", "context_length"):
        assert getattr(c, size) == getattr(made, size)
    assert (c.positions, c.norm_placement, c.activation) == ("learned", "pre", "gelu")
    assert (c.norm, c.bias, c.tie_head) == ("layernorm", True, True)
    assert f"{model.n_parameters():,} parameters" in " ".join(card(name).split())
    assert tokenizer.ranks == get_tokenizer("course-4k").ranks


@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_it_and_writes_the_same_text(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    folder = DATA / name
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    model, tokenizer = load_gpt2(Path(folder))
    ids = tokenizer.encode(START[name])
    assert reader.encode(START[name]) == ids
    prompt = torch.tensor([ids])
    ours = [int(t) for t in generate(model, prompt, 50, temperature=0.0)]
    greedy = theirs.generate(prompt, max_new_tokens=50, do_sample=False)
    assert greedy[0, len(ids) :].tolist() == ours
