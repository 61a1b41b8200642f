"""config: every bad value is refused by name, the presets hold, torch stays out."""

import importlib.util
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tinygpt import config, presets
from tinygpt.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

# The module as a user meets it: without the checks that conftest.py's import hook adds
# to every dataclass, which would refuse a wrong type before the config itself does.
spec = importlib.util.spec_from_file_location(
    "tinygpt.config", ROOT / "tinygpt" / "config.py"
)
config_module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(config_module)
from_dict, FinetuneConfig = config_module.from_dict, config_module.FinetuneConfig
GPTConfig, TrainConfig = config_module.GPTConfig, config_module.TrainConfig

NAN, INF = float("nan"), float("inf")

# (what is changed in the defaults, what the sentence must say)
BAD_MODELS = [
    ({"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
    ({"context_length": 0}, "context_length must be at least 1, not 0"),
    ({"d_model": -128}, "d_model must be at least 1, not -128"),
    ({"n_heads": 0}, "n_heads must be at least 1, not 0"),
    ({"n_layers": -1}, "n_layers must be at least 1, not -1"),
    ({"d_ff": 0}, "d_ff must be positive: 0"),
    ({"d_model": 130}, "d_model 130 is not divisible by n_heads 4"),
    (
        {"positions": "sinusoidal", "d_model": 15, "n_heads": 5},
        "sinusoidal positions need an even d_model, not 15",
    ),
    (
        {"positions": "rotary", "d_model": 12, "n_heads": 4},
        "rotary positions need an even d_model / n_heads, not 3",
    ),
    ({"dropout": -0.1}, "dropout must be in [0, 1), not -0.1"),
    ({"dropout": 1.0}, "dropout must be in [0, 1), not 1.0"),
    ({"logit_softcap": -15.0}, "logit_softcap must not be negative: -15.0"),
    ({"head_bias": True}, "head_bias True needs tie_head False"),
    ({"positions": "alibi"}, "positions must be one of learned, sinusoidal, rotary"),
    ({"norm": "batchnorm"}, "norm must be one of layernorm, rmsnorm, not 'batchnorm'"),
    ({"norm_placement": "mid"}, "norm_placement must be one of pre, post, not 'mid'"),
    ({"activation": "tanh"}, "activation must be one of relu, gelu, relu2, swiglu"),
    ({"init": "ones"}, "init must be one of gpt2, zero, not 'ones'"),
    ({"vocab_size": 4096.0}, "vocab_size must be a whole number, not 4096.0"),
    ({"d_model": "128"}, "d_model must be a whole number, not '128'"),
    ({"n_heads": True}, "n_heads must be a whole number, not True"),
    ({"n_layers": None}, "n_layers must be a whole number, not None"),
    ({"d_ff": 1.5}, "d_ff must be a whole number, not 1.5"),
    ({"dropout": NAN}, "dropout must be a finite number, not nan"),
    ({"dropout": "much"}, "dropout must be a finite number, not 'much'"),
    ({"logit_softcap": INF}, "logit_softcap must be a finite number, not inf"),
    ({"bias": 1}, "bias must be True or False, not 1"),
    ({"tie_head": "no"}, "tie_head must be True or False, not 'no'"),
]

AT_LEAST = {
    **dict.fromkeys(
        (
            "steps",
            "batch_size",
            "grad_accumulation",
            "eval_interval",
            "eval_windows",
            "last_windows",
            "checkpoint_interval",
            "patience",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            "lr",
            "embedding_lr",
            "head_lr",
            "muon_lr",
            "muon_momentum",
            "beta1",
            "beta2",
            "weight_decay",
            "warmup_steps",
            "decay_fraction",
            "final_lr_fraction",
            "grad_clip",
            "seed",
        ),
        0,
    ),
}

BAD_RUNS = [
    *(
        ({name: least - 1}, f"{name} must be at least {least}, not {least - 1}")
        for name, least in AT_LEAST.items()
    ),
    ({"decay_fraction": 1.1}, "decay_fraction is a share and at most 1, not 1.1"),
    ({"final_lr_fraction": 2}, "final_lr_fraction is a share and at most 1, not 2"),
    ({"beta1": 1.0}, "beta1 must be below 1, not 1.0"),
    ({"beta2": 1.5}, "beta2 must be below 1, not 1.5"),
    ({"muon_momentum": 1}, "muon_momentum must be below 1, not 1"),
    ({"minutes": 0}, "minutes must be more than 0, not 0"),
    ({"minutes": -1.5}, "minutes must be more than 0, not -1.5"),
    (
        {"warmup_steps": 30, "steps": 20},
        "warmup_steps 30 is longer than the run of 20 steps",
    ),
    (
        {"warmup_steps": 30, "steps": 20, "minutes": 2.0},
        "warmup_steps 30 is longer than the run of 20 steps",
    ),
    ({"steps": None}, "steps must be a whole number, not None"),
    ({"seed": 2**63}, "seed must be below 2**63"),
    ({"batch_size": 10**400}, "batch_size must be below 2**63"),
    ({"lr": 10**400}, "lr must be below 2**63"),
    ({"steps": 10_000_001}, "steps must be at most 10,000,000, not 10000001"),
    ({"optimizer": "sgd"}, "optimizer must be one of adamw, muon, not 'sgd'"),
    ({"schedule": "step"}, "schedule must be one of constant, cosine, linear"),
    ({"dtype": "float16"}, "dtype must be one of auto, float32, bfloat16"),
    ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
    ({"lr": NAN}, "lr must be a finite number, not nan"),
    ({"lr": None}, "lr must be a finite number, not None"),
    ({"grad_clip": INF}, "grad_clip must be a finite number, not inf"),
    ({"minutes": NAN}, "minutes must be a finite number, not nan"),
    ({"compile": 0}, "compile must be True or False, not 0"),
    ({"data": 7}, "data must be a text, not 7"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD_MODELS)
def test_bad_model_is_refused_by_name_and_value(changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        GPTConfig(**changes)


@pytest.mark.parametrize(("changes", "sentence"), BAD_RUNS)
def test_bad_run_is_refused_by_name_and_value(changes: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        TrainConfig(**changes)


def test_limits_themselves_are_allowed() -> None:
    model = GPTConfig(1, 1, 1, 1, 1, d_ff=1, dropout=0)
    assert (model.head_dim, model.ff_width) == (1, 1)
    TrainConfig(**dict(AT_LEAST))
    TrainConfig(seed=2**63 - 1, decay_fraction=1, final_lr_fraction=1)
    TrainConfig(steps=20, warmup_steps=20)


def test_derived_sizes() -> None:
    config = GPTConfig(d_model=12, n_heads=3)
    assert (config.head_dim, config.ff_width) == (4, 48)
    assert replace(config, d_ff=20).ff_width == 20


BAD_FINETUNINGS = [
    ({"epochs": 0.0}, "epochs must be more than 0, not 0.0"),
    ({"lora_rank": 0}, "lora_rank must be positive, not 0"),
    ({"lora_alpha": -1.0}, "lora_alpha must be positive, not -1.0"),
    ({"window": 0}, "window must be positive, not 0"),
    ({"dropout": 1.0}, "dropout must be in [0, 1), not 1.0"),
    ({"lora_dropout": -0.1}, "lora_dropout must be in [0, 1), not -0.1"),
    ({"lora": 1}, "lora must be True or False, not 1"),
    ({"steps": 0}, "steps must be at least 1, not 0"),
    ({"steps": 4}, "warmup_steps 5 is longer than the run of 4 steps"),
    ({"beta1": 1.0}, "beta1 must be below 1, not 1.0"),
    ({"data": None}, "data must be a text, not None"),
    ({"lora_targets": "qkv"}, "lora_targets must be a list of texts, not 'qkv'"),
    ({"lora_targets": (3,)}, "lora_targets must be a list of texts, not (3,)"),
    ({"lora_targets": ()}, "lora_targets must name a layer or more"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD_FINETUNINGS)
def test_bad_finetuning_is_refused_by_name_and_value(
    changes: dict, sentence: str
) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        FinetuneConfig(**changes)


def test_finetuning_has_every_setting_of_training_but_the_tokenizer() -> None:
    config = FinetuneConfig(schedule="linear", checkpoint_interval=7, steps=40)
    assert isinstance(config, TrainConfig)
    assert (config.schedule, config.checkpoint_interval) == ("linear", 7)
    assert config.tokenizer == ""  # the model brings its own: no name is pretended
    with pytest.raises(TypeError, match="tokenizer"):
        FinetuneConfig(tokenizer="gpt2")
    assert from_dict(FinetuneConfig, asdict(config)) == config
    some = replace(config, lora_targets=("q", "v"))
    assert from_dict(FinetuneConfig, json.loads(json.dumps(asdict(some)))) == some


def test_steps_are_filled_in_from_epochs() -> None:
    # 3 epochs of 20 windows in steps of 2 x 4, or in steps of 2 ranks x 2 x 4.
    config = FinetuneConfig(epochs=3.0, batch_size=4, grad_accumulation=2)
    assert config.steps is None
    assert config.with_steps(20).steps == 8
    assert config.with_steps(20).warmup_steps == 5
    two_ranks = config.with_steps(20, world_size=2)
    assert (two_ranks.steps, two_ranks.warmup_steps) == (4, 4)
    assert config.with_steps(1).steps == 1  # one step at least
    assert replace(config, steps=6).with_steps(20).steps == 6


def test_no_run_has_more_than_ten_million_steps() -> None:
    assert FinetuneConfig(epochs=4e7).with_steps(1).steps == 10_000_000
    for epochs in (4.1e7, 1e300, 1e308):
        with pytest.raises(UserError, match="epochs are more than 10,000,000 steps"):
            FinetuneConfig(epochs=epochs).with_steps(1000)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_preset_survives_a_round_trip(name: str) -> None:
    preset = presets.PRESETS[name]
    model, train = asdict(preset.model), asdict(preset.train)
    assert from_dict(config.GPTConfig, model) == preset.model
    assert from_dict(config.TrainConfig, train) == preset.train


def test_presets_are_the_ones_promised() -> None:
    gpt2 = ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
    assert set(presets.PRESETS) == {"tiny", "story", "pocket", "seed", *gpt2}
    for name in gpt2:
        assert presets.PRESETS[name].model.head_dim == 64


def test_unknown_setting_is_named() -> None:
    values = asdict(GPTConfig()) | {"n_embd": 5, "block_size": 3}
    with pytest.raises(UserError, match="unknown GPTConfig settings: block_size, n_e"):
        from_dict(GPTConfig, values)


def test_config_loads_without_torch() -> None:
    code = "import sys, tinygpt.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
