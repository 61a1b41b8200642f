"""Quizzes and predictions as they stand in the notebooks, complete without scripts.

What a browser makes of them is in `test_quiz`.
"""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from test_book import CHAPTERS, each_chapter, load_tool, prose

QUESTION = re.compile(
    r"\*\*Question (?P<number>\d+)\.\*\* (?P<asked>.+)\n\n"
    r"(?P<choices>(?:- [A-E]\. .+\n)+|\*A number, .+\.\*\n)\n"
    r"<details>\n<summary>Answer</summary>\n\n"
    r"\*\*(?P<right>.+?)\.\*\* (?P<why>.+)\n"
    r"(?P<wrong>(?:\n(?:- \S+: .+\n)+)?)\n</details>\n"
)


def quiz(path: Path) -> str:
    return prose(path).split("## Quiz\n")[1].split("\n## Summary")[0]


def choices(match: re.Match[str]) -> dict[str, str]:
    return dict(re.findall(r"^- ([A-E])\. (.+)", match["choices"], re.MULTILINE))


@each_chapter
def test_every_question_has_an_answer_and_every_wrong_choice_a_reason(
    path: Path,
) -> None:
    asked = list(QUESTION.finditer(quiz(path)))
    left = QUESTION.sub("", quiz(path))
    assert left.strip() == "", "not written as book/asked.py says"
    assert [int(one["number"]) for one in asked] == list(range(1, len(asked) + 1))
    assert len(asked) >= 6
    for one in asked:
        wrong = re.findall(r"^- (\S+): (.+)", one["wrong"], re.MULTILINE)
        letters = choices(one)
        if letters:
            assert list(letters) == list("ABCDE"[: len(letters)])
            assert [letter for letter, _ in wrong] == [
                letter for letter in letters if letter != one["right"]
            ]
            assert one["right"] in letters
        else:
            numbers = [one["right"], *(number for number, _ in wrong)]
            assert len({float(n.replace(",", "")) for n in numbers}) == len(numbers)
        reasons = [one["why"], *(why for _, why in wrong)]
        assert len(set(reasons)) == len(reasons)
        assert all(re.search(r"[.?!)](\*\*)?$", why) for why in reasons)
    numeric = [one for one in asked if not choices(one)]
    assert 1 <= len(numeric) <= 3


def test_nobody_passes_by_a_habit() -> None:
    """Always the longest, the shortest, or the same letter: hardly more than chance."""
    right, longest, shortest = [], 0, 0
    for path in CHAPTERS:
        for one in QUESTION.finditer(quiz(path)):
            lengths = {a: len(text) for a, text in choices(one).items()}
            if lengths:
                right.append(one["right"])
                longest += lengths[one["right"]] == max(lengths.values())
                shortest += lengths[one["right"]] == min(lengths.values())
    assert len(right) > 60
    for habit in (longest, shortest, *map(right.count, "ABC")):
        assert habit < 0.45 * len(right)


def test_the_course_asks_for_guesses() -> None:
    texts = [prose(path) for path in CHAPTERS]
    assert sum(text.count("<!-- answer:") for text in texts) >= 10
    kinds = [r"\*A number from", r"\*A token\.\*"]
    assert all(re.search(kind, "".join(texts)) for kind in kinds)
    for text in texts:
        for box in re.findall(r"^> \*\*Predict\.\*\*.*(?:\n>.*)*", text, re.MULTILINE):
            assert box.count("<!-- answer:") <= 1
        assert text.count("<!-- answer:") == len(
            re.findall(r"^>.* <!-- answer:\w+ -->|^> <!-- answer:\w+ -->$", text, re.M)
        )


# --- What the build takes and refuses ---------------------------------------------


@pytest.fixture(scope="module")
def asked() -> ModuleType:
    pytest.importorskip("sphinx", reason="the packages that build the site")
    return load_tool("asked")


def parsed(text: str) -> Any:
    from docutils.core import publish_doctree
    from myst_parser.parsers.docutils_ import Parser

    return publish_doctree(
        text, parser=Parser(), settings_overrides={"report_level": 5}
    )


def test_what_a_page_is_told_about_a_question(asked: ModuleType) -> None:
    first, second = asked_of(asked, CHOICES), asked_of(asked, NUMBER)
    assert first == {"right": "B"}
    assert second == {"number": "1200", "tolerance": "0.5"}
    exact = NUMBER.replace("give or take 0.5", "exactly")
    assert asked_of(asked, exact) == {"number": "1200", "tolerance": "0"}


CHOICES = """\
**Question 1.** Which?

- A. This.
- B. That.
- C. Neither.

<details>
<summary>Answer</summary>

**B.** So it is.

- A: It is not.
- C: One of them is.

</details>
"""
NUMBER = """\
**Question 2.** How many?

*A number, give or take 0.5.*

<details>
<summary>Answer</summary>

**1,<!-- n:x -->200<!-- / -->.** Counted.

- 1,000: Two are missing.

</details>
"""


def asked_of(asked: ModuleType, text: str) -> dict[str, str]:
    return asked.question(list(parsed(text).children))


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        (CHOICES, "- A: It is not.\n", ""),  # a wrong choice without a reason
        (CHOICES, "- C: One", "- B: One"),
        (CHOICES, "**B.**", "**D.**"),
        (CHOICES, "**B.** So it is.", "B. So it is."),
        (CHOICES, "- C. Neither", "- D. Neither"),
        (NUMBER, "*A number, give or take 0.5.*", "*A number.*"),
        (NUMBER, "- 1,000:", "- a thousand:"),
        (NUMBER, "*A number, give or take 0.5.*\n\n", ""),
    ],
)
def test_a_question_that_no_script_could_ask_is_refused(
    asked: ModuleType, text: str, old: str, new: str
) -> None:
    assert old in text
    with pytest.raises(ValueError, match=r"\w"):
        asked_of(asked, text.replace(old, new))


def guess_of(asked: ModuleType, text: str, **stored: str) -> dict[str, str] | None:
    (box,) = parsed(text).children
    return asked.guess(box, stored)


def test_what_a_page_is_told_about_a_guess(asked: ModuleType) -> None:
    number = "> How many?\n>\n> *A number from -1 to 9.5 words.* <!-- answer:n -->"
    token = "> Which?\n>\n> *A token.* <!-- answer:n -->"
    choice = "> Which?\n>\n> - `e + l`\n> - none\n>\n> <!-- answer:n -->"
    assert guess_of(asked, number, n="7") == {
        "name": "n", "answer": "7", "low": "-1", "high": "9.5", "unit": "words"
    }  # fmt: skip
    assert guess_of(asked, token, n="␣a") == {"name": "n", "answer": "␣a"}
    assert guess_of(asked, choice, n="e + l") == {"name": "n", "answer": "e + l"}
    percent = number.replace("-1 to 9.5 words", "0 to 100 %")
    told = guess_of(asked, percent, n="47%")
    assert told is not None
    assert (told["answer"], told["unit"]) == ("47", "%")
    assert guess_of(asked, "> How many?", n="7") is None
    for text, found in ((number, "12"), (number, "many"), (choice, "l + l")):
        with pytest.raises(ValueError, match=r"\w"):
            guess_of(asked, text, n=found)
    with pytest.raises(ValueError, match="glue"):
        guess_of(asked, number)
    with pytest.raises(ValueError, match="A token"):
        guess_of(asked, "> How?\n>\n> *In words.* <!-- answer:n -->", n="7")


@each_chapter
def test_every_answer_comes_from_the_run(path: Path) -> None:
    stored = load_tool("quoted").numbers(nbformat.read(path, 4))
    named = re.findall(r"<!-- answer:(\w+) -->", prose(path))
    assert set(named) <= set(stored)
    assert len(named) == len(set(named))
