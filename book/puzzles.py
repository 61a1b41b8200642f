"""The exercises as puzzles: put the lines of the solution in order.

In a chapter, between comments, so that the puzzle is there without scripts, too:

    <!-- puzzle:training.descend:my_descend -->
    <details> ... the lines of solution and likely mistakes, shuffled ... </details>
    <!-- / -->

`quoted.fill` writes what stands between, and on the site this Sphinx extension gives
the fold what `_static/puzzles.js` needs: what each line makes and needs, and what
`check_answer` says of each wrong line and order. All of it is made from the exercise.
What it leaves out: mistakes that an exercise states as functions (no line to show).
"""

import ast
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from docutils import nodes
from sphinx.transforms import SphinxTransform

from tinygpt.course.exercises import (
    Exercise,
    Variant,
    body,
    check_answer,
    exercises,
    parameters,
)

START = "<!-- puzzle:"
NUMBERS = [
    "none",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
]
STEP = 4  # spaces of indentation


@dataclass(frozen=True)
class Line:
    """One line of a puzzle; the names that others of its lines make."""

    code: str
    makes: list[str]
    needs: list[str]


@dataclass(frozen=True)
class Puzzle:
    """Lines in the order shown; answers are lists of their numbers.

    `right` are the answers that pass, `hints` pairs of an answer and what the checker
    says of it: every likely mistake, and every other order of the right lines that
    Python would run.
    """

    head: str
    lines: list[Line]
    right: list[list[int]]
    hints: list[tuple[list[int], str]]

    def text(self) -> str:
        """How it reads on paper: a sentence, and the lines."""
        n, wrong = len(self.right[0]), len(self.lines) - len(self.right[0])
        others = "the other is" if wrong == 1 else "each of the others is"
        name = self.head.split("(")[0].removeprefix("def ")
        return (
            f"{NUMBERS[n].capitalize()} of these {NUMBERS[n + wrong]} lines make "
            f"`{name}`; {others} a likely mistake.\n\n```python\n{self.head}\n"
            + "".join(f"    {line.code}\n" for line in self.lines)
            + "```"
        )


def puzzle(exercise: Exercise, name: str) -> Puzzle | None:
    """The puzzle of an exercise, whose function the reader calls `name`.

    None if no likely mistake is said in lines.
    """
    mistakes = [m for m in exercise.mistakes if isinstance(m.answer, Variant)]
    if not mistakes:
        return None
    solution = body(exercise.solution)
    # As a dict, for that keeps the order and has each line once.
    shown = list(
        dict.fromkeys([*solution, *(x for m in mistakes for x in m.answer.lines)])
    )
    random.Random(exercise.name).shuffle(shown)
    names = {code: _names(code) for code in shown}
    made = set().union(*(makes for makes, _ in names.values()))
    given = parameters(exercise.solution)
    lines = [
        Line(code, sorted(makes), sorted(needs & made - {*given}))
        for code, (makes, needs) in names.items()
    ]
    right, hints = [], []
    for order in orders([line for line in lines if line.code in solution]):
        answer = tuple(line.code for line in order)
        verdict = check_answer(exercise.name, Variant(exercise.solution, answer))
        numbers = [shown.index(code) for code in answer]
        if verdict:
            right.append(numbers)
        else:
            hints.append((numbers, verdict.text))
    right.sort(key=lambda numbers: [shown[i] for i in numbers] != [*solution])
    told = [answer for answer, _ in hints]
    for mistake in mistakes:
        numbers = [shown.index(code) for code in mistake.answer.lines]
        if numbers not in told:
            hints.append((numbers, mistake.hint))
    return Puzzle(f"def {name}({', '.join(given)}):", lines, right, hints)


def _names(code: str) -> tuple[set[str], set[str]]:
    """The names that a line makes, and those that it reads."""
    whole = code.strip() + (" pass" if code.endswith(":") else "")
    tree = ast.parse(whole)
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    makes = {node.id for node in found if isinstance(node.ctx, ast.Store)}
    needs = {node.id for node in found if isinstance(node.ctx, ast.Load)}
    if isinstance(tree.body[0], ast.AugAssign):
        needs |= makes
    inside = [n.target for n in ast.walk(tree) if isinstance(n, ast.comprehension)]
    own = {
        n.id for target in inside for n in ast.walk(target) if isinstance(n, ast.Name)
    }
    return makes - own, needs - own


def fits(lines: Sequence[Line]) -> str:
    """What Python would say against the lines before it ran them; empty if nothing.

    The twin of `misfit` in puzzles.js.
    """
    known: set[str] = set()
    opened, deepest = False, 0
    ended = 0
    for place, line in enumerate(lines, start=1):
        depth = (len(line.code) - len(line.code.lstrip())) // STEP
        if opened and depth != deepest + 1:
            return f"Line {place} must be indented: it follows a colon."
        if not opened and depth > deepest:
            return f"Line {place} is indented, but no colon opens a block above it."
        if ended:
            return f"Line {place} would never run: line {ended} returns before it."
        missing = [name for name in line.needs if name not in known]
        if missing:
            return f"Line {place} uses {missing[0]}, which no line above it makes."
        known.update(line.makes)
        opened, deepest = line.code.endswith(":"), depth
        ended = place if line.code.startswith("return") else 0
    return "The last line opens a block that has no lines." if opened else ""


def orders(
    lines: list[Line], begun: tuple[Line, ...] = ()
) -> Iterator[tuple[Line, ...]]:
    """Every order of the lines that `fits`."""
    if not lines:
        if not fits(begun):
            yield begun
        return
    for i, line in enumerate(lines):
        now = (*begun, line)
        # A block that is still open is no fault before the end.
        if not fits(now) or (
            line.code.endswith(":") and fits(now).startswith("The last")
        ):
            yield from orders([*lines[:i], *lines[i + 1 :]], now)


def find(called: str) -> Puzzle:
    """The puzzle of `chapter.exercise:name_of_the_function`.

    Raises:
        LookupError: there is no such exercise, or it has no lines to show.
    """
    exercise, _, name = called.partition(":")
    for one in exercises():
        if one.name == exercise and (found := puzzle(one, name)):
            return found
    raise LookupError(f"there is no puzzle of {exercise!r}")


def fold(called: str) -> str:
    """The Markdown between the comments."""
    return (
        f"<details>\n<summary>Put the lines in order</summary>\n\n{find(called).text()}"
        "\n\n</details>\n"
    )


class Puzzles(SphinxTransform):
    """The fold behind each comment becomes a puzzle that `puzzles.js` can play."""

    default_priority = 397

    def apply(self, **_: Any) -> None:
        """Put the data into the fold's own tag."""
        for comment in list(self.document.findall(nodes.raw)):
            if not comment.astext().startswith(START):
                continue
            called = comment.astext().strip().removeprefix(START).removesuffix(" -->")
            data = escape(json.dumps(asdict(find(called))))
            opening = comment.next_node(nodes.raw, siblings=True, descend=False)
            text = opening.astext()
            assert text.startswith("<details>"), text
            told = f'class="tinygpt-puzzle" data-script="puzzles" data-puzzle="{data}"'
            new = text.replace("<details>", f"<details {told}>", 1)
            opening.parent.replace(opening, nodes.raw("", new, format="html"))


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(Puzzles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
