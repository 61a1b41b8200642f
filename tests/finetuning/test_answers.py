"""answers: drawn in groups, read as the model said them, counted check by check."""

import pytest
import torch
from tiny_chat import TOKENIZER, small_model

from tinygpt.cli.main import main
from tinygpt.finetuning import answers
from tinygpt.finetuning.answers import (
    Answer,
    Rate,
    evaluate_answers,
    loss_on_answers,
    sample_answers,
)
from tinygpt.finetuning.chat import answer
from tinygpt.finetuning.rewards import CHECKS
from tinygpt.finetuning.shop import Question
from tinygpt.llm import LLM


def said(*texts: str) -> list[dict[str, str]]:
    return [
        {"role": ("user", "assistant")[i % 2], "content": text}
        for i, text in enumerate(texts)
    ]


CHATS = [
    said("My lamp", "Which order is it?", "12345", "I flag 12345."),
    said("Hi", "Hello."),
]


def test_answers_together_are_those_of_one_conversation_alone() -> None:
    torch.manual_seed(3)
    model = small_model()
    asked = [
        said("Where is it?"),
        said("Who is it?"),
        said("It?"),
        said("Where is he?"),
    ]
    together = sample_answers(model, TOKENIZER, asked, 2, 8, temperature=0.0)
    assert [len(one) for one in together] == [2, 2, 2, 2]
    for messages, given in zip(asked, together, strict=True):
        alone = "".join(answer(model, TOKENIZER, messages, 8, temperature=0.0)).strip()
        assert [one.text for one in given] == [alone, alone]
    assert sample_answers(model, TOKENIZER, asked, 2, 8) == sample_answers(
        model, TOKENIZER, asked, 2, 8
    )


def test_an_answer_is_read_up_to_its_end() -> None:
    end = TOKENIZER.end_of_text or 0
    ids = TOKENIZER.encode(" It is")
    assert answers._read([*ids, end, end], end, TOKENIZER) == Answer("It is", True)
    assert answers._read(ids, end, TOKENIZER) == Answer("It is", False)


def test_every_check_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    given = [
        [Answer("I flag 54321.", True), Answer("Which order is it?", True)],
        [Answer("I flag 12345.", True), Answer("I flag", False)],
        [Answer("Hello.", True), Answer("Faults: three years of warranty.", True)],
        [Answer("Within 30 days.", True), Answer("No.", True)],
    ]
    monkeypatch.setattr(answers, "sample_answers", lambda *args, **options: given)
    questions = [Question("How long?", ("30 days",))]
    report = evaluate_answers(small_model(), TOKENIZER, CHATS, questions, 2)
    assert (report.prompts, report.seeds) == (4, 2)
    assert {name: (rate.right, rate.of) for name, rate in report.rates.items()} == {
        "ends by itself": (5, 6),
        "number right": (1, 2),
        "asks for a missing number": (1, 2),
        "invents no number": (5, 6),
        "keeps to the facts": (5, 6),
        "to the point": (1, 2),
    }


@pytest.mark.slow
def test_a_random_model_is_evaluated_and_stays_as_it_is() -> None:
    model = small_model().train()
    report = evaluate_answers(model, TOKENIZER, CHATS, seeds=2)
    assert list(report.rates) == list(CHECKS)
    assert report.rates["ends by itself"].of == 6
    assert model.training
    assert loss_on_answers(model, TOKENIZER, CHATS).tokens > 10


def test_a_rate_reads_as_counts() -> None:
    assert str(Rate(93, 108)) == "93 of 108 (86.1%)"
    assert Rate().share == 0.0


def test_the_command_line_prints_every_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = LLM(small_model(), TOKENIZER)
    monkeypatch.setattr("tinygpt.llm.load", lambda *args: llm)
    monkeypatch.setattr(answers, "load_chats", lambda name: CHATS * 500)
    monkeypatch.setattr(answers, "load_questions", lambda: [Question("Hi?", ("Hi",))])
    monkeypatch.setattr(answers, "prompts", lambda chats: [])
    monkeypatch.setattr(
        answers, "sample_answers", lambda *args, **options: [[Answer("Hi", True)]]
    )
    main(["eval", "shop-chats", "--model", "any", "--seeds", "1"])
    printed = capsys.readouterr().out
    assert "any, test part of shop-chats, 200 conversations:" in printed
    assert "to the point                1 of 1 (100.0%)" in printed
    with pytest.raises(SystemExit):
        main(["eval", "handbook", "--model", "any", "--seeds", "1"])
    assert "--seeds is for shop-chats only" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["eval", "shop-chats", "--model", "any", "--seeds", "0"])
    assert "--seeds 0 is out of range" in capsys.readouterr().err
