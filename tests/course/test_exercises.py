"""Every exercise: the solution passes, each likely mistake gets its own hint."""

import re

import pytest
import torch

import tinygpt
from tinygpt.course.exercises import Exercise, check_answer, difference, exercises
from tinygpt.errors import UserError

ALL = list(exercises())
SOLUTIONS = {e.name: e.solution for e in ALL}
MISTAKES = [(e, m) for e in ALL for m in e.mistakes]


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_the_solution_passes(exercise: Exercise) -> None:
    assert check_answer(exercise.name, exercise.solution)


@pytest.mark.parametrize(
    ("exercise", "mistake"),
    MISTAKES,
    ids=[f"{e.name}-{m.hint[:30]}" for e, m in MISTAKES],
)
def test_a_likely_mistake_gets_its_own_hint(exercise: Exercise, mistake) -> None:
    verdict = check_answer(exercise.name, mistake.answer)
    assert not verdict
    assert verdict.text == mistake.hint


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_three_hints_or_more_all_different(exercise: Exercise) -> None:
    hints = [mistake.hint for mistake in exercise.mistakes]
    assert len(set(hints)) == len(hints) >= 3
    assert all(re.match(r"[a-zé\[\"'`/0-9].*[.?]$", hint, re.DOTALL) for hint in hints)


def test_names_are_unique() -> None:
    names = [e.name for e in ALL]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda ids: None, "there is no answer here yet"),
        (lambda ids: ..., "there is no answer here yet"),
        (lambda ids: 1 / 0, "your answer stops with ZeroDivisionError"),
        (lambda ids: [1], "should be of type dict, not list"),
        (lambda ids: {(1, 2): 5}, "was expected, not"),
        ({(1, 2): 2}, "give the function itself"),
    ],
)
def test_other_answers_get_a_kind_sentence(answer, sentence: str) -> None:
    verdict = tinygpt.check_answer("tokenization.count_pairs", answer)
    assert not verdict
    assert sentence in verdict.text


def test_the_answer_cannot_change_the_cases() -> None:
    def spoil(ids: list[int]) -> dict:
        ids.clear()
        return {}

    check_answer("tokenization.count_pairs", spoil)
    assert check_answer(
        "tokenization.count_pairs", SOLUTIONS["tokenization.count_pairs"]
    )


@pytest.mark.parametrize("name", ["nothing.here", "tokenization.nothing", ""])
def test_unknown_exercise(name: str) -> None:
    with pytest.raises(UserError, match="no exercise"):
        check_answer(name, None)


@pytest.mark.parametrize(
    ("want", "have", "sentence"),
    [
        (torch.ones(2, 3), torch.ones(2, 3) + 1e-7, ""),
        (torch.ones(2, 3), torch.ones(3, 2), "the shape should be [2, 3], not [3, 2]."),
        (torch.ones(2), [1.0, 1.0], "the answer should be a tensor, not list."),
        (torch.ones(2), torch.ones(2).long(), "should be torch.float32, not"),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), "at [1] 2 was expected"),
        (torch.tensor([-torch.inf]), torch.tensor([-torch.inf]), ""),
        (0.5, 0.5 + 1e-9, ""),
        (3, 3.0, ""),
        (True, 1, "True was expected, not 1."),
        (3, 4, "3 was expected, not 4."),
        ([1, 2], [1, 3], "item 1 differs: 2 was expected, not 3."),
        ([1, 2], [1], "2 items were expected, not 1"),
        ((torch.ones(1), 2), (torch.ones(1), 2), ""),
        ({"a": 1}, {"a": 2}, "under 'a': 1 was expected"),
        ({"a": 1}, {"b": 1}, "{'a': 1} was expected"),
        ("x" * 200, "y", "..."),
    ],
)
def test_difference(want, have, sentence: str) -> None:
    found = difference(want, have)
    assert (sentence in found) if sentence else found == ""


def test_a_verdict_shows_itself_in_text_and_page() -> None:
    right = check_answer(
        "tokenization.count_pairs", SOLUTIONS["tokenization.count_pairs"]
    )
    assert repr(right) == "Right: all 3 cases agree."
    assert 'class="admonition tip"' in right._repr_html_()
    wrong = check_answer("tokenization.count_pairs", lambda ids: {(0, 0): "<b>"})
    assert repr(wrong).startswith("Not yet: ")
    assert "&lt;b&gt;" in wrong._repr_html_()
