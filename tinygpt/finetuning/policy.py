"""Learning from a reward, in small functions: the losses and what they are made of.

A policy is a model seen as something that acts: it writes an answer token by token, and
at the end somebody says how good the answer was. N answers are padded to T tokens each;
`mask` is True where a token is the answer's own. All log-probabilities are in nats.
What it leaves out: sampling answers and training on them (see `policy_run`), and what a
good answer is (see `rewards`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def masked_mean(
    x: Float[Tensor, "*N T"], mask: Bool[Tensor, "*N T"], dim: int | None = None
) -> Float[Tensor, "..."]:
    """The mean of `x` where `mask` is True; 0 where it is True nowhere.

    Args:
        x: any numbers; those that are masked out may be inf or nan.
        mask: which of them count.
        dim: the axis to average over; all of them if None.

    Returns:
        One number [], or the shape of `x` without the axis `dim`.

    >>> x = torch.tensor([[1.0, 3.0, 99.0]])
    >>> masked_mean(x, torch.tensor([[True, True, False]])).item()
    2.0
    """
    kept = x.where(mask, 0.0)
    total = kept.sum() if dim is None else kept.sum(dim)
    count = mask.sum() if dim is None else mask.sum(dim)
    return total / count.clamp_min(1)


def token_log_probs(
    logits: Float[Tensor, "*N T V"], tokens: Int[Tensor, "*N T"]
) -> Float[Tensor, "*N T"]:
    """The log-probability that `logits` give to each of `tokens`.

    `logits[..., t, :]` are the scores for `tokens[..., t]`: whoever calls has shifted
    them. Of an `IGNORE_INDEX` the log-probability is 0.
    """
    nats = F.cross_entropy(
        logits.flatten(0, -2).float(), tokens.flatten(), reduction="none"
    )
    return -nats.view(tokens.shape)


def token_entropy(logits: Float[Tensor, "*N T V"]) -> Float[Tensor, "*N T"]:
    """How undecided the policy is before each token, in nats: -sum p log p.

    From 0, where one token has all the probability, to log V, where all have the same.
    Source: Shannon (1948), section 6.
    """
    log_p = logits.float().log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def kl_estimate(
    log_probs: Float[Tensor, "*N"], reference: Float[Tensor, "*N"]
) -> Float[Tensor, "*N"]:
    """How far the policy has moved from `reference`, from the sampled tokens alone.

    With d = reference - log_probs it is exp(d) - d - 1: never negative, and over tokens
    that the policy draws its mean is the KL divergence from policy to reference.
    Source: Schulman (2020), "Approximating KL Divergence", estimator k3; Shao et al.
    (2024), equation 4.

    Args:
        log_probs: the policy's log-probability of each sampled token.
        reference: that of the model before.
    """
    d = reference - log_probs
    return torch.expm1(d) - d


def group_advantages(
    rewards: Float[Tensor, "P G"], epsilon: float = 1e-4
) -> Float[Tensor, "P G"]:
    """How much better each answer is than the others to the same prompt.

    Each row, the G answers to one of P prompts, loses its mean and is divided by its
    standard deviation (that of a sample, G - 1, as in TRL) plus `epsilon`. A group with
    one reward for all teaches nothing: its advantages are 0. An answer whose reward is
    nan, because nothing in it could be judged, counts for nothing and gets 0.
    Source: Shao et al. (2024), section 4.1.2.

    >>> group_advantages(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).round(decimals=2)
    tensor([[ 0.7100, -0.7100],
            [ 0.0000,  0.0000]])
    """
    known = ~rewards.isnan()
    from_mean = rewards - masked_mean(rewards, known, dim=1)[:, None]
    squares = from_mean.square().where(known, 0.0).sum(1)
    deviation = (squares / (known.sum(1) - 1).clamp_min(1)).sqrt()[:, None]
    return (from_mean / (deviation + epsilon)).where(known, 0.0)


def reinforce_loss(
    log_probs: Float[Tensor, " N"], rewards: Float[Tensor, " N"], baseline: float = 0.0
) -> Float[Tensor, ""]:
    """Minus the mean over answers of (reward - baseline) times log-probability.

    Its value means nothing, its gradient everything: on average over answers that the
    policy draws it is minus the gradient of the expected reward. A baseline that does
    not depend on the answer changes nothing in that average, but makes it less noisy.
    Source: Williams (1992), section 4, equation 4 and theorem 1.

    Args:
        log_probs: of whole answers, so the sum over the tokens of each.
        rewards: one for each answer.
        baseline: what is to be expected, such as the mean of earlier rewards.
    """
    return -((rewards - baseline) * log_probs).mean()


def clipped_policy_loss(
    log_probs: Float[Tensor, "N T"],
    old: Float[Tensor, "N T"],
    advantages: Float[Tensor, " N"],
    clip: float = 0.2,
) -> Float[Tensor, "N T"]:
    """PPO's loss of each token: the advantage times a ratio that is worth no more soon.

    The ratio is that of the token's probability now to its probability when it was
    drawn. Once it has moved in the advantage's favour by more than `clip`, the gradient
    is 0: the same answers may be used for several steps without running away.
    Source: Schulman et al. (2017), equation 7, here to be minimised.

    Args:
        log_probs: of each sampled token, with gradient.
        old: the same when the answers were drawn.
        advantages: one for each answer, shared by its tokens.
        clip: how far the ratio counts, as a distance from 1.
    """
    ratio = (log_probs - old).exp()
    shared = advantages[:, None]
    return -torch.minimum(ratio * shared, ratio.clamp(1 - clip, 1 + clip) * shared)


def grpo_loss(
    log_probs: Float[Tensor, "N T"],
    old: Float[Tensor, "N T"],
    reference: Float[Tensor, "N T"],
    advantages: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    clip: float = 0.2,
    kl_weight: float = 0.04,
) -> Float[Tensor, ""]:
    """The loss of group relative policy optimisation: clipped loss plus weighted KL.

    It is averaged over the tokens of each answer, then over the answers.
    Source: Shao et al. (2024), equation 3.

    Args:
        log_probs: of each sampled token, with gradient.
        old: the same when the answers were drawn.
        reference: of the same tokens in the model before.
        advantages: see `group_advantages`, flattened.
        mask: which tokens are the answer's own.
        clip: see `clipped_policy_loss`.
        kl_weight: how much the distance to the model before costs; beta in the paper.
    """
    terms = clipped_policy_loss(log_probs, old, advantages, clip)
    terms = terms + kl_weight * kl_estimate(log_probs, reference)
    return masked_mean(terms, mask, dim=1).mean()


def dpo_loss(
    chosen: Float[Tensor, " N"],
    rejected: Float[Tensor, " N"],
    chosen_reference: Float[Tensor, " N"],
    rejected_reference: Float[Tensor, " N"],
    beta: float = 0.1,
) -> Float[Tensor, ""]:
    """The loss of direct preference optimisation, from pairs and no reward at all.

    Minus the log of the probability that the better answer wins, if what counts is how
    much likelier the policy has made an answer than it was. At the start, where policy
    and reference are the same, it is log 2.
    Source: Rafailov et al. (2023), equation 7.

    Args:
        chosen: log-probability of the better answer of each pair, over all its tokens.
        rejected: that of the worse one.
        chosen_reference: that of the better one in the model before.
        rejected_reference: that of the worse one in the model before.
        beta: how dear it is to move away from the model before.
    """
    gained = (chosen - chosen_reference) - (rejected - rejected_reference)
    return -F.logsigmoid(beta * gained).mean()
