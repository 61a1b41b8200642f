"""The exercises' answers and hints: `check_answer("attention.scores", my_function)`.

An answer is run on every case and compared with the solution. A wrong answer is also
compared with the likeliest mistakes, each of which has a hint; any other is told the
first difference. The exercises of each chapter are a list EXERCISES in the module of
the chapter's name in this folder, imported when asked for.

Where a mistake is a wrong line, or right lines in a wrong order, it is said as such
(`instead`, `swapped`) and its function is made from the solution's own source; the book
makes a puzzle of these lines.

What it leaves out: reading an answer's code. Only what the answer returns counts.
"""

import ast
import copy
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from html import escape
from textwrap import dedent, indent
from typing import Any

import torch
from torch import Tensor

from tinygpt.errors import UserError

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # rounding differs, a mistake shows


def parameters(function: Callable[..., Any]) -> list[str]:
    """The names of its parameters."""
    return list(inspect.signature(function).parameters)


def body(function: Callable[..., Any]) -> tuple[str, ...]:
    """The lines of its source after `def` and docstring, without comments."""
    text = dedent(inspect.getsource(function))
    (tree,) = ast.parse(text).body
    assert isinstance(tree, ast.FunctionDef)
    first = tree.body[1 if ast.get_docstring(tree) else 0].lineno
    lines = dedent("\n".join(text.splitlines()[first - 1 :])).splitlines()
    code = (line.partition("  #")[0] for line in lines)
    return tuple(line for line in code if line and not line.lstrip().startswith("#"))


@dataclass(frozen=True)
class Variant:
    """The function `solution` with other lines in its body."""

    solution: Callable[..., Any]
    lines: tuple[str, ...]

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The function that these lines make."""
        solution = inspect.unwrap(self.solution)
        head = f"def {solution.__name__}({', '.join(parameters(solution))}):\n"
        space = dict(solution.__globals__)
        exec(head + indent("\n".join(self.lines), "    "), space)
        made: Callable[..., Any] = space[solution.__name__]
        return made

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        return self.function(*arguments)


def instead(solution: Callable[..., Any], *wrong: str, without: str = "") -> Variant:
    """`solution` with each of the lines `wrong` in place of the one it resembles.

    That is the one line with the same indentation and the same first name. The line
    that begins as `without` says is left out.

    Raises:
        LookupError: there is no such line, or more than one.
    """
    lines = list(body(solution))
    for line in wrong:
        lines[_only(lines, _first_name(line), _first_name)] = line
    if without:
        del lines[_starting(lines, without)]
    return Variant(solution, tuple(lines))


def swapped(solution: Callable[..., Any], one: str, other: str) -> Variant:
    """`solution` with two lines in each other's place, named by how they begin.

    Raises:
        LookupError: there is no such line, or more than one.
    """
    lines = list(body(solution))
    a, b = _starting(lines, one), _starting(lines, other)
    lines[a], lines[b] = lines[b], lines[a]
    return Variant(solution, tuple(lines))


def _first_name(line: str) -> str:
    """`total[` of `    total[id] += 1`, with the indentation."""
    found = re.match(r" *[\w.]+\[?", line)
    return found[0] if found else line


def _starting(lines: list[str], start: str) -> int:
    return _only(lines, start, lambda line: line.lstrip()[: len(start)])


def _only(lines: list[str], wanted: str, name: Callable[[str], str]) -> int:
    found = [i for i, line in enumerate(lines) if name(line) == wanted]
    if len(found) != 1:
        raise LookupError(f"{len(found)} lines begin with {wanted!r}")
    return found[0]


@dataclass(frozen=True)
class Mistake:
    """A likely wrong answer, and the hint for it."""

    answer: Any
    hint: str


@dataclass(frozen=True)
class Exercise:
    """One exercise: its solution, cases to run, and likely mistakes.

    `solution` is a function, or a plain value if the question asks for one. `cases`
    are tuples of arguments (empty for a value). `run` calls an answer with a case;
    replace it where an answer is more than a function, such as a class.
    """

    name: str
    solution: Any
    mistakes: tuple[Mistake, ...]
    cases: tuple[tuple[Any, ...], ...] = ((),)
    run: Callable[..., Any] = lambda answer, *case: (
        answer(*case) if callable(answer) else answer
    )

    def results(self, answer: Any) -> list[Any]:
        """What `answer` returns for each case, with fresh arguments and fixed seed."""
        given = []
        for case in self.cases:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                given.append(self.run(answer, *copy.deepcopy(case)))
        return given


@dataclass(frozen=True)
class Verdict:
    """What `check_answer` says; true if the answer is right.

    `kind` is "right", "missing" (there is no answer yet), "error" (it raised one),
    "hint 1", "hint 2" and so on (that mistake of the exercise), or "wrong".
    """

    right: bool
    text: str
    kind: str = "wrong"

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"{'Right' if self.right else 'Not yet'}: {self.text}"

    def _repr_html_(self) -> str:
        kind, title = ("tip", "Right") if self.right else ("hint", "Not yet")
        return (
            f'<div class="admonition {kind}"><p class="admonition-title">{title}</p>'
            f"<p>{escape(self.text)}</p></div>"
        )


def check_answer(name: str, answer: Any) -> Verdict:
    """Compare `answer` with the solution of the exercise `name`.

    The verdict is shown in a notebook; it is true if the answer is right. Whatever the
    answer raises becomes part of the verdict.

    Raises:
        UserError: there is no exercise of that name.
    """
    exercise = _find(name)
    if callable(exercise.solution) and not callable(answer):
        return Verdict(
            False, "give the function itself, without calling it: no brackets."
        )
    try:
        got = exercise.results(answer)
    except Exception as error:  # the learner's code may raise anything
        stop = f"your answer stops with {type(error).__name__}: {error}"
        return Verdict(False, stop, "error")
    expected = exercise.results(exercise.solution)
    pairs = list(zip(exercise.cases, expected, got, strict=True))
    wrong = [pair for pair in pairs if not same(pair[1], pair[2])]
    if not wrong:
        return Verdict(True, _praise(len(pairs), callable(answer)), "right")
    if all(g is None or g is ... for g in got):
        return Verdict(
            False,
            "there is no answer here yet: write it, return it and run the cell.",
            "missing",
        )
    for number, mistake in enumerate(exercise.mistakes, start=1):
        theirs = exercise.results(mistake.answer)
        if all(same(a, b) for a, b in zip(theirs, got, strict=True)):
            return Verdict(False, mistake.hint, f"hint {number}")
    case, want, have = wrong[0]
    place = f"for {_call(case)} " if case else ""
    return Verdict(False, place + difference(want, have))


def exercises() -> Iterator[Exercise]:
    """All exercises of all chapters."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        yield from importlib.import_module(f"{__name__}.{module}").EXERCISES


def _find(name: str) -> Exercise:
    chapter = name.partition(".")[0]
    known = {m.name for m in pkgutil.iter_modules(__path__)}
    if chapter not in known:
        raise UserError(
            f"There is no exercise {name!r}: the chapters with exercises are "
            f"{', '.join(sorted(known))}."
        )
    listed: list[Exercise] = importlib.import_module(f"{__name__}.{chapter}").EXERCISES
    for exercise in listed:
        if exercise.name == name:
            return exercise
    names = ", ".join(exercise.name for exercise in listed)
    raise UserError(f"There is no exercise {name!r}: this chapter has {names}.")


def _praise(cases: int, function: bool) -> str:
    return f"all {cases} cases agree." if function and cases > 1 else "well done."


def same(want: Any, have: Any) -> bool:
    """Whether both have the same type and content; numbers up to rounding."""
    return not difference(want, have)


def difference(want: Any, have: Any) -> str:
    """The first difference in a sentence; empty if there is none."""
    if isinstance(want, Tensor):
        return _tensor_difference(want, have)
    number = (int, float)
    if isinstance(want, number) and isinstance(have, number):
        close = isinstance(want, bool) == isinstance(have, bool) and torch.isclose(
            torch.tensor(want, dtype=torch.float64),
            torch.tensor(have, dtype=torch.float64),
            **TOLERANCE,
            equal_nan=True,
        )
        return "" if close else f"{_show(want)} was expected, not {_show(have)}."
    if not isinstance(have, type(want)):
        return (
            f"the answer should be of type {type(want).__name__}, "
            f"not {type(have).__name__}."
        )
    if isinstance(want, (list, tuple)):
        if len(want) != len(have):
            return (
                f"{len(want)} items were expected, not {len(have)}: {_show(want)} is "
                f"right, yours is {_show(have)}."
            )
        for i, (a, b) in enumerate(zip(want, have, strict=True)):
            if found := difference(a, b):
                return f"item {i} differs: {found}"
        return ""
    if isinstance(want, dict) and want.keys() == have.keys():
        for key in want:
            if found := difference(want[key], have[key]):
                return f"under {key!r}: {found}"
        return ""
    return "" if want == have else f"{_show(want)} was expected, not {_show(have)}."


def _tensor_difference(want: Tensor, have: Any) -> str:
    if not isinstance(have, Tensor):
        return f"the answer should be a tensor, not {type(have).__name__}."
    if want.shape != have.shape:
        return f"the shape should be {list(want.shape)}, not {list(have.shape)}."
    if want.dtype != have.dtype:
        return f"the numbers should be {want.dtype}, not {have.dtype}."
    close = torch.isclose(want, have, **TOLERANCE, equal_nan=True)
    if close.all():
        return ""
    index = tuple((~close).nonzero()[0].tolist())
    return (
        f"at {list(index)} {_show(want[index].item())} was expected, "
        f"not {_show(have[index].item())}."
    )


def _show(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _call(case: tuple[Any, ...]) -> str:
    shown = (
        f"a tensor of shape {list(a.shape)}" if isinstance(a, Tensor) else _show(a)
        for a in case
    )
    return "the input " + ", ".join(shown)
