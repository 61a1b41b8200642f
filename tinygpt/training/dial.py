"""The dial `--minutes`: measure this machine, then plan (see `plan`).

What it leaves out: the plan itself, and training.
"""

import math
from collections.abc import Collection
from dataclasses import replace

import torch
from torch import nn

from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.model.gpt import GPT
from tinygpt.runtime.distributed import World
from tinygpt.text.dataset import Batches, require_long_enough
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.ngrams import kneser_ney
from tinygpt.training.plan import (
    Plan,
    expected_bits,
    flops_per_token,
    ladder,
    plan,
)
from tinygpt.training.text_data import MOST_KNOWN, TextData
from tinygpt.training.trainer import Trainer

MEASURED = 1.5  # seconds of training that tell how fast this machine is
COUNTED = 100_000  # tokens
FEWEST_KNOWN = 20_000  # tokens; of 3,500 the plan came out a ninth worse than expected
FEWEST_READ = 300_000  # tokens, or the model is still learning what occurs at all
LARGEST_KNOWN = 192  # d_model
# Settings that do not change what may be expected.
INDIFFERENT = {
    *("data", "tokenizer", "minutes", "seed", "device", "dtype", "compile"),
    *("eval_interval", "eval_windows", "last_windows", "checkpoint_interval"),
}


def plan_for(
    model: GPTConfig,
    train: TrainConfig,
    text: TextData,
    given: Collection[str],
    world: World | None = None,
) -> Plan:
    """The plan for a text and `train.minutes`, on this machine; the text's windows fit.

    Args:
        model: settings that the plan does not choose.
        train: likewise.
        text: the text; its `context_length` becomes that of the plan.
        given: names of settings that are kept as they are.
        world: this process among the others; all get the same plan.

    Raises:
        UserError: a part of the text is shorter than a window.
    """
    speed = measure_speed(model, train, text, world)
    made = plan(
        text.n_tokens,
        text.tokenizer.vocab_size,
        train.minutes or 1.0,
        speed,
        model,
        train,
        given,
    )
    text.context_length = made.model.context_length
    require_long_enough(text.n_tokens, len(text.val), text.context_length)
    tried = FEWEST_KNOWN <= text.n_tokens <= MOST_KNOWN
    tried = tried and made.epochs * made.tokens >= FEWEST_READ
    tried = tried and made.model.d_model <= LARGEST_KNOWN
    if not tried or set(given) - INDIFFERENT:
        return made  # nobody knows what to expect
    return replace(made, expected=expected_bits(bits_by_counting(text), made))


def bits_by_counting(text: TextData) -> float:
    """Bits per byte that counting sequences of tokens reaches on the validation split.

    It is measured on the first `COUNTED` tokens; like everywhere, special tokens are
    left out, since they stand for no byte.
    """
    val = text.val[:COUNTED]
    nats = kneser_ney(text.known.numpy(), val.numpy(), text.tokenizer.vocab_size)
    lengths = torch.tensor(text.tokenizer.byte_lengths)[val].numpy()
    return float(nats[lengths > 0].sum() / math.log(2) / max(1, lengths.sum()))


def measure_speed(
    model: GPTConfig, train: TrainConfig, text: TextData, world: World | None = None
) -> float:
    """Floating-point operations per second in real training steps of a small model.

    The model is the second of the ladder; it trains for `MEASURED` seconds on the text
    and is thrown away.

    Raises:
        UserError: the device is not there, or the text is shorter than a window.
    """
    small = ladder(model, text.tokenizer.vocab_size, ("context_length",))[1]
    config = replace(train, eval_interval=1_000_000, patience=None, warmup_steps=0)
    batches = Batches(text.train, small.context_length, config.batch_size, config.seed)

    def evaluate(loss: nn.Module, whole: bool) -> Evaluation:
        return Evaluation(1.0, 1, 1.0, 1)  # nobody looks at it

    def tokens_per_second(config: TrainConfig) -> float:
        torch.manual_seed(config.seed)
        *_, last = Trainer(GPT(small), batches, evaluate, config, world=world).run()
        return last.tokens_per_second

    found = tokens_per_second(replace(config, minutes=MEASURED / 60))
    if not found:  # a machine so slow that the time was over before the first step
        found = tokens_per_second(replace(config, minutes=None, steps=1))
    world = world or World()
    return world.broadcast(found) * flops_per_token(small)
