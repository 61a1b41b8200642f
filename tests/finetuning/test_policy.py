"""policy: each function equals a plain twin; REINFORCE's gradient is the true one."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torch.testing import assert_close

from tinygpt.config import IGNORE_INDEX, GPTConfig
from tinygpt.finetuning.policy import (
    clipped_policy_loss,
    dpo_loss,
    group_advantages,
    grpo_loss,
    kl_estimate,
    masked_mean,
    reinforce_loss,
    token_entropy,
    token_log_probs,
)
from tinygpt.model.gpt import GPT

N, T, V = 4, 5, 7


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(3)


@pytest.fixture
def mask() -> Tensor:
    lengths = torch.tensor([5, 2, 1, 3])
    return torch.arange(T) < lengths[:, None]


def answers() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities now, when drawn, and before; advantages."""
    now, old, before = (torch.randn(N, T).log_softmax(-1) for _ in range(3))
    return now.requires_grad_(), old, before, torch.randn(N)


def test_a_masked_mean_leaves_out_what_is_masked(mask: Tensor) -> None:
    x = torch.randn(N, T).masked_fill(~mask, math.nan)
    rows = [[x[n, t] for t in range(T) if mask[n, t]] for n in range(N)]
    flat = [value for row in rows for value in row]
    assert_close(masked_mean(x, mask), sum(flat) / torch.tensor(len(flat)))
    assert_close(
        masked_mean(x, mask, dim=1), torch.stack([sum(r) / len(r) for r in rows])
    )
    assert masked_mean(x, torch.zeros_like(mask)) == 0
    assert masked_mean(x, torch.zeros_like(mask), dim=0).tolist() == [0] * T


def test_log_probs_and_entropy_equal_those_of_torchs_distribution() -> None:
    logits, tokens = torch.randn(N, T, V), torch.randint(V, (N, T))
    twin = Categorical(logits=logits)
    assert_close(token_log_probs(logits, tokens), twin.log_prob(tokens))
    assert_close(token_entropy(logits), twin.entropy())
    tokens[0, 0] = IGNORE_INDEX
    assert token_log_probs(logits, tokens)[0, 0] == 0
    assert_close(token_entropy(torch.zeros(1, V)), torch.tensor([math.log(V)]))


def test_the_estimate_is_the_kl_divergence_on_average() -> None:
    policy, reference = (Categorical(logits=torch.randn(V)) for _ in range(2))
    every = torch.arange(V)
    estimate = kl_estimate(policy.log_prob(every), reference.log_prob(every))
    assert (estimate >= 0).all()
    assert_close((policy.probs * estimate).sum(), kl_divergence(policy, reference))
    assert (
        kl_estimate(policy.log_prob(every), policy.log_prob(every)).tolist() == [0] * V
    )
    tiny = torch.tensor([1e-4])
    assert_close(kl_estimate(-tiny, torch.zeros(1)), tiny**2 / 2, rtol=1e-3, atol=0)


def test_advantages_are_normalised_in_each_group() -> None:
    rewards = torch.rand(6, 4)
    for row, advantages in zip(rewards, group_advantages(rewards, 0.0), strict=True):
        assert_close(advantages, (row - row.mean()) / row.std())
    assert group_advantages(torch.ones(2, 3)).tolist() == [[0] * 3] * 2
    assert group_advantages(torch.ones(2, 1)).tolist() == [[0], [0]]


def test_an_answer_that_nobody_judged_changes_nothing() -> None:
    known = torch.tensor([[1.0, 0.0, 0.5]])
    with_nan = torch.tensor([[1.0, math.nan, 0.0, 0.5]])
    found = group_advantages(with_nan)
    assert found[0, 1] == 0
    assert_close(found[:, [0, 2, 3]], group_advantages(known))
    assert group_advantages(torch.full((1, 3), math.nan)).tolist() == [[0] * 3]


def test_clipped_loss_token_by_token() -> None:
    now, old, _, advantages = answers()
    found, now = clipped_policy_loss(now, old, advantages, clip=0.1), now.detach()
    for n, t in itertools.product(range(N), range(T)):
        ratio, a = math.exp(now[n, t] - old[n, t]), advantages[n].item()
        wanted = min(ratio * a, min(max(ratio, 0.9), 1.1) * a)
        assert found[n, t].item() == pytest.approx(-wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("shift", "advantage", "moves"),
    [(0.5, 1.0, False), (-0.5, 1.0, True), (0.5, -1.0, True), (-0.5, -1.0, False)],
)
def test_a_ratio_that_has_moved_far_enough_pushes_no_further(
    shift: float, advantage: float, moves: bool
) -> None:
    now = torch.tensor([[shift]], requires_grad=True)
    loss = clipped_policy_loss(now, torch.zeros(1, 1), torch.tensor([advantage]))
    loss.sum().backward()
    assert now.grad is not None
    assert bool(now.grad.item() != 0) == moves


def test_grpo_is_the_formula_of_the_paper(mask: Tensor) -> None:
    now, old, before, advantages = answers()
    found = grpo_loss(now, old, before, advantages, mask, kl_weight=0.3)
    now, total = now.detach(), 0.0
    for n in range(N):
        length, part = int(mask[n].sum()), 0.0
        for t in range(length):
            ratio, a = math.exp(now[n, t] - old[n, t]), advantages[n].item()
            gain = min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
            other = math.exp(before[n, t] - now[n, t])
            part += gain - 0.3 * (other - math.log(other) - 1)
        total += part / length / N
    assert found.item() == pytest.approx(-total, rel=1e-5)


def test_grpo_in_its_first_step_is_reinforce() -> None:
    now, _, before, advantages = answers()
    everything = torch.ones(N, T, dtype=torch.bool)
    args = now.detach(), before, advantages, everything
    (ours,) = torch.autograd.grad(grpo_loss(now, *args, kl_weight=0.0), now)
    (theirs,) = torch.autograd.grad(reinforce_loss(now.mean(1), advantages), now)
    assert_close(ours, theirs)


def test_dpo_pair_by_pair() -> None:
    better, worse, better_before, worse_before = -torch.rand(4, N) * 20
    wanted = 0.0
    for n in range(N):
        gained = (better[n] - better_before[n]) - (worse[n] - worse_before[n])
        wanted -= math.log(1 / (1 + math.exp(-0.2 * gained))) / N
    found = dpo_loss(better, worse, better_before, worse_before, beta=0.2)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    same = dpo_loss(better, worse, better, worse)
    assert same.item() == pytest.approx(math.log(2))


def gradient(model: nn.Module, loss: Tensor) -> Tensor:
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def test_reinforce_has_the_gradient_of_the_expected_reward() -> None:
    """Every answer of two tokens is written out, so the expectation is exact."""
    v, length = 3, 2
    config = GPTConfig(vocab_size=v, context_length=4, d_model=4, n_heads=1, n_layers=1)
    model = GPT(config).double()
    prompt = torch.tensor([2])
    every = torch.tensor(list(itertools.product(range(v), repeat=length)))  # [9, 2]
    ids = torch.cat([prompt.expand(len(every), 1), every], 1)
    rewards = torch.rand(len(every), dtype=torch.double)

    def log_probs() -> Tensor:
        logits = model(ids[:, :-1])
        return logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).sum((1, 2))

    def drawn(baseline: float) -> Tensor:
        """REINFORCE's mean over draws, each answer as often as the policy draws it."""
        now = log_probs()
        losses = [
            p.detach() * reinforce_loss(now[[i]], rewards[[i]], baseline)
            for i, p in enumerate(now.exp())
        ]
        return gradient(model, torch.stack(losses).sum())

    assert_close(log_probs().exp().sum(), torch.ones((), dtype=torch.double))
    expected_reward = (log_probs().exp() * rewards).sum()
    exact = -gradient(model, expected_reward)
    assert exact.norm() > 1e-3
    assert_close(drawn(0.0), exact, rtol=1e-9, atol=1e-12)
    assert_close(drawn(0.7), exact, rtol=1e-9, atol=1e-12)  # any baseline
    assert_close(
        token_log_probs(model(ids[:, :-1]), ids[:, 1:]).sum(1),
        log_probs().float(),
        rtol=1e-5,
        atol=1e-6,
    )
