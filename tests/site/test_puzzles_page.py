"""The exercises' puzzles in a browser: every one solved, every hint seen.

Most are tried on a page of their own that holds all of them, under a strict policy.
Skipped with a message where Chromium is missing. What it leaves out: whether the hints
are the checker's (`test_puzzles` in tests/book).
"""

import json
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT, violations

pytest.importorskip("sphinx", reason="the packages that build the site")
if str(ROOT / "book") not in sys.path:
    sys.path.append(str(ROOT / "book"))
import puzzles

STATIC = (ROOT / "book" / "_static").as_uri()
POLICY = "default-src 'none'; script-src file:; style-src file:"
CALLED = [  # as the chapters name them
    called
    for path in sorted((ROOT / "chapters").glob("*.ipynb"))
    for called in re.findall(r"<!-- puzzle:(\S+) -->", path.read_text(encoding="utf-8"))
]
ALL = [puzzles.find(called) for called in CALLED]
each = pytest.mark.parametrize("i", range(len(ALL)), ids=CALLED)


@pytest.fixture(scope="module")
def page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One page with all puzzles, as the site would make them, and nothing outside."""
    data = [escape(json.dumps(asdict(p))) for p in ALL]
    folds = "".join(
        f'<details class="tinygpt-puzzle" data-puzzle="{told}">'
        f"<summary>Put the lines in order</summary><p>{escape(p.text())}</p></details>"
        for told, p in zip(data, ALL, strict=True)
    )
    path = tmp_path_factory.mktemp("puzzles") / "page.html"
    path.write_text(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Puzzles</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<link rel="stylesheet" href="{STATIC}/course.css">'
        f'<main><h1>Puzzles</h1><div class="bd-content">{folds}</div></main>'
        f'<script src="{STATIC}/puzzles.js"></script></html>',
        encoding="utf-8",
    )
    context = browser.new_context(viewport={"width": 360, "height": 900})
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(path.as_uri())
    yield page
    context.close()


def opened(page: Any, i: int) -> Any:
    """The i-th puzzle, all lines back in their list; the others closed."""
    page.evaluate(
        """i => document.querySelectorAll("details").forEach((fold, n) => {
            fold.open = n === i;
        })""",
        i,
    )
    fold = page.locator("details").nth(i)
    fold.locator(".again").click()
    return fold


def line(fold: Any, number: int) -> Any:
    return fold.locator(f'li[data-line="{number}"]')


def said(fold: Any) -> str:
    return fold.locator("output").inner_text()


JUDGED = """async ([i, answers]) => {
  const fold = document.querySelectorAll("details")[i];
  const press = (selector) => fold.querySelector(selector).click();
  const heard = [];
  for (const answer of answers) {
    press(".again");
    for (const n of answer) press(`li[data-line="${n}"] .take`);
    press(".check");
    heard.push(fold.querySelector("output").textContent);
  }
  return heard;
}"""


@each
def test_every_right_order_passes_and_every_mistake_gets_its_hint(page, i: int) -> None:
    opened(page, i)
    puzzle = ALL[i]
    heard = page.evaluate(JUDGED, [i, puzzle.right])
    assert set(heard) == {"Right: these lines pass the exercise's checks."}
    heard = page.evaluate(JUDGED, [i, [answer for answer, _ in puzzle.hints]])
    assert heard == [f"Not yet: {sentence}" for _, sentence in puzzle.hints]


@each
def test_other_answers_hear_what_is_wrong_with_them(page, i: int) -> None:
    """A wrong line's own hint, how many lines are missing, or what does not fit."""
    opened(page, i)
    puzzle, chance = ALL[i], random.Random(i)
    right = puzzle.right[0]
    known = [*puzzle.right, *(answer for answer, _ in puzzle.hints)]
    answers = [[], right[:1], right[:-1], [*range(len(puzzle.lines))]]
    answers += [chance.sample(right, len(right)) for _ in range(10)]
    answers = [answer for answer in answers if answer not in known]
    for answer, heard in zip(answers, page.evaluate(JUDGED, [i, answers]), strict=True):
        wrong = [n for n in answer if n not in right]
        missing = len(right) - len(answer)
        if not answer:
            want = ["Your program has no lines yet."]
        elif wrong:
            hints = [text for lines, text in puzzle.hints if wrong[0] in lines]
            want = [f"Not yet: {hint}" for hint in hints]
        elif missing:
            want = [
                "Not yet: one line is missing.",
                f"Not yet: {missing} lines are missing.",
            ]
        else:
            want = [f"Not yet: {puzzles.fits([puzzle.lines[n] for n in answer])}"]
        assert heard in want, answer


@each
def test_it_is_solved_by_mouse(page, i: int) -> None:
    fold, puzzle = opened(page, i), ALL[i]
    for number in puzzle.right[0]:
        line(fold, number).locator("code").click()
    fold.locator(".check").click()
    assert said(fold).startswith("Right")


@each
def test_it_is_solved_by_keyboard_alone(page, i: int) -> None:
    fold, puzzle = opened(page, i), ALL[i]
    fold.locator("summary").focus()

    def tab_to(wanted: str) -> None:
        for _ in range(4 * len(puzzle.lines)):
            now = "document.activeElement"
            if page.evaluate(
                f"s => {now}.matches(s) && {now}.closest('details')", wanted
            ):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"the keyboard does not reach {wanted}")

    # The last line first, then each other to the front of it.
    for n, number in enumerate(reversed(puzzle.right[0])):
        fold.locator("summary").focus()
        tab_to(f'[data-line="{number}"] .take')
        page.keyboard.press("Enter")
        code = puzzle.lines[number].code.strip()
        assert said(fold) == f"{code} is now line {n + 1} of {n + 1}."
        for place in range(n, 0, -1):
            page.keyboard.press("ArrowUp")
            assert said(fold) == f"{code} is now line {place} of {n + 1}."
    tab_to(".check")
    page.keyboard.press("Space")
    assert said(fold).startswith("Right")


def test_a_line_is_dragged_in_up_and_out(page) -> None:
    i = CALLED.index("training.descend:my_descend")
    fold, puzzle = opened(page, i), ALL[i]
    first, second = puzzle.right[0][:2]

    def drag(number: int, to: Any, at: float = 0.5) -> None:
        line(fold, number).scroll_into_view_if_needed()
        line(fold, number).locator(".grip").hover()
        page.mouse.down()
        box = to.bounding_box()
        page.mouse.move(box["x"] + 20, box["y"] + at * box["height"] + 1, steps=4)
        page.mouse.up()

    program, pool = fold.locator(".program"), fold.locator(".pool")
    drag(second, program)
    code = puzzle.lines[second].code.strip()
    assert said(fold) == f"{code} is now line 1 of 1."
    line(fold, first).locator(".take").click()  # a click still is one after a drag
    drag(first, line(fold, second), 0.1)
    code = puzzle.lines[first].code.strip()
    assert said(fold) == f"{code} is now line 1 of 2."
    drag(first, pool)
    assert said(fold) == f"{code} is back among the lines to choose from."
    assert line(fold, first).locator(".take").inner_text().startswith("Take")


def test_the_ends_are_announced_and_the_arrows_have_names(page) -> None:
    fold, puzzle = opened(page, 0), ALL[0]
    number = puzzle.right[0][0]
    code = puzzle.lines[number].code.strip()
    line(fold, number).locator(".take").click()
    fold.get_by_role("button", name=f"Move up: {code}").click()
    assert said(fold) == f"{code} is already the first line."
    fold.get_by_role("button", name=f"Move down: {code}").click()
    assert said(fold) == f"{code} is already the last line."
    fold.get_by_role("button", name=f"Put back: {code}").click()
    assert fold.get_by_role("status").inner_text().endswith("lines to choose from.")
    assert page.complaints == []  # in all tests; axe-core asks for style sheets
    assert violations(page) == []


@pytest.mark.timeout(600)  # the first test builds the site
def test_the_site_has_them_where_the_notebook_has_them(
    site: Path, browser: Any
) -> None:
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        here = re.findall(r"<!-- puzzle:(\S+) -->", str(nbformat.read(path, 4).cells))
        text = (site / "chapters" / f"{path.stem}.html").read_text(encoding="utf-8")
        assert text.count('class="tinygpt-puzzle"') == len(here)
        assert text.count('data-script="puzzles"') == len(here)
        assert "puzzles.js" not in text  # it comes when a puzzle comes near

    context = browser.new_context(viewport={"width": 360, "height": 900})
    page = context.new_page()
    outside: list[str] = []
    context.route(re.compile("^(?!file:|data:|blob:)"), lambda route: route.abort())
    page.on("requestfailed", lambda request: outside.append(request.url))
    page.goto((site / "chapters" / "07_training.html").as_uri())
    for fold in page.locator(".tinygpt-puzzle").all():
        assert fold.locator("pre").count() == 1  # what paper and notebook show
        fold.locator("summary").click()
        fold.locator(".puzzle").wait_for()
        assert not fold.locator("pre").is_visible()
        for number in range(fold.locator("li").count()):
            line(fold, number).locator(".take").click()
        fold.locator(".check").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []
    page.emulate_media(media="print")
    fold = page.locator(".tinygpt-puzzle").first
    assert fold.locator("pre").is_visible()
    assert not fold.locator(".puzzle").is_visible()
    assert outside == []
    context.close()
