"""The exercises of chapter 11, rewards: solutions, cases, and likely mistakes."""

import torch
from torch import Tensor

from tinygpt.course.exercises import Exercise, Mistake, instead


def push(p: Tensor, chosen: int, reward: float, baseline: float) -> Tensor:
    """The gradient of (reward - baseline) log p[chosen] with respect to the logits."""
    one_hot = torch.eye(len(p))[chosen]
    gain = reward - baseline
    return gain * (one_hot - p)


def advantages(rewards: Tensor) -> Tensor:
    """Rewards [P, G] less the mean of their row, over its standard deviation."""
    mean = rewards.mean(1, keepdim=True)
    std = rewards.std(1, keepdim=True)
    return (rewards - mean) / (std + 1e-4)


def clipped(ratio: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """The clipped loss of tokens, to be minimised."""
    held = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, held * advantage)


def dpo(gained_better: Tensor, gained_worse: Tensor, beta: float) -> Tensor:
    """The loss of pairs, from how much likelier each answer became."""
    margin = gained_better - gained_worse
    return -torch.nn.functional.logsigmoid(beta * margin).mean()


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
                instead(push, "gain = reward"),
                "the baseline is missing: take it from the reward first.",
            ),
            Mistake(
                instead(push, "return gain * (p - one_hot)"),
                "the sign is that of the loss; the push goes uphill, towards reward.",
            ),
            Mistake(
                instead(push, "return gain * one_hot * (1 - p)"),
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
                instead(advantages, "mean = rewards.mean()", "std = rewards.std()"),
                "mean and deviation are those of all rewards: take them for each row, "
                "the answers to one prompt.",
            ),
            Mistake(
                instead(
                    advantages,
                    "mean = rewards.mean(0, keepdim=True)",
                    "std = rewards.std(0, keepdim=True)",
                ),
                "you compare answers to different prompts: take dim=1.",
            ),
            Mistake(
                instead(advantages, "return rewards - mean"),
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
                instead(
                    clipped, "return torch.minimum(ratio * advantage, held * advantage)"
                ),
                "that is to be maximised; a loss has the other sign.",
            ),
            Mistake(
                instead(clipped, "return -held * advantage"),
                "you always clip: then a ratio that went the wrong way cannot come "
                "back. Take the smaller of the clipped and the unclipped product.",
            ),
            Mistake(
                instead(clipped, "return -ratio * advantage"),
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
                instead(dpo, "margin = gained_worse - gained_better"),
                "better and worse are swapped: the better answer should have gained "
                "more.",
            ),
            Mistake(
                instead(dpo, "return -torch.nn.functional.logsigmoid(margin).mean()"),
                "beta is missing: multiply the difference by it.",
            ),
            Mistake(
                instead(dpo, "return -(beta * margin).sigmoid().mean()"),
                "that is the probability itself; the loss is minus its logarithm.",
            ),
        ),
    ),
]
