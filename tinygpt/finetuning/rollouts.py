"""Answers that a policy draws, what they are worth, and the loss that learns from them.

`draw_group` draws a group of answers to one prompt, `reward_of` makes a reward of
checks, and `Rollouts` and `PolicyLoss` stand where batches of text and the loss on it
do in pretraining. The answers are new in every step, so each is used once: the ratio of
the clipped loss is 1 and nothing is clipped (Shao et al., 2024, section 4.2, update
once for each drawing, too). What it leaves out: several steps on the same answers; the
losses by themselves (see `policy`); the run (see `policy_run`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import require
from tinygpt.finetuning.chat import Message, chat_prompt, end_of_answer
from tinygpt.finetuning.chat_data import renumber
from tinygpt.finetuning.policy import (
    clipped_policy_loss,
    group_advantages,
    kl_estimate,
    masked_mean,
    token_log_probs,
)
from tinygpt.finetuning.rewards import Prompt, judge
from tinygpt.generation.generate import generate
from tinygpt.model.gpt import GPT
from tinygpt.reward_config import RewardConfig
from tinygpt.text.dataset import epoch_order
from tinygpt.text.tokenizer import Tokenizer

Reward = Callable[[Prompt, str, bool], float | None]
CHECK_NAMES = {  # a word for the command line, and the name in `rewards.CHECKS`
    "ends": "ends by itself",
    "number": "number right",
    "asks": "asks for a missing number",
    "invents": "invents no number",
    "facts": "keeps to the facts",
}


# --- Answers and their reward -----------------------------------------------------


class Drawn(NamedTuple):
    """What a model wrote after a prompt: ids with the end mark, if it came; text."""

    prompt: list[int]
    ids: list[int]
    text: str
    ended: bool


def reward_of(checks: Sequence[str]) -> Reward:
    """1.0 for an answer that passes all of these checks that apply to it, else 0.0.

    None if none of them applies.

    Args:
        checks: some of `CHECK_NAMES`.

    Raises:
        UserError: a name is none of those.
    """
    for name in checks:
        known = ", ".join(CHECK_NAMES)
        require(name in CHECK_NAMES, f"there is no check '{name}': choose of {known}")

    def reward(prompt: Prompt, answer: str, ended: bool) -> float | None:
        results = judge(prompt, answer, ended)
        found = [results[CHECK_NAMES[name]] for name in checks]
        return min((r for r in found if r is not None), default=None)

    return reward


def draw_group(
    model: GPT,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    samples: int,
    seed: int,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
) -> list[Drawn]:
    """A group of answers to one prompt; the prompt is read once for all of them.

    Args:
        model: the policy.
        tokenizer: its tokenizer.
        messages: the conversation so far.
        samples: answers in the group.
        seed: of the first; the others have `seed` + 1 and so on.
        max_new_tokens: an answer that has not ended by then is cut off.
        temperature: 1 draws as the model says, 0 takes what is likeliest.

    Raises:
        ValueError: the prompt is longer than the model's context.
    """
    prompt, end = chat_prompt(messages, tokenizer), end_of_answer(tokenizer)
    steps = list(
        generate(
            model,
            torch.tensor([prompt], device=model.device),
            max_new_tokens,
            temperature=temperature,
            seed=seed,
            stop_token=end,
            samples=samples,
        )
    )
    special, answers = set(tokenizer.special_tokens.values()), []
    for ids in torch.stack(steps, 1).tolist():
        ended = end in ids
        own = ids[: ids.index(end) + 1] if ended else ids
        text = tokenizer.decode([i for i in own if i not in special]).strip()
        answers.append(Drawn(prompt, own, text, ended))
    return answers


def answer_batch(
    answers: Sequence[Drawn], device: torch.device | str = "cpu"
) -> tuple[Int[Tensor, "N T"], Int[Tensor, "N T"]]:
    """Ids and targets of answers after their prompts, padded on the right.

    Targets are IGNORE_INDEX except where the next token is the answer's own. No mask is
    needed: what is padded comes after all that counts.
    """
    longest = max(len(a.prompt) + len(a.ids) for a in answers) - 1
    ids = torch.zeros(len(answers), longest, dtype=torch.long)
    targets = torch.full_like(ids, IGNORE_INDEX)
    for row, answer in enumerate(answers):
        tokens = torch.tensor(answer.prompt + answer.ids)
        ids[row, : len(tokens) - 1] = tokens[:-1]
        start = len(answer.prompt) - 1
        targets[row, start : len(tokens) - 1] = tokens[start + 1 :]
    return ids.to(device), targets.to(device)


# --- Batches and loss --------------------------------------------------------


class PolicyLoss(nn.Module):
    """GRPO's loss of sampled answers; stands where `NextTokenLoss` does in pretraining.

    The trainer divides the sum by the tokens of all answers, so a token of a long
    answer counts as much as one of a short answer (Yu et al., 2025, "DAPO", section
    3.3); in `policy.grpo_loss` it counts less.
    """

    def __init__(self, model: nn.Module, config: RewardConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self,
        ids: Int[Tensor, "N T"],
        targets: Int[Tensor, "N T"],
        advantages: Float[Tensor, " N"],
        reference: Float[Tensor, "N T"],
        reduction: str = "sum",
    ) -> Float[Tensor, ""]:
        """The sum, or the mean, over the answers' own tokens.

        Args:
            ids: prompts and answers (see `answer_batch`).
            targets: the answers' tokens.
            advantages: one for each answer.
            reference: log-probabilities of the targets in the model before.
            reduction: "sum" or "mean".
        """
        c, own = self.config, targets != IGNORE_INDEX
        now = token_log_probs(self.model(ids) / c.temperature, targets)
        terms = clipped_policy_loss(now, now.detach(), advantages)
        terms = terms + c.kl_weight * kl_estimate(now, reference)
        mean = masked_mean(terms, own)
        return mean if reduction == "mean" else mean * own.sum()


class Rollouts:
    """Batches of answers that the model draws when they are asked for.

    They depend on the step, the seed and the model's weights alone, so a resumed run
    draws the same.

    Args:
        model: the policy, as it is at the time of the call.
        reference: the model before.
        tokenizer: of both.
        asked: the prompts to draw from; each once in an epoch, with new order numbers.
        reward: what an answer is worth.
        config: how to sample.
    """

    def __init__(
        self,
        model: GPT,
        reference: GPT,
        tokenizer: Tokenizer,
        asked: Sequence[Prompt],
        reward: Reward,
        config: RewardConfig,
    ) -> None:
        self.model, self.reference, self.tokenizer = model, reference, tokenizer
        self.asked, self.reward, self.config = asked, reward, config

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The arguments of `PolicyLoss`, for the groups of this step."""
        c, first = self.config, (step * world_size + rank) * self.config.batch_size
        answers: list[Drawn] = []
        rewards: list[list[float]] = []
        for place in range(first, first + c.batch_size):
            prompt = self._prompt(place)
            group = draw_group(
                self.model,
                self.tokenizer,
                prompt.messages,
                c.samples,
                c.seed + place * c.samples,
                c.max_new_tokens,
                c.temperature,
            )
            answers += group
            rewards.append(judged(self.reward, prompt, group))
        ids, targets = answer_batch(answers, self.model.device)
        with torch.no_grad():
            logits = self.reference(ids) / c.temperature
        advantages = group_advantages(torch.tensor(rewards)).flatten()
        return ids, targets, advantages, token_log_probs(logits, targets)

    def _prompt(self, place: int) -> Prompt:
        """The prompt at a place in the endless series of epochs."""
        epoch, i = divmod(place, len(self.asked))
        order = epoch_order(len(self.asked), self.config.seed, epoch)
        rng = np.random.default_rng([self.config.seed, place])
        return with_new_numbers(self.asked[int(order[i])], rng)


def with_new_numbers(prompt: Prompt, rng: np.random.Generator) -> Prompt:
    """The prompt and its reference with other order numbers (see `renumber`)."""
    reference = {"role": "assistant", "content": prompt.reference}
    *messages, renewed = renumber([*prompt.messages, reference], rng)
    return Prompt(messages, renewed["content"])


def judged(reward: Reward, prompt: Prompt, answers: Sequence[Drawn]) -> list[float]:
    """The reward of each answer; nan where there is none.

    Raises:
        UserError: a reward is not between 0 and 1.
    """
    found = [reward(prompt, a.text, a.ended) for a in answers]
    for value in found:
        require(
            value is None or 0 <= value <= 1,
            f"a reward must be from 0 to 1, or None, not {value}",
        )
    return [float("nan") if value is None else float(value) for value in found]
