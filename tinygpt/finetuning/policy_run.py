"""A model learns from a reward for its own answers: GRPO, as a run like any other.

Each step takes prompts of the users in some conversations, draws a group of answers to
each (see `rollouts`), and makes those likelier that were better than their group (see
`policy`). The best weights are those with the most reward on prompts of the validation
part. What it leaves out: the training loop (see `training.trainer`); models of the
reward or of the value.
"""

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import require
from tinygpt.finetuning.chat import chat_prompt
from tinygpt.finetuning.chat_data import ChatData
from tinygpt.finetuning.policy import (
    kl_estimate,
    masked_mean,
    token_entropy,
    token_log_probs,
)
from tinygpt.finetuning.rewards import prompts
from tinygpt.finetuning.rollouts import (
    Drawn,
    PolicyLoss,
    Reward,
    Rollouts,
    answer_batch,
    draw_group,
    judged,
    reward_of,
)
from tinygpt.finetuning.run import absolute, load_model, set_dropout
from tinygpt.model.gpt import GPT
from tinygpt.reward_config import RewardConfig
from tinygpt.runtime.distributed import World
from tinygpt.runtime.memory import require_memory
from tinygpt.text.corpora import holds_chats
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.checkpoint import BASE, RunFolder
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.run import Run, require_same, restarted

KEPT = (  # settings that a resumed run cannot change
    "model", "data", "checks", "samples", "batch_size", "max_new_tokens",
    "temperature", "optimizer",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RewardEvaluation(Evaluation):
    """What a policy's own answers are worth, beside its loss on the real ones."""

    reward: float
    """Mean over answers, one to each prompt."""
    answer_tokens: float
    """Mean length of an answer, the end mark included."""
    entropy: float
    """Mean over their tokens, in nats (see `policy.token_entropy`)."""
    kl: float
    """Mean over their tokens, in nats: how far from the model before."""

    @property
    def selection_loss(self) -> float:
        """1 - reward, the lower the better."""
        return 1 - self.reward

    def __str__(self) -> str:
        return (
            f"Reward: {self.reward:.3f} | {self.answer_tokens:.1f} tokens | "
            f"entropy {self.entropy:.3f} | KL {self.kl:.4f} | "
            f"{self.bits_per_byte:.3f} bits per byte"
        )

    def record(self) -> dict[str, Any]:
        """The same as a part of a line of a log."""
        own = ("reward", "answer_tokens", "entropy", "kl")
        return super().record() | {name: getattr(self, name) for name in own}


class RewardData:
    """Prompts of conversations: to learn on, and to measure on while learning.

    Those that measure are of the validation part (see `chat_data.chat_parts`), with the
    numbers that they have. Prompts too long to leave room for an answer are left out.
    """

    def __init__(
        self, reference: GPT, tokenizer: Tokenizer, reward: Reward, config: RewardConfig
    ) -> None:
        """Read the conversations that `config` names.

        Raises:
            UserError: they cannot be read, or hold no prompt.
        """
        context = reference.config.context_length
        require(
            config.max_new_tokens < context,
            f"max_new_tokens {config.max_new_tokens} leaves no room for a prompt in "
            f"the model's context of {context} tokens",
        )
        require(
            holds_chats(config.data),
            f"{config.data} is not a file of chats, so nobody asks anything in it",
        )
        self.reference, self.tokenizer = reference, tokenizer
        self.reward, self.config = reward, config
        self.chats = ChatData(config.data, tokenizer, context)
        parts, room = self.chats.parts, context - config.max_new_tokens
        self.train, self.val = (
            [p for p in prompts(p) if len(chat_prompt(p.messages, tokenizer)) <= room]
            for p in (parts.train, parts.val)
        )
        require(
            bool(self.train and self.val),
            f"no prompt of {config.data} leaves room for {config.max_new_tokens} "
            f"tokens in the model's context of {context}: give a lower "
            "--max-new-tokens",
        )

    def __str__(self) -> str:
        return (
            f"{len(self.train):,} training and {len(self.val):,} validation prompts of "
            f"{self.config.data}"
        )

    @property
    def n_tokens(self) -> int:
        """Tokens of the conversations in the training part."""
        return self.chats.n_tokens

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, windows: int | None = None
    ) -> RewardEvaluation:
        """The model's answers to all validation prompts, or to `windows` of them.

        The prompts are spread evenly, and they and the seeds are the same every time.

        Args:
            model: a `PolicyLoss` around a GPT, or the GPT.
            windows: how many prompts.
        """
        policy: Any = model.model if isinstance(model, PolicyLoss) else model
        n, c = len(self.val), self.config
        whole = windows is None or windows >= n
        rows = range(n) if whole else torch.linspace(0, n - 1, windows).long().tolist()
        answers: list[Drawn] = []
        rewards: list[float] = []
        for i in rows:
            (answer,) = draw_group(
                policy,
                self.tokenizer,
                self.val[i].messages,
                1,
                c.seed + i,
                c.max_new_tokens,
                c.temperature,
            )
            answers.append(answer)
            rewards += judged(self.reward, self.val[i], [answer])
        sums = torch.zeros(2)
        for start in range(0, len(answers), 16):
            ids, targets = answer_batch(answers[start : start + 16], policy.device)
            own, logits = targets != IGNORE_INDEX, policy(ids) / c.temperature
            before = token_log_probs(self.reference(ids) / c.temperature, targets)
            kl = kl_estimate(token_log_probs(logits, targets), before)
            sums += torch.stack(
                [x[own].sum().cpu() for x in (token_entropy(logits), kl)]
            )
        n_tokens = sum(len(answer.ids) for answer in answers)
        known = torch.tensor(rewards)
        loss = self.chats.evaluate(policy, windows)
        return RewardEvaluation(
            **{**vars(loss), "whole_split": whole},
            reward=masked_mean(known, ~known.isnan()).item(),
            answer_tokens=n_tokens / len(answers),
            entropy=sums[0].item() / n_tokens,
            kl=sums[1].item() / n_tokens,
        )


def learn_from_rewards(
    path: Path,
    config: RewardConfig,
    *,
    base: tuple[GPT, Tokenizer] | None = None,
    reward: Reward | None = None,
    resume: bool = False,
    world: World | None = None,
) -> Run:
    """The run that lets a model learn from a reward, in the folder `path`.

    Args:
        path: the run's folder, which is made when the training begins.
        config: the settings.
        base: model and tokenizer to start from, in place of `config.model`; the model
            stays as it is.
        reward: what an answer is worth, in place of `reward_of(config.checks)`; a run
            that is resumed needs it again.
        resume: continue the run in `path`.
        world: this process among the others.

    Raises:
        UserError: model, data, checks, sizes or device cannot be used; there is a run
            in `path` and `resume` is False, or none and `resume` is True.
    """
    folder = RunFolder(path)
    config = replace(config, model=absolute(config.model))
    resume = resume or restarted(folder)
    if resume:
        folder.require_resumable()
        require_same(folder, None, config, KEPT)
    else:
        folder.require_new()
    own_base, keeps_base = folder.path / BASE, base is not None and not resume
    if keeps_base:
        config = replace(config, model=str(own_base.resolve()))
    reward = reward or reward_of(config.checks)
    source = own_base if resume and RunFolder(own_base).exists else config.model
    reference, tokenizer = base if base and not resume else load_model(source)
    reference = deepcopy(reference).eval().requires_grad_(False)
    ranks = world or World()
    device = ranks.pick_device(config.device)
    require_memory(reference.config, config, device, ranks.size)
    data = RewardData(reference.to(device), tokenizer, reward, config)
    torch.manual_seed(config.seed)
    model = deepcopy(reference).requires_grad_(True)
    set_dropout(model, 0.0)
    asked = Rollouts(model, reference, tokenizer, data.train, reward, config)
    run = Run(
        path,
        model,
        tokenizer,
        data,
        asked,
        config,
        resume=resume,
        world=world,
        loss=lambda model: PolicyLoss(model, config),
    )
    run.base = base if keeps_base else None
    return run
