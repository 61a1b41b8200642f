"""The model that ships: as small, as good and as usable as its card says."""

import re
from pathlib import Path

import pytest
import torch

from tinygpt.files import shipped
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.generation.generate import generate
from tinygpt.text.tokenizer import get_tokenizer
from tinygpt.training.text_data import TextData

FOLDER = shipped("pocket-gpt2/config.json").parent
CARD = (FOLDER / "README.md").read_text(encoding="utf-8")
WORDS = " ".join(CARD.split())


def test_it_reaches_the_bits_per_byte_on_its_card() -> None:
    stated = float(re.findall(r"^bits_per_byte: ([\d.]+)$", CARD, re.MULTILINE)[0])
    model, tokenizer = load_gpt2("pocket-gpt2")
    text = TextData("handbook", tokenizer, model.config.context_length)
    reached = text.evaluate(model).bits_per_byte
    assert reached == pytest.approx(stated, abs=2e-3)
    baselines = text.baselines()
    assert reached < min(baselines.values())
    for kind in ("bigram", "xz", "unigram"):
        assert f"{baselines[kind]:.2f}" in CARD


def test_it_is_small_and_shaped_like_gpt2() -> None:
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8_000_000
    model, tokenizer = load_gpt2("pocket-gpt2")
    c = model.config
    assert (c.positions, c.norm_placement, c.activation) == ("learned", "pre", "gelu")
    assert c.tie_head
    assert c.context_length >= 128
    assert f"{model.n_parameters():,} parameters" in WORDS
    assert tokenizer.ranks == get_tokenizer("course-4k").ranks


def test_transformers_reads_it_and_writes_the_same_text() -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(FOLDER)
    reader = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model, tokenizer = load_gpt2(Path(FOLDER))
    ids = tokenizer.encode("The salesperson asks")
    assert reader.encode("The salesperson asks") == ids
    prompt = torch.tensor([ids])
    ours = [int(t) for t in generate(model, prompt, 50, temperature=0.0)]
    greedy = theirs.generate(prompt, max_new_tokens=50, do_sample=False)
    assert greedy[0, len(ids) :].tolist() == ours
