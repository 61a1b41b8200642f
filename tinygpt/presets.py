"""The presets: named models, each with the run that trains it.

They are apart from `config` so that the settings, and what they mean, can be read in
one sitting. What it leaves out: what a setting means (see `config`).
"""

from dataclasses import dataclass, replace

from tinygpt.config import GPTConfig, TrainConfig


@dataclass(frozen=True)
class Preset:
    """A model and the run that trains it."""

    model: GPTConfig
    train: TrainConfig


def _gpt2(n_layers: int, d_model: int, n_heads: int) -> Preset:
    """GPT-2 (Radford et al., 2019, table 2), trained as GPT-3's small model was."""
    return Preset(
        GPTConfig(
            vocab_size=50257,
            context_length=1024,
            d_model=d_model,
            n_heads=n_heads,
            n_layers=n_layers,
            dropout=0.1,
        ),
        TrainConfig(
            tokenizer="gpt2",
            batch_size=4,
            grad_accumulation=8,
            lr=6e-4,
            weight_decay=0.1,
            warmup_steps=30,
            final_lr_fraction=0.1,
            grad_clip=1.0,
        ),
    )


_WITH_CARE = TrainConfig(  # what the models of GPT-2's shape that ship share
    tokenizer="course-4k",
    optimizer="muon",
    lr=2e-3,
    embedding_lr=0.012,
    beta1=0.8,
    warmup_steps=20,
    schedule="linear",
    final_lr_fraction=0.1,
    average_fraction=0.2,
)

PRESETS = {
    # A modern small model and the recipe that trained it fastest on two CPU cores.
    "tiny": Preset(
        GPTConfig(
            context_length=64,
            d_model=128,
            n_heads=4,
            n_layers=3,
            positions="rotary",
            norm="rmsnorm",
            activation="relu2",
            bias=False,
            qkv_bias=False,
            qk_norm=True,
            tie_head=False,
            logit_softcap=15.0,
            embedding_norm=True,
            init="zero",
        ),
        TrainConfig(
            steps=180,
            optimizer="muon",
            lr=0.01,
            embedding_lr=0.02,
            head_lr=0.015,
            muon_lr=0.03,
            muon_momentum=0.8,
            muon_steps=3,
            beta1=0.6,
            beta2=0.98,
            schedule="linear",
            eval_interval=45,
            eval_windows=16,
            last_windows=180,  # all of the handbook
        ),
    ),
    # GPT-2's shape, small enough to look into: the model of chapters 01 to 07.
    "story": Preset(
        GPTConfig(context_length=128, d_model=128, n_heads=4, n_layers=4),
        replace(
            _WITH_CARE,
            data="stories",
            steps=2500,
            weight_decay=0.5,
            eval_interval=250,
            eval_windows=100,
        ),
    ),
    # GPT-2's shape at pocket size. The shorter text is read twice as often.
    "pocket": Preset(
        GPTConfig(context_length=128, d_model=192, n_heads=6, n_layers=6),
        replace(
            _WITH_CARE,
            data="stories,handbook,handbook",
            steps=2300,
            weight_decay=0.6,
            eval_interval=150,
            eval_windows=200,
        ),
    ),
    # The 240-line demo that the course grew out of, without its dead rows.
    "seed": Preset(
        GPTConfig(
            vocab_size=100277,
            context_length=16,
            d_model=64,
            n_heads=4,
            n_layers=8,
            dropout=0.1,
            positions="sinusoidal",
            activation="relu",
            qkv_bias=False,
            head_bias=True,
            tie_head=False,
        ),
        TrainConfig(
            tokenizer="cl100k_base",
            steps=5000,
            batch_size=4,
            lr=1e-3,
            beta2=0.999,
            weight_decay=0.01,
            schedule="constant",
            eval_interval=20,
        ),
    ),
    "gpt2": _gpt2(n_layers=12, d_model=768, n_heads=12),
    "gpt2-medium": _gpt2(n_layers=24, d_model=1024, n_heads=16),
    "gpt2-large": _gpt2(n_layers=36, d_model=1280, n_heads=20),
    "gpt2-xl": _gpt2(n_layers=48, d_model=1600, n_heads=25),
}
