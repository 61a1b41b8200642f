"""rollouts: groups of answers, their reward, and the batches and loss made of them."""

import math

import numpy as np
import pytest
import torch
from tiny_chat import CHAT, END, TOKENIZER, small_model
from torch.testing import assert_close

from tinygpt.config import IGNORE_INDEX
from tinygpt.errors import UserError
from tinygpt.finetuning.chat import chat_prompt
from tinygpt.finetuning.policy import grpo_loss, token_log_probs
from tinygpt.finetuning.rewards import Prompt
from tinygpt.finetuning.rollouts import (
    Drawn,
    PolicyLoss,
    Rollouts,
    answer_batch,
    draw_group,
    judged,
    reward_of,
    with_new_numbers,
)
from tinygpt.model.gpt import GPT
from tinygpt.reward_config import RewardConfig

ASKED = CHAT[:1]
PROMPT = Prompt(ASKED, "Good day!")
CONFIG = RewardConfig(samples=3, batch_size=2, max_new_tokens=9, seed=5)


@pytest.fixture(scope="module")
def model() -> GPT:
    torch.manual_seed(0)
    return small_model()


def short_is_good(prompt: Prompt, answer: str, ended: bool) -> float:
    return 1 / (1 + len(answer))


def test_a_group_is_drawn_answer_by_answer(model: GPT) -> None:
    group = draw_group(model, TOKENIZER, ASKED, 4, seed=7, max_new_tokens=12)
    alone = [
        draw_group(model, TOKENIZER, ASKED, 1, seed=7 + i, max_new_tokens=12)[0]
        for i in range(4)
    ]
    assert group == alone
    assert len({tuple(answer.ids) for answer in group}) > 1
    for answer in group:
        assert answer.prompt == chat_prompt(ASKED, TOKENIZER)
        assert len(answer.ids) <= 12


def test_an_answer_ends_at_the_end_mark_or_at_the_limit(model: GPT) -> None:
    eager = small_model()
    with torch.no_grad():  # the same token is likeliest everywhere: the end
        eager.norm.weight.zero_()
        eager.norm.bias.copy_(eager.token_embedding.weight[END] * 1e4)
    for answer in draw_group(eager, TOKENIZER, ASKED, 2, seed=1):
        assert (answer.ids, answer.text, answer.ended) == ([END], "", True)
    cut = draw_group(model, TOKENIZER, ASKED, 8, seed=1, max_new_tokens=1)
    assert [a.ended for a in cut] == [a.ids == [END] for a in cut]


def test_a_batch_holds_every_answer_after_its_prompt() -> None:
    answers = [Drawn([1, 2, 3], [4, END], "x", True), Drawn([5], [6], "y", False)]
    ids, targets = answer_batch(answers)
    off = IGNORE_INDEX
    assert ids.tolist() == [[1, 2, 3, 4], [5, 0, 0, 0]]
    assert targets.tolist() == [[off, off, 4, END], [6, off, off, off]]


def test_padding_changes_no_log_probability(model: GPT) -> None:
    answers = draw_group(model, TOKENIZER, ASKED, 3, seed=2, max_new_tokens=9)
    answers.append(Drawn([9, 8, 7, 6, 5] * 4, [3, 1], "", False))
    ids, targets = answer_batch(answers)
    together = token_log_probs(model(ids), targets)
    for row, answer in enumerate(answers):
        own_ids, own_targets = answer_batch([answer])
        alone = token_log_probs(model(own_ids), own_targets)
        assert_close(together[row, : alone.size(1)], alone[0], atol=1e-5, rtol=1e-5)
        assert (together[row, alone.size(1) :] == 0).all()


def test_a_reward_needs_every_check_that_applies() -> None:
    asked = [{"role": "user", "content": "Where is order 12345?"}]
    prompt = Prompt(asked, "I am flagging 12345 for the help desk.")
    good = "I am flagging 12345 for the help desk."
    both = reward_of(["ends", "number"])
    assert both(prompt, good, True) == 1
    assert both(prompt, good, False) == 0
    assert both(prompt, good.replace("5", "6"), True) == 0
    assert reward_of(["asks"])(prompt, good, True) is None  # there is a number
    with pytest.raises(UserError, match="no check 'kind': choose of ends, number"):
        reward_of(["kind"])


def test_rewards_out_of_range_are_refused() -> None:
    answers = [Drawn([1], [2], "x", True)]
    assert judged(lambda *_: 0.5, PROMPT, answers) == [0.5]
    assert math.isnan(judged(lambda *_: None, PROMPT, answers)[0])
    with pytest.raises(UserError, match=r"from 0 to 1, or None, not 1\.5"):
        judged(lambda *_: 1.5, PROMPT, answers)


def test_numbers_are_renewed_in_prompt_and_reference() -> None:
    asked = [{"role": "user", "content": "Where is 12345?"}]
    new = with_new_numbers(Prompt(asked, "I flag 12345."), np.random.default_rng(1))
    number = new.messages[0]["content"][9:14]
    assert number != "12345"
    assert new.reference == f"I flag {number}."


def test_rollouts_are_a_function_of_step_and_weights(model: GPT) -> None:
    asked = [PROMPT, Prompt(CHAT[:3], "See you.")]
    rollouts = Rollouts(model, model, TOKENIZER, asked, short_is_good, CONFIG)
    first, again, other = rollouts.at(0), rollouts.at(0), rollouts.at(1)
    for one, two in zip(first, again, strict=True):
        assert torch.equal(one, two)
    assert first[0].shape != other[0].shape or not torch.equal(first[0], other[0])
    ids, targets, advantages, reference = first
    assert len(ids) == CONFIG.samples * CONFIG.batch_size
    assert_close(advantages.view(2, 3).sum(1), torch.zeros(2), atol=1e-5, rtol=0)
    assert_close(reference, token_log_probs(model(ids), targets))
    ranks = [rollouts.at(0, rank, 2)[0] for rank in (0, 1)]
    assert torch.equal(ranks[0], first[0])
    assert torch.equal(ranks[1], other[0])


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_loss_is_that_of_the_paper_up_to_its_mean(
    model: GPT, temperature: float
) -> None:
    """With answers of one length both means are the same."""
    torch.manual_seed(4)
    rows = torch.randint(1, 270, (4, 8)).tolist()
    answers = [Drawn(row[:3], row[3:], "", False) for row in rows]
    ids, targets = answer_batch(answers)
    own, advantages = targets != IGNORE_INDEX, torch.randn(4)
    now = token_log_probs(model(ids) / temperature, targets)
    before = torch.where(own, now.detach() + 0.1 * torch.randn(now.shape), 0.0)
    config = RewardConfig(temperature=temperature, kl_weight=0.5)
    loss = PolicyLoss(model, config)
    wanted = grpo_loss(now, now.detach(), before, advantages, own, kl_weight=0.5)
    assert_close(loss(ids, targets, advantages, before, reduction="mean"), wanted)
    total = loss(ids, targets, advantages, before)
    assert_close(total, wanted * own.sum())
    every = list(model.parameters())
    pairs = zip(
        torch.autograd.grad(total, every),
        torch.autograd.grad(wanted * own.sum(), every),
        strict=True,
    )
    for ours, theirs in pairs:
        assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
