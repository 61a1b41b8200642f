"""How large a model, trained how, for this much text and this many minutes.

`plan` is a pure function: it trains nothing and measures nothing. Its numbers come
from runs on five texts (see benchmarks/LOG.md). What it leaves out: measuring the
machine (see `dial`) and training (see `run`).
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from tinygpt.config import MAX_STEPS, GPTConfig, TrainConfig
from tinygpt.runtime.memory import n_parameters

# d_model, n_layers, n_heads, context_length; the smallest first.
LADDER = (
    (64, 2, 2, 64),
    (128, 3, 4, 128),
    (192, 4, 6, 128),
    (256, 5, 8, 128),
    (384, 6, 12, 128),
    (512, 8, 16, 256),
)
TOKENS_PER_STEP = 1024
TOKENS_PER_WEIGHT = 0.3  # a model needs to read so many, or a smaller one is better
MOST_EPOCHS = 16.0  # reading on teaches next to nothing (Muennighoff et al., 2023)
WORTH = 15.0  # new texts; what all further readings of one are worth at most
OFF = 0.07  # of the bits that are expected; no run was farther from them
LEAST_STEPS = 200  # which the shortest text gets, for its best weights are kept
LONG_RUN = 300  # steps, from which on it pays to average and to move more calmly
EVALUATED = 0.03  # of the time at most; a token evaluated costs a third of one trained
DECAY_PER_EPOCH = 0.12  # of the weights, for what is read again and again
# Times the tokens of a text: what it teaches must not fade within an epoch (Wang and
# Aitchison, 2024: the best decay falls as a text grows).
MOST_DECAY = 60_000.0


@dataclass(frozen=True)
class Plan:
    """A model and a training that suit a text, some minutes and a machine."""

    model: GPTConfig
    train: TrainConfig
    tokens: int
    """Tokens of the training part."""
    epochs: float
    """How often each of them will be read."""
    minutes: float
    """Minutes that there are."""
    used: float
    """Minutes that training will take, about; fewer where the text is short, and then
    `train` counts steps and not minutes."""
    expected: float | None = None
    """Bits per byte on the validation split that may be expected (`expected_bits`)."""

    def __str__(self) -> str:
        m, t, used = self.model, self.train, self.used
        short = used < self.minutes
        of = f" of {self.minutes:g}, for the text is short" if short else ""
        bits = ""
        if self.expected:
            low, high = self.expected * (1 - OFF), self.expected * (1 + OFF)
            bits = f"; expected {low:.2f} to {high:.2f} bits per byte"
        return (
            f"Plan: {n_parameters(m) / 1e6:.1f} M parameters, {self.epochs:.1f} epochs "
            f"of {self.tokens:,} tokens, about {used:.2g} minutes{of}{bits}\n"
            f"      d_model {m.d_model}, {m.n_layers} blocks, context length "
            f"{m.context_length}, weight decay {t.weight_decay:.2g}"
        )

    def record(self) -> dict[str, Any]:
        """The plan for JSON, without the settings, which stand beside it."""
        record = {"tokens": self.tokens, "epochs": self.epochs, "minutes": self.used}
        return record | ({"expected": self.expected} if self.expected else {})


def flops_per_token(model: GPTConfig) -> float:
    """Floating-point operations of a training step for each token.

    Two for each weight of a matrix product forward and four backward, the attention
    over half of the context included (Kaplan et al., 2020, "Scaling Laws for Neural
    Language Models", section 2.1).
    """
    attention = model.n_layers * model.context_length * model.d_model
    return 6.0 * (n_weights(model) + attention)


def n_weights(model: GPTConfig) -> int:
    """Weights that every token is multiplied with: those of the blocks and the head."""
    gates = 2 if model.activation == "swiglu" else 1
    block = model.d_model * (4 * model.d_model + (gates + 1) * model.ff_width)
    return model.n_layers * block + model.vocab_size * model.d_model


def plan(
    tokens: int,
    vocab_size: int,
    minutes: float,
    speed: float,
    model: GPTConfig,
    train: TrainConfig,
    given: Collection[str] = (),
) -> Plan:
    """The plan for a text and some minutes.

    The largest model of the ladder is taken that can read enough tokens in this time;
    no text is read more often than pays. The more often, the more the weights decay;
    the longer a text, the less.

    Args:
        tokens: of the training part.
        vocab_size: of the tokenizer.
        minutes: for the training.
        speed: floating-point operations per second that this machine reaches in a
            training step (see `flops_per_token`).
        model: settings that the plan does not choose.
        train: likewise.
        given: names of settings of both that are kept as they are.

    Raises:
        UserError: settings that are given do not suit each other.
    """
    rungs = ladder(model, vocab_size, given)
    most = _most(tokens)
    read = [min(most, 60 * minutes * speed / flops_per_token(m)) for m in rungs]
    enough = [
        m
        for m, n in zip(rungs, read, strict=True)
        if n >= TOKENS_PER_WEIGHT * n_weights(m)
    ]
    chosen = enough[-1] if enough else rungs[0]
    return _lay_out(chosen, train, tokens, minutes, speed, given)


def ladder(
    model: GPTConfig, vocab_size: int, given: Collection[str] = ()
) -> list[GPTConfig]:
    """The models to choose from, the smallest first, with the sizes that are given."""
    names = ("d_model", "n_layers", "n_heads", "context_length")
    kept = set(given)
    if kept & {"d_model", "n_heads"}:  # they must suit each other
        kept |= {"d_model", "n_heads"}
    rungs = []
    for sizes in LADDER:
        pairs = zip(names, sizes, strict=True)
        own: dict[str, Any] = {n: v for n, v in pairs if n not in kept}
        rungs.append(replace(model, vocab_size=vocab_size, **own))
    return rungs


def _lay_out(
    model: GPTConfig,
    train: TrainConfig,
    tokens: int,
    minutes: float,
    speed: float,
    given: Collection[str],
) -> Plan:
    """Length and regularisation of the training of `model`."""
    per_second = speed / flops_per_token(model)
    used = min(minutes, _most(tokens) / per_second / 60)
    epochs = 60 * used * per_second / tokens
    batch_size = max(1, TOKENS_PER_STEP // model.context_length)
    if "batch_size" in given:
        batch_size = train.batch_size
    per_step = batch_size * model.context_length * train.grad_accumulation
    steps = min(MAX_STEPS, max(1, round(epochs * tokens / per_step)))
    eval_interval = max(10, steps // 8)
    half = round(EVALUATED / 2 * 3 * steps * per_step / model.context_length)
    chosen: dict[str, Any] = {
        "batch_size": batch_size,
        "steps": steps,
        "minutes": minutes if used == minutes else None,
        "weight_decay": min(DECAY_PER_EPOCH * epochs, MOST_DECAY / tokens, 1.0),
        "eval_interval": eval_interval,
        "eval_windows": min(64, max(16, half // (steps // eval_interval + 1))),
        "last_windows": max(64, half),
    }
    if steps >= LONG_RUN:
        chosen |= {
            "muon_lr": 0.02,
            "muon_momentum": 0.95,
            "beta1": 0.8,
            "final_lr_fraction": 0.2,
            "average_fraction": 0.2,
        }
    own = {name: value for name, value in chosen.items() if name not in given}
    own["minutes"] = chosen["minutes"]
    return Plan(model, replace(train, **own), tokens, epochs, minutes, used)


def _most(tokens: int) -> float:
    """The most tokens to read of a text of `tokens` tokens."""
    return max(MOST_EPOCHS * tokens, float(LEAST_STEPS * TOKENS_PER_STEP))


def expected_bits(counted: float, made: Plan) -> float:
    """Bits per byte that a plan may be expected to reach on the validation split.

    0.885 of what counting reaches once a million tokens were read, and 4.4 % less for
    each doubling. Tokens read again count less and less, all readings together never
    more than `WORTH` new texts (Muennighoff et al., 2023, equation 5). Fitted to runs
    on five texts, which `OFF` holds all (see benchmarks/LOG.md).

    Args:
        counted: bits per byte that counting reaches there (see `ngrams.kneser_ney`).
        made: what is planned.
    """
    again = max(0.0, made.epochs - 1)
    fresh = min(1.0, made.epochs) + WORTH * (1 - math.exp(-again / WORTH))
    return counted * 0.885 * (fresh * made.tokens / 1e6) ** -0.065


def advice(tokens: int, epochs: float) -> str:
    """What would help the next run, in a sentence: more text, more minutes, or both."""
    if epochs > MOST_EPOCHS / 2:
        return (
            f"What would help next: more text. These {tokens:,} tokens were read "
            f"{epochs:.0f} times, and more minutes would hardly teach more."
        )
    if epochs < 2:
        return (
            f"What would help next: more minutes. The {tokens:,} tokens were read only "
            f"{epochs:.1f} times."
        )
    return (
        f"What would help next: more minutes and more text together; the {tokens:,} "
        f"tokens were read {epochs:.1f} times."
    )
