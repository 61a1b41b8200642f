"""The settings of learning from a reward; and which kinds of runs there are.

Loads no torch, like `config`. What it leaves out: anything that acts.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tinygpt.config import FinetuneConfig, TrainConfig
from tinygpt.errors import require


@dataclass(frozen=True)
class RewardConfig(TrainConfig):
    """One run that learns from a reward. The defaults suit pocket-chat."""

    model: str = "pocket-chat"
    """The model to start from, which also is the one it should stay near: pocket-chat,
    a run folder, or a folder in GPT-2's format."""
    data: str = "shop-chats"
    """shop-chats, or a .jsonl file of chats: the prompts come from its users."""
    tokenizer: Literal[""] = field(default="", init=False)
    """Always the model's own, so there is nothing to set."""
    checks: tuple[str, ...] = ("ends", "number", "asks", "invents", "facts")
    """What an answer must do, all of it, to be worth 1 and not 0: end by itself, repeat
    the order number, ask for a missing one, invent none, keep to the shop's facts."""
    samples: int = 8
    """Answers to each prompt, which are compared with each other."""
    batch_size: int = 4
    """Prompts per step (per process, and per accumulation round)."""
    max_new_tokens: int = 64
    """Most tokens of an answer; one that has not ended by then is cut off."""
    temperature: float = 1.0
    """Of the sampling, and so of the policy that learns."""
    kl_weight: float = 0.02
    """How much the distance to the model before costs; beta in the paper."""
    steps: int | None = 100
    """Optimizer steps; each draws new answers."""
    lr: float = 3e-5
    """AdamW's learning rate; with Muon, that of biases, gains and positions."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls after the warm-up."""
    grad_clip: float = 1.0
    """Scale gradients down to this total length; 0 leaves them alone."""
    eval_interval: int = 20
    """Steps between two evaluations."""
    eval_windows: int = 128
    """Prompts of the validation part in an evaluation, one answer to each."""
    last_windows: int | None = 128
    """Prompts in the last evaluation; all of the validation part if not given. The same
    prompts as before, and not others, so that the best weights are not best by luck."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.samples > 1, f"samples must be at least 2, not {self.samples}")
        require(self.samples <= 256, f"samples must be at most 256, not {self.samples}")
        for name in ("max_new_tokens", "temperature"):
            value = getattr(self, name)
            require(value > 0, f"{name} must be more than 0, not {value}")
        require(
            self.kl_weight >= 0, f"kl_weight must be at least 0, not {self.kl_weight}"
        )
        require(bool(self.checks), "checks must name a check or more")
        require(
            self.sharding == "none",
            "sharding full keeps no whole model to draw answers from: leave it out",
        )


RUN_KINDS = {"train": TrainConfig, "finetune": FinetuneConfig, "reward": RewardConfig}


def kind_of(config: TrainConfig) -> str:
    """The kind of run that has such settings: also the command that makes it.

    >>> kind_of(RewardConfig())
    'reward'
    """
    kinds = reversed(RUN_KINDS.items())  # the first is the base of the others
    return next(name for name, kind in kinds if isinstance(config, kind))


def require_kind(path: Path, config: TrainConfig, kind: str) -> None:
    """Check that the run in `path`, which has these settings, is of this kind.

    Raises:
        UserError: it is not.
    """
    found = kind_of(config)
    require(
        found == kind,
        f"{path} is a run of `tinygpt {found}`: continue it with `tinygpt {found} "
        f"--resume --name {path.name}`",
    )
