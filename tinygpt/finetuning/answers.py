"""How often a model answers rightly: answers drawn to many prompts, checked, counted.

Every message of a customer in the test conversations is one prompt, with the messages
before it as they stand there; the 60 questions of `shop` are more. What it leaves out:
the checks (see `rewards`), whole conversations in which the model hears its own words.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from tinygpt.finetuning.chat import Message, chat_prompt, cut_history, end_of_answer
from tinygpt.finetuning.chat_data import Chats, chat_parts, pack
from tinygpt.finetuning.rewards import CHECKS, judge, prompts
from tinygpt.finetuning.shop import Question, load_questions
from tinygpt.generation.generate import generate
from tinygpt.model.gpt import GPT
from tinygpt.text.corpora import load_chats
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.evaluation import Evaluation, evaluate

MOST_ROWS = 64  # texts continued together
QUESTIONS = "to the point"


class Answer(NamedTuple):
    """What the model said, and whether it ended by itself before the limit."""

    text: str
    ended: bool


@dataclass
class Rate:
    """How many answers passed a check, of those to which it applies."""

    right: int = 0
    of: int = 0

    def count(self, result: float | None) -> None:
        """Add one result of a check; None counts nowhere."""
        if result is not None:
            self.right, self.of = self.right + int(result), self.of + 1

    @property
    def share(self) -> float:
        """Between 0 and 1; 0 if the check applied to no answer."""
        return self.right / self.of if self.of else 0.0

    def __str__(self) -> str:
        return f"{self.right:,} of {self.of:,} ({self.share:.1%})"


@dataclass
class AnswerReport:
    """The rates of all checks over all prompts and seeds.

    Attributes:
        rates: by the names of `rewards.CHECKS`, and "to the point" for the questions.
        prompts: how many prompts, the questions among them.
        seeds: how many answers were drawn to each.
    """

    prompts: int
    seeds: int
    rates: dict[str, Rate] = field(default_factory=dict)


def sample_answers(
    model: GPT,
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    samples: int = 1,
    max_new_tokens: int = 120,
    temperature: float = 0.7,
    top_k: int | None = 50,
    seed: int | None = 0,
) -> list[list[Answer]]:
    """`samples` answers to each conversation, whose last message is the user's.

    Conversations of equally many tokens are answered together: that changes which
    random numbers an answer gets, not its probability.

    Raises:
        UserError: a last message does not fit, or the tokenizer has no end mark.
    """
    room = model.config.context_length - model.config.context_length // 4
    stop = end_of_answer(tokenizer)
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for i, messages in enumerate(conversations):
        ids = chat_prompt(cut_history(messages, tokenizer, room), tokenizer)
        by_length[len(ids)].append((i, ids))
    answers: list[list[Answer]] = [[] for _ in conversations]
    at_once = max(1, MOST_ROWS // samples)
    for equal in by_length.values():
        for first in range(0, len(equal), at_once):
            group = equal[first : first + at_once]
            tokens = generate(
                model,
                torch.tensor([ids for _, ids in group], device=model.device),
                max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                seed=seed,
                stop_token=stop,
                samples=samples,
            )
            rows = torch.stack(list(tokens), dim=1).tolist()  # [samples * B, T]
            for row, said in enumerate(rows):
                answers[group[row % len(group)][0]].append(_read(said, stop, tokenizer))
    return answers


def _read(ids: list[int], stop: int, tokenizer: Tokenizer) -> Answer:
    ended = stop in ids
    said = ids[: ids.index(stop)] if ended else ids
    special = set(tokenizer.special_tokens.values())
    text = tokenizer.decode([i for i in said if i not in special])
    return Answer(text.strip(), ended)


def evaluate_answers(
    model: GPT,
    tokenizer: Tokenizer,
    chats: Chats,
    questions: Sequence[Question] = (),
    seeds: int = 3,
    temperature: float = 0.7,
) -> AnswerReport:
    """Draw `seeds` answers to every prompt of the `chats`, and check each.

    Args:
        model: it is not changed.
        tokenizer: that of the model.
        chats: conversations that the model was not trained on.
        questions: single questions, each counted right if its patterns match.
        seeds: answers to each prompt, with the seeds 0, 1 and so on.
        temperature: as in `chat.answer`.

    Raises:
        UserError: as `sample_answers`.
    """
    asked = prompts(chats)
    alone = [[{"role": "user", "content": q.question}] for q in questions]
    all_messages = [*(p.messages for p in asked), *alone]
    answers = sample_answers(
        model, tokenizer, all_messages, seeds, temperature=temperature
    )
    report = AnswerReport(len(all_messages), seeds, {name: Rate() for name in CHECKS})
    for prompt, given in zip(asked, answers, strict=False):
        for said in given:
            for name, result in judge(prompt, *said).items():
                report.rates[name].count(result)
    if questions:
        report.rates[QUESTIONS] = Rate()
    for question, given in zip(questions, answers[len(asked) :], strict=True):
        for said in given:
            report.rates[QUESTIONS].count(float(question.answered_by(said.text)))
    return report


def loss_on_answers(model: GPT, tokenizer: Tokenizer, chats: Chats) -> Evaluation:
    """The loss on the assistant's words of conversations.

    Raises:
        UserError: no conversation has an answer.
    """
    packed = pack(chats, tokenizer, model.config.context_length)
    batches = (
        tuple(part.to(model.device) for part in packed[rows])
        for rows in torch.arange(len(packed)).split(16)
    )
    return evaluate(model, batches, tokenizer.byte_lengths)


def measure_answers(
    source: str, model: GPT, tokenizer: Tokenizer, seeds: int = 3
) -> Iterator[str]:
    """Lines on how well a model answers the test part of `shop-chats`.

    Raises:
        UserError: as `evaluate_answers`.
    """
    test = chat_parts(load_chats("shop-chats")).test
    loss = loss_on_answers(model, tokenizer, test)
    yield f"{source}, test part of shop-chats, {len(test)} conversations:"
    yield f"  nats per token  {loss.nats_per_token:8.4f}  ({loss.tokens:,} tokens)"
    yield f"  bits per byte   {loss.bits_per_byte:8.4f}  ({loss.bytes:,} bytes)"
    report = evaluate_answers(model, tokenizer, test, load_questions(), seeds)
    yield f"Answers to {report.prompts} prompts, {seeds} each, at temperature 0.7:"
    for name, rate in report.rates.items():
        yield f"  {name:<27} {rate}"
