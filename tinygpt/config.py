"""Every number that somebody chose: the model's shape, training and fine-tuning.

The dataclasses check themselves when they are made and raise a UserError for a value
of another type or out of range. This module never imports torch, so that `tinygpt
--help` answers at once. What it leaves out: anything that acts.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from tinygpt.errors import check_types, require

IGNORE_INDEX = -100  # a target that does not count; torch's own default
MAX_STEPS = 10_000_000  # of a run; the longest published ones have a tenth of that


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. The defaults are GPT-2's habits at a small size."""

    vocab_size: int = 4096
    """How many tokens the model knows; the tokenizer decides."""
    context_length: int = 64
    """How many tokens the model sees at once."""
    d_model: int = 128
    """Numbers per token in the residual stream."""
    n_heads: int = 4
    """Attention heads; they share d_model between them."""
    n_layers: int = 3
    """Transformer blocks."""
    d_ff: int | None = None
    """Width of the feed-forward layer; 4 times d_model if not given."""
    dropout: float = 0.0
    """Share of the activations set to zero during training."""
    positions: Literal["learned", "sinusoidal", "rotary"] = "learned"
    """How positions are encoded."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Kind of normalisation; rmsnorm has nothing to learn here."""
    norm_placement: Literal["pre", "post"] = "pre"
    """Normalise what goes into a sub-layer, or the sum that comes out."""
    activation: Literal["relu", "gelu", "relu2", "swiglu"] = "gelu"
    """Activation function of the feed-forward layer."""
    bias: bool = True
    """Whether the linear layers of a block add a bias."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias (needs bias too)."""
    head_bias: bool = False
    """Whether the output head adds a bias."""
    qk_norm: bool = False
    """Normalise queries and keys before their dot products."""
    tie_head: bool = True
    """Use the token embedding's table as the output head."""
    logit_softcap: float = 0.0
    """Squash logits smoothly into plus or minus this; 0 leaves them alone."""
    embedding_norm: bool = False
    """Normalise the embeddings before the first block."""
    init: Literal["gpt2", "zero"] = "gpt2"
    """Start as GPT-2 does, or with every output projection at zero."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("vocab_size", "context_length", "d_model", "n_heads", "n_layers"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, not {value}")
        require(
            self.d_ff is None or self.d_ff >= 1, f"d_ff must be positive: {self.d_ff}"
        )
        require(
            self.d_model % self.n_heads == 0,
            f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}: "
            "choose sizes so that every head gets the same share",
        )
        require(
            self.positions != "sinusoidal" or self.d_model % 2 == 0,
            f"sinusoidal positions need an even d_model, not {self.d_model}",
        )
        require(
            self.positions != "rotary" or self.head_dim % 2 == 0,
            f"rotary positions need an even d_model / n_heads, not {self.head_dim}",
        )
        require(0 <= self.dropout < 1, f"dropout must be in [0, 1), not {self.dropout}")
        require(
            self.logit_softcap >= 0,
            f"logit_softcap must not be negative: {self.logit_softcap}",
        )
        require(
            not (self.tie_head and self.head_bias),
            "head_bias True needs tie_head False: a tied head has no bias of its own",
        )

    @property
    def head_dim(self) -> int:
        """Numbers per attention head."""
        return self.d_model // self.n_heads

    @property
    def ff_width(self) -> int:
        """`d_ff`, or 4 times d_model (Vaswani et al., 2017, section 3.3)."""
        return self.d_ff or 4 * self.d_model


@dataclass(frozen=True)
class TrainConfig:
    """One training run: what to read, how to step, when to evaluate."""

    data: str = "handbook"
    """handbook, stories or another text that `tinygpt data` lists, a text file, folder
    or glob, several of these with commas between them, or token files of `tinygpt data
    prepare`: a.tokens, a.tokens,b.tokens or a folder or glob of them. nanoGPT's
    train.bin needs --tokenizer."""
    tokenizer: str = "auto"
    """auto (learned from the training part of the text), handbook-4k, course-4k, gpt2,
    cl100k_base, o200k_base, or a .tiktoken file."""
    steps: int | None = 300
    """Optimizer steps."""
    minutes: float | None = None
    """Train for this much wall-clock time instead; warm-up and decay then take the same
    parts of the time as they would take of `steps`."""
    batch_size: int = 16
    """Windows per step (per process, and per accumulation round)."""
    grad_accumulation: int = 1
    """Rounds of forward and backward whose gradients are averaged into one step."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW for all, or Muon for the matrices of the blocks and AdamW for the rest."""
    lr: float = 1e-3
    """AdamW's learning rate; with Muon, that of biases, gains and positions."""
    embedding_lr: float | None = None
    """AdamW's learning rate for the token embeddings, if not lr."""
    head_lr: float | None = None
    """AdamW's learning rate for an untied output head, if not lr."""
    muon_lr: float = 0.02
    """Muon's learning rate."""
    muon_momentum: float = 0.95
    """Muon's momentum."""
    muon_steps: int = 5
    """Newton-Schulz steps that make Muon's step orthogonal."""
    beta1: float = 0.9
    """AdamW's memory of the gradient."""
    beta2: float = 0.95
    """AdamW's memory of the squared gradient."""
    weight_decay: float = 0.0
    """Decay of the matrices, per unit of learning rate; never of gains and biases."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from zero."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the learning rate falls after the warm-up."""
    decay_fraction: float = 1.0
    """The part of the run, at its end, over which the learning rate falls."""
    final_lr_fraction: float = 0.0
    """The learning rate at the end, as a share of its peak."""
    average_fraction: float = 0.0
    """Evaluate and keep an average of the weights over about this share of the steps so
    far; 0 keeps the weights themselves."""
    grad_clip: float = 0.0
    """Scale gradients down to this total length; 0 leaves them alone."""
    eval_interval: int = 50
    """Steps between two evaluations."""
    eval_windows: int = 64
    """Validation windows in an evaluation."""
    last_windows: int | None = None
    """Validation windows in the last evaluation; the whole split if not given."""
    checkpoint_interval: int = 50
    """Steps between two checkpoints of the whole state, to resume from."""
    patience: int | None = None
    """Stop after this many evaluations without a better validation loss."""
    seed: int = 1337
    """Seed of every random number."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the matrix products; auto takes bfloat16 where it is faster."""
    compile: bool = False
    """Compile the model with torch.compile first."""
    sharding: Literal["none", "full"] = "none"
    """full: each of several processes keeps only its shard of weights, gradients and
    optimizer state (torch's fully_shard), for models that outgrow one device."""

    def __post_init__(self) -> None:
        check_types(self)
        at_least = {
            0: "lr embedding_lr head_lr muon_lr muon_momentum beta1 beta2 weight_decay "
            "warmup_steps decay_fraction final_lr_fraction average_fraction grad_clip "
            "seed",
            1: "steps batch_size grad_accumulation eval_interval eval_windows "
            "last_windows checkpoint_interval patience muon_steps",
        }
        for least, names in at_least.items():
            for name in names.split():
                value = getattr(self, name)
                require(
                    value is None or value >= least,
                    f"{name} must be at least {least}, not {value}",
                )
        for name in ("decay_fraction", "final_lr_fraction", "average_fraction"):
            value = getattr(self, name)
            require(value <= 1, f"{name} is a share and at most 1, not {value}")
        for name in ("beta1", "beta2", "muon_momentum"):
            value = getattr(self, name)
            require(value < 1, f"{name} must be below 1, not {value}")
        require(
            self.minutes is None or self.minutes > 0,
            f"minutes must be more than 0, not {self.minutes}",
        )
        require(
            self.steps is not None or type(self) is not TrainConfig,
            "steps must be a whole number, not None",
        )
        require(
            self.steps is None or self.steps <= MAX_STEPS,
            f"steps must be at most {MAX_STEPS:,}, not {self.steps}",
        )
        require(
            self.steps is None or self.warmup_steps <= self.steps,
            f"warmup_steps {self.warmup_steps} is longer than the run of {self.steps} "
            "steps",
        )
        require(
            self.sharding == "none" or self.optimizer == "adamw",
            "sharding full cuts every matrix up, and muon needs whole ones: choose "
            "--optimizer adamw",
        )


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """One fine-tuning run. The defaults suit pocket-gpt2 and the shop's chats."""

    model: str = "pocket-gpt2"
    """pocket-gpt2, story, gpt2, gpt2-medium, gpt2-large, gpt2-xl, distilgpt2, a folder
    in GPT-2's format, or a run folder."""
    data: str = "shop-chats"
    """shop-chats, support-chats, a .jsonl file of chats, or any text."""
    renumber: bool = False
    """Give chats new order numbers in every epoch, so that they must be copied."""
    template: Literal["auto", "tokens", "text"] = "auto"
    """How a conversation says who speaks in a vocabulary without tokens for it: such
    tokens are added, or names ("User:") say it; auto: tokens, but with lora names."""
    tokenizer: Literal[""] = field(default="", init=False)
    """Always the model's own, so there is nothing to set."""
    scratch: bool = False
    """Start the same shape from random weights: what did pretraining contribute?"""
    steps: int | None = None
    """Optimizer steps; as many as `epochs` takes if not given."""
    epochs: float = 5.0
    """How often every conversation is seen."""
    batch_size: int = 4
    """Windows per step; a window holds as many conversations as fit."""
    window: int | None = None
    """Tokens per window; the model's context length if not given."""
    weight_decay: float = 0.01
    """Decay of the matrices, per unit of learning rate; never of gains and biases."""
    warmup_steps: int = 5
    """Steps over which the learning rate rises from zero."""
    grad_clip: float = 1.0
    """Scale gradients down to this total length; 0 leaves them alone."""
    dropout: float = 0.1
    """Share of the activations set to zero during training."""
    lora: bool = False
    """Train low-rank adapters only and keep the model as it is."""
    lora_targets: tuple[str, ...] = ("qkv",)
    """Layers that get adapters: qkv, or some of q, k and v, attention.output,
    feed_forward.input, feed_forward.output, head (with an embedding tied to it)."""
    lora_rank: int = 8
    """Rank of the adapters."""
    lora_alpha: float = 16.0
    """Adapters are scaled by lora_alpha / lora_rank."""
    lora_dropout: float = 0.0
    """Share of an adapter's inputs set to zero during training."""
    recompute: bool = False
    """Compute blocks again in the backward pass: less memory, more time."""
    eval_interval: int = 20
    """Steps between two evaluations."""
    patience: int | None = 3
    """Stop after this many evaluations without a better validation loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.lora_targets), "lora_targets must name a layer or more")
        require(self.epochs > 0, f"epochs must be more than 0, not {self.epochs}")
        for name in ("lora_rank", "lora_alpha", "window"):
            value = getattr(self, name)
            require(value is None or value > 0, f"{name} must be positive, not {value}")
        for name in ("dropout", "lora_dropout"):
            value = getattr(self, name)
            require(0 <= value < 1, f"{name} must be in [0, 1), not {value}")

    def with_steps(self, n_windows: int, world_size: int = 1) -> "FinetuneConfig":
        """The same with `steps` filled in: `epochs` times through `n_windows`.

        A run shorter than its warm-up warms up to its end.

        Raises:
            UserError: there would be more than `MAX_STEPS`.
        """
        per_step = self.batch_size * self.grad_accumulation * world_size
        wanted = self.steps or self.epochs * n_windows / per_step
        require(
            wanted <= MAX_STEPS,
            f"{self.epochs:g} epochs are more than {MAX_STEPS:,} steps: give fewer",
        )
        steps = max(1, round(wanted))
        return replace(self, steps=steps, warmup_steps=min(self.warmup_steps, steps))


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """A config of `kind` from what `dataclasses.asdict` gave.

    Raises:
        UserError: an unknown name stands in `values`, so another program wrote it.
    """
    unknown = set(values) - {setting.name for setting in fields(kind)}
    require(
        not unknown, f"unknown {kind.__name__} settings: {', '.join(sorted(unknown))}"
    )
    settable = {setting.name for setting in fields(kind) if setting.init}
    own = {name: v for name, v in values.items() if name in settable}
    return kind(**without_lists(own))


def without_lists(values: dict[str, Any]) -> dict[str, Any]:
    """The values with a tuple for every list: JSON has no tuples, configs no lists."""
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}


__all__ = [
    "IGNORE_INDEX",
    "FinetuneConfig",
    "GPTConfig",
    "TrainConfig",
    "asdict",
    "from_dict",
    "replace",
]
