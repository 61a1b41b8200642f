"""Puzzles made of the exercises: every line, order and hint is the checker's own."""

import itertools
import re
import sys
from pathlib import Path

import nbformat
import pytest

from tinygpt.course.exercises import (
    Variant,
    body,
    check_answer,
    exercises,
    instead,
    parameters,
    swapped,
)

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("sphinx", reason="the packages that build the site")
if str(ROOT / "book") not in sys.path:
    sys.path.append(str(ROOT / "book"))
import puzzles  # noqa: E402

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))[1:]  # 00 has no exercises
BY_NAME = {e.name: e for e in exercises()}
MADE = {name: puzzles.puzzle(e, "answer") for name, e in BY_NAME.items()}
MADE = {name: puzzle for name, puzzle in MADE.items() if puzzle}
each = pytest.mark.parametrize("name", MADE)


def verdict(name: str, puzzle: puzzles.Puzzle, answer: list[int]):
    lines = tuple(puzzle.lines[i].code for i in answer)
    return check_answer(name, Variant(BY_NAME[name].solution, lines))


def passes(name: str, puzzle: puzzles.Puzzle, answer: list[int]) -> bool:
    try:
        return bool(verdict(name, puzzle, answer))
    except SyntaxError:
        return False


@each
def test_right_answers_pass_and_each_wrong_line_has_the_hint_of_its_mistake(
    name,
) -> None:
    puzzle = MADE[name]
    assert [puzzle.lines[i].code for i in puzzle.right[0]] == [
        *body(BY_NAME[name].solution)
    ]
    assert all(verdict(name, puzzle, answer) for answer in puzzle.right)
    for answer, hint in puzzle.hints:
        said = verdict(name, puzzle, answer)
        assert not said
        assert said.text == hint
    shown = set(range(len(puzzle.lines)))
    hinted = set().union(*(answer for answer, _ in puzzle.hints))
    assert hinted | set(puzzle.right[0]) == shown
    said_in_lines = [
        m.hint for m in BY_NAME[name].mistakes if isinstance(m.answer, Variant)
    ]
    assert set(said_in_lines) <= {hint for _, hint in puzzle.hints}
    assert len(said_in_lines) >= 2


@each
def test_what_does_not_fit_is_wrong_for_python_too(name: str) -> None:
    """And what fits is known: it passes, or has a hint."""
    puzzle = MADE[name]
    known = [*puzzle.right, *(answer for answer, _ in puzzle.hints)]
    right = puzzle.right[0]
    if len(right) > 5:
        right = right[:2] + right[-2:]  # too many orders
    for order in itertools.permutations(right):
        lines = [puzzle.lines[i] for i in order]
        if puzzles.fits(lines):
            assert not passes(name, puzzle, [*order])
        elif len(order) == len(puzzle.right[0]):
            assert [*order] in known


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_every_puzzle_stands_in_its_chapter_above_the_same_solution(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    text = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    asked = dict(re.findall(r"<!-- puzzle:([\w.]+):(\w+) -->", text))
    chapter = path.stem.split("_", 1)[1]
    assert set(asked) == {name for name in MADE if name.startswith(chapter + ".")}
    assert len(asked) >= 2
    for name, called in asked.items():
        fold = puzzles.fold(f"{name}:{called}")
        assert fold in text
        solution = BY_NAME[name].solution
        lines = [f"def {called}({', '.join(parameters(solution))}):"]
        lines += [f"    {line}" for line in body(solution)]
        below = text.split(fold)[1].split("</details>")[0]
        assert "\n".join(lines) + "\n```" in below


def test_a_puzzle_is_shuffled_the_same_way_each_time() -> None:
    exercise = BY_NAME["training.descend"]
    assert puzzles.puzzle(exercise, "answer") == MADE["training.descend"]
    orders = [[*p.right[0]] for p in MADE.values()]
    assert sum(order == sorted(order) for order in orders) < len(orders) / 2


def test_what_a_puzzle_cannot_be_made_of() -> None:
    with pytest.raises(LookupError, match="no puzzle of 'nothing"):
        puzzles.find("nothing.here:answer")
    with pytest.raises(LookupError, match="no puzzle"):
        puzzles.find("embeddings.lookup:answer")  # its mistakes are functions


def two_totals(ids: list[int]) -> int:
    """Not in the body.

    >>> two_totals([1])
    2
    """
    total = 0  # a comment

    # another
    for id in ids:
        total += id
    total = total * 2
    return total


def test_lines_are_named_by_how_they_begin() -> None:
    assert body(two_totals)[0] == "total = 0"
    assert len(body(two_totals)) == 5
    assert instead(two_totals, "    total -= id")([1, 2]) == -6
    assert instead(two_totals, without="total = total")([1, 2]) == 3
    assert swapped(two_totals, "return", "total = total")([1, 2]) == 3
    with pytest.raises(LookupError, match="2 lines begin with 'total'"):
        instead(two_totals, "total = 1")
    with pytest.raises(LookupError, match="0 lines begin with 'while'"):
        swapped(two_totals, "while", "return")
