"""nanochat: a model of the default preset computes the same in transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from test_huggingface import BYTES
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.lora import add_lora
from tinygpt.formats.huggingface import export_hf, load_gpt2
from tinygpt.formats.nanochat import SWITCHES, is_nanochat
from tinygpt.generation.generate import generate
from tinygpt.llm import load
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS

# Sizes in which no two axes agree, and each setting that may differ.
SHAPES: list[dict[str, Any]] = [
    {"d_model": 30, "n_heads": 5, "n_layers": 2, "context_length": 61},
    {"d_model": 36, "n_heads": 3, "n_layers": 3, "context_length": 59, "d_ff": 50}
    | {"logit_softcap": 0.0, "activation": "gelu"},
    {"d_model": 44, "n_heads": 11, "n_layers": 1, "context_length": 67, "dropout": 0.1}
    | {"activation": "relu", "tie_head": True, "logit_softcap": 4.0},
]
pytestmark = pytest.mark.skipif(
    not hasattr(transformers, "NanoChatForCausalLM"), reason="came with transformers 5"
)


def random_model(shape: dict[str, Any], seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    config = replace(PRESETS["tiny"].model, vocab_size=257, **shape)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_the_default_preset_is_one() -> None:
    assert is_nanochat(PRESETS["tiny"].model)
    assert not is_nanochat(PRESETS["story"].model)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shape", SHAPES, ids=range(len(SHAPES)))
def test_equal_to_transformers(shape: dict, seed: int, tmp_path: Path) -> None:
    """Logits and 40 greedy tokens."""
    ours = random_model(shape, seed)
    export_hf(ours, BYTES, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__ == "NanoChatForCausalLM"
    assert theirs.num_parameters() == ours.n_parameters()
    ids = torch.randint(257, (3, 19))
    expected = theirs(ids).logits
    assert expected.std() > 0.5
    assert_close(ours(ids), expected, rtol=1e-5, atol=2e-5)
    greedy = theirs.generate(ids, max_new_tokens=40, do_sample=False, eos_token_id=999)
    tokens = torch.stack(list(generate(ours, ids, 40, temperature=0.0)), dim=1)
    assert torch.equal(tokens, greedy[:, 19:])


def test_the_small_epsilon_of_queries_and_keys_is_kept(tmp_path: Path) -> None:
    """Where they are so short that it decides."""
    ours = random_model(SHAPES[0])
    with torch.no_grad():
        for block in ours.blocks:
            block.attention.qkv.weight *= 1e-4
    export_hf(ours, BYTES, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.randint(257, (2, 19))
    assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=2e-5)
    for layer in theirs.model.layers:
        layer.self_attn.q_norm.eps = layer.self_attn.k_norm.eps = 1e-7
    assert not torch.allclose(ours(ids), theirs(ids).logits, rtol=1e-5, atol=2e-5)


def test_the_shipped_model_speaks_the_same(tmp_path: Path) -> None:
    llm = load("tiny")
    export_hf(llm.model, llm.tokenizer, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    reader = AutoTokenizer.from_pretrained(tmp_path)
    prompt = "The salesperson asks for it."
    ids = reader(prompt, return_tensors="pt").input_ids
    assert ids[0].tolist() == llm.tokenizer.encode(prompt)
    assert_close(llm.model(ids), theirs(ids).logits, rtol=1e-5, atol=2e-5)
    with pytest.raises(UserError, match=r'model_type = "nanochat", .* exported from'):
        load_gpt2(tmp_path)
    export_hf(load("story").model, load("story").tokenizer, tmp_path)  # over it
    assert load_gpt2(tmp_path)[0].config == load("story").config


@pytest.mark.parametrize(
    "change",
    [
        {"norm_placement": "post"},
        {"qk_norm": False},
        {"embedding_norm": False},
        {"norm": "layernorm"},
        {"positions": "learned"},
        {"bias": True},
        {"head_bias": True},
        {"activation": "swiglu"},
    ],
)
def test_other_shapes_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    config = replace(PRESETS["tiny"].model, vocab_size=257, **change)
    assert set(change) <= {*SWITCHES, "activation"}
    with pytest.raises(UserError, match=r"no NanoChat either.*--preset tiny"):
        export_hf(GPT(config), BYTES, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_adapters_are_merged_first(tmp_path: Path) -> None:
    model = random_model(SHAPES[0])
    add_lora(model, ("qkv",), rank=2, alpha=4.0)
    with pytest.raises(UserError, match="merge and remove adapters first"):
        export_hf(model, BYTES, tmp_path / "out")


def test_a_tokenizer_with_more_ids_is_refused(tmp_path: Path) -> None:
    config = GPTConfig(**{**SWITCHES, "vocab_size": 200, "activation": "relu2"})
    with pytest.raises(UserError, match="has 257 ids, the model only 200"):
        export_hf(GPT(config), BYTES, tmp_path / "out")
