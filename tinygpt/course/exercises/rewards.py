"""The exercises of chapter 11, rewards: solutions, cases, and likely mistakes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake


def push(p: Tensor, chosen: int, reward: float, baseline: float) -> Tensor:
    """The gradient of (reward - baseline) log p[chosen] with respect to the logits."""
    one_hot = F.one_hot(torch.tensor(chosen), len(p)).float()
    return (reward - baseline) * (one_hot - p)


def _push_only_the_chosen(
    p: Tensor, chosen: int, reward: float, baseline: float
) -> Tensor:
    return push(p, chosen, reward, baseline).where(
        torch.arange(len(p)) == chosen, torch.zeros(())
    )


def advantages(rewards: Tensor) -> Tensor:
    """Rewards [P, G] less the mean of their row, over its standard deviation."""
    from_mean = rewards - rewards.mean(1, keepdim=True)
    return from_mean / (rewards.std(1, keepdim=True) + 1e-4)


def _advantages_over_all(rewards: Tensor) -> Tensor:
    return (rewards - rewards.mean()) / (rewards.std() + 1e-4)


def _advantages_over_columns(rewards: Tensor) -> Tensor:
    return advantages(rewards.T).T


def clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped loss of tokens, to be minimised."""
    held = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, held * advantage)


def dpo(gained_better: Tensor, gained_worse: Tensor, beta: float) -> Tensor:
    """The loss of pairs, from how much likelier each answer became."""
    return -F.logsigmoid(beta * (gained_better - gained_worse)).mean()


P = torch.tensor([0.5, 0.3, 0.2])
MORE_P = torch.tensor([0.1, 0.2, 0.3, 0.4])
REWARDS = torch.tensor(
    [[1.0, 0.0, 0.0, 0.5], [1.0, 1.0, 1.0, 0.0], [0.2, 0.4, 0.1, 0.0]]
)
RATIO = torch.tensor([0.5, 0.9, 1.0, 1.1, 1.5, 0.5, 0.9, 1.0, 1.1, 1.5])
ADVANTAGE = torch.tensor([1.0] * 5 + [-2.0] * 5)
BETTER = torch.tensor([1.0, -0.5, 2.0])
WORSE = torch.tensor([-1.0, 0.5, 1.5])

EXERCISES = [
    Exercise(
        name="rewards.push",
        solution=push,
        cases=((P, 1, 1.0, 0.4), (MORE_P, 3, 0.0, 0.5), (P, 0, 1.0, 0.0)),
        mistakes=(
            Mistake(
                lambda p, chosen, reward, baseline: push(p, chosen, reward, 0.0),
                "the baseline is missing: take it from the reward first.",
            ),
            Mistake(
                lambda p, chosen, reward, baseline: -push(p, chosen, reward, baseline),
                "the sign is that of the loss; the push goes uphill, towards reward.",
            ),
            Mistake(
                _push_only_the_chosen,
                "only the chosen answer moves here, but its probability rises at the "
                "cost of all others: subtract p everywhere.",
            ),
        ),
    ),
    Exercise(
        name="rewards.advantages",
        solution=advantages,
        cases=((REWARDS,), (REWARDS[:2],)),
        mistakes=(
            Mistake(
                _advantages_over_all,
                "mean and deviation are those of all rewards: take them for each row, "
                "the answers to one prompt.",
            ),
            Mistake(
                _advantages_over_columns,
                "you compare answers to different prompts: take dim=1.",
            ),
            Mistake(
                lambda rewards: rewards - rewards.mean(1, keepdim=True),
                "divide by the standard deviation of the row, plus 1e-4.",
            ),
        ),
    ),
    Exercise(
        name="rewards.clipped",
        solution=clipped,
        cases=((RATIO, ADVANTAGE, 0.2), (RATIO, -ADVANTAGE, 0.05)),
        mistakes=(
            Mistake(
                lambda ratio, advantage, clip: -clipped(ratio, advantage, clip),
                "that is to be maximised; a loss has the other sign.",
            ),
            Mistake(
                lambda ratio, advantage, clip: (
                    -ratio.clamp(1 - clip, 1 + clip) * advantage
                ),
                "you always clip: then a ratio that went the wrong way cannot come "
                "back. Take the smaller of the clipped and the unclipped product.",
            ),
            Mistake(
                lambda ratio, advantage, clip: -ratio * advantage,
                "nothing is clipped here: the ratio should stop counting at "
                "1 - clip and 1 + clip.",
            ),
        ),
    ),
    Exercise(
        name="rewards.dpo",
        solution=dpo,
        cases=((BETTER, WORSE, 0.1), (WORSE, BETTER, 1.0)),
        mistakes=(
            Mistake(
                lambda better, worse, beta: dpo(worse, better, beta),
                "better and worse are swapped: the better answer should have gained "
                "more.",
            ),
            Mistake(
                lambda better, worse, beta: dpo(better, worse, 1.0),
                "beta is missing: multiply the difference by it.",
            ),
            Mistake(
                lambda better, worse, beta: -(beta * (better - worse)).sigmoid().mean(),
                "that is the probability itself; the loss is minus its logarithm.",
            ),
        ),
    ),
]
