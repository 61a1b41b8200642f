"""The quizzes and guesses of the built site, answered in a browser.

From file://, with the network blocked. Skipped with a message where Chromium or the
packages that build the site are missing. What it leaves out: whether the questions are
well put, which a reader has to judge; how they stand in the notebooks (`test_asked`).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import ROOT, violations

pytestmark = pytest.mark.timeout(600)  # the first test builds the site

CHAPTERS = sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))
PHONE = {"width": 360, "height": 740}
THEMES = ("dark", "light")  # in turn: the chapters share their colours
OURS = (".tinygpt-question", ".tinygpt-guess", ".tinygpt-waits", ".tinygpt-guesses")
# Writes down what a screen reader is told: the text of a live region when it changes.
LISTEN = """
window.heard = [];
new MutationObserver((changes) => {
  const told = new Set();
  for (const { target } of changes) {
    const element = target.nodeType === 1 ? target : target.parentElement;
    told.add(element?.closest("[aria-live], [role=status]"));
  }
  for (const region of told) {
    const text = region?.isConnected && region.innerText.trim();
    if (text) window.heard.push(text.replace(/\\s+/g, " "));
  }
}).observe(document, { subtree: true, childList: true, characterData: true });
"""
REFUSE = """Object.defineProperty(window, "localStorage", { get() {
  throw new DOMException("Access is denied", "SecurityError"); } });"""


@pytest.fixture
def visit(site: Path, browser: Any) -> Iterator[Any]:
    contexts = []

    def open_chapter(name: str, script: str = "", **window: Any) -> Any:
        window = {"viewport": {"width": 1200, "height": 900}} | window
        context = browser.new_context(**window)
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        context.route(
            re.compile("^(?!file:|data:|blob:)"),
            lambda route: (page.complaints.append(route.request.url), route.abort()),
        )
        page.on("pageerror", lambda error: page.complaints.append(error.stack or ""))
        page.add_init_script(LISTEN + script)
        page.goto((site / "chapters" / f"{name}.html").as_uri(), wait_until="load")
        return page

    yield open_chapter
    for context in contexts:
        context.close()


def stored(name: str) -> dict[str, str]:
    """What the cells of a chapter stored, by name: the run's own answers."""
    found = {}
    for cell in nbformat.read(ROOT / "chapters" / f"{name}.ipynb", 4).cells:
        for output in cell.get("outputs", []):
            told = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if told:
                (found[told],) = output["data"].values()
    return found


def words(locator: Any) -> str:
    return re.sub(r"\s+", " ", locator.inner_text()).strip()


def reach_quiz(page: Any) -> list[Any]:
    """The questions, when their script has come."""
    page.locator(".tinygpt-question").first.scroll_into_view_if_needed()
    page.locator(".tinygpt-score").wait_for()
    page.evaluate("window.MathJax?.startup.promise")
    return page.locator(".tinygpt-question").all()


def reasons(box: Any) -> dict[str, str]:
    """What the fold says to each answer, by its letter or number."""
    told = box.locator("details").evaluate(
        """fold => {
          const text = (node) => node.textContent.replace(/\\s+/g, " ").trim();
          const right = fold.querySelector("p");
          return [text(right.querySelector("strong")), text(right),
                  [...fold.querySelectorAll("li")].map(text)];
        }"""
    )
    mark, right, wrong = told
    found = {mark.rstrip("."): right.removeprefix(mark).strip()}
    for item in wrong:
        letter, _, why = item.partition(":")
        found[letter] = why.strip()
    return found


def said(box: Any) -> str:
    return re.sub(r"\s+", " ", box.locator(".verdict").text_content()).strip()


def answer(page: Any, box: Any, given: str, by_keyboard: bool) -> None:
    """Choose or type an answer, and check it."""
    field = box.locator("input[type=text]")
    if field.count():
        field.fill(given)
        if by_keyboard:
            field.press("Enter")
            return
    elif by_keyboard:
        box.locator("input").nth("ABC".index(given)).press("Space")
        page.keyboard.press("Enter")
        return
    else:
        box.locator("label").nth("ABC".index(given)).click()
    box.get_by_role("button", name="Check").click()


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_question_answers_right_and_wrong(visit, name: str) -> None:
    page = visit(name, viewport=PHONE, color_scheme=THEMES[CHAPTERS.index(name) % 2])
    boxes = reach_quiz(page)
    assert len(boxes) >= 6
    for number, box in enumerate(boxes, start=1):
        told = reasons(box)
        right = box.get_attribute("data-right") or box.get_attribute("data-number")
        known = {key.replace(",", ""): why for key, why in told.items()}
        for given in [key for key in known if key != right]:
            answer(page, box, given, by_keyboard=True)
            assert said(box) == f"Not yet. {known[given]}"
            assert box.get_attribute("data-now") == "wrong"
        if box.get_attribute("data-number"):
            beside = float(right) + 2 * float(box.get_attribute("data-tolerance")) + 1
            if str(round(beside)) not in known:
                answer(page, box, f"{beside}", by_keyboard=True)
                assert said(box) in (
                    "Not yet. It is less.",
                    *(f"Not yet. {why}" for why in known.values()),
                )
            answer(page, box, "many", by_keyboard=True)
            assert said(box) == "Write a number, such as 0.5 or 1200."
        answer(page, box, right, by_keyboard=number % 2 == 0)
        assert said(box) == f"Right. {known[right]}"
        heard = page.evaluate("window.heard")
        assert f"{number} of {len(boxes)} right, 0 at the first try." in heard[-1]
        assert any(text.startswith("Right. ") for text in heard[-3:])
    assert words(page.locator(".tinygpt-score")).endswith("That was all of them.")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert violations(page, OURS) == []
    assert page.complaints == []


def test_the_first_try_counts_once(visit) -> None:
    page = visit(CHAPTERS[1])
    first, second, *_ = boxes = reach_quiz(page)
    first.get_by_role("button", name="Check").click()
    assert said(first) == "Choose an answer first."
    for box in (first, second, second):
        answer(page, box, box.get_attribute("data-right"), by_keyboard=False)
    score = words(page.locator(".tinygpt-score"))
    assert score == f"2 of {len(boxes)} right, 2 at the first try."


def make_guess(page: Any, place: Any, true: str) -> bool:
    """Guess by keyboard; whether it can be right."""
    slider = place.locator("input[type=range]")
    field = place.locator("input[type=text]")
    if slider.count():
        slider.press("End")
        page.keyboard.press("Enter")
    elif field.count():
        field.fill(true.replace("␣", " ").upper())
        field.press("Enter")
        return True
    else:
        place.locator("label").first.click()
        place.get_by_role("button", name="Guess and see").click()
        return words(place.locator("label").first) == true
    return False


@pytest.mark.parametrize("name", CHAPTERS)
def test_an_output_waits_for_a_guess(visit, name: str) -> None:
    page = visit(
        name, viewport=PHONE, color_scheme=THEMES[CHAPTERS.index(name) % 2 - 1]
    )
    places = page.locator(".tinygpt-guess").all()
    assert len(places) >= (name in PREDICTED)
    run = stored(name)

    def waiting() -> list[bool]:
        return [
            page.locator(f'.tinygpt-outcome[data-of="{one}"]').evaluate_all(
                "all => all.length > 0 && all.every((o) => o.hasAttribute('hidden'))"
            )
            for one in names
        ]

    names = [place.get_attribute("data-name") for place in places]
    assert waiting() == [True] * len(names)
    for place, one in zip(places, names, strict=True):
        button = place.locator("button").first
        right = make_guess(page, place, run[one])
        true = run[one].removesuffix("%").replace(",", "")
        shown = said(place)
        assert true in shown
        assert shown.startswith("Right: ") or not right
        if place.get_attribute("data-low"):
            off = abs(float(place.get_attribute("data-high")) - float(true))
            assert f"{off:.3g} too high" in shown or shown.startswith("Right: ")
        assert page.evaluate("window.heard").count(words(place.locator(".verdict"))) > 0
        assert button.get_attribute("aria-disabled") == "true"
    assert waiting() == [False] * len(names)
    assert page.locator(".tinygpt-waits").count() == 0
    if not places:
        return
    rows = page.locator(".tinygpt-guesses tbody tr")
    assert rows.count() == len(places)
    assert f"You guessed {len(places)} of {len(places)}." in words(
        page.locator(".tinygpt-guesses")
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert violations(page, OURS) == []

    page.reload()
    assert waiting() == [False] * len(names)  # the guesses were kept
    assert rows.count() == len(places)
    page.get_by_role("button", name="Forget these guesses").click()
    assert waiting() == [True] * len(names)
    assert "Forgotten" in page.evaluate("document.activeElement.innerText")
    assert violations(page, OURS) == []
    for place in places:
        place.get_by_role("button", name="Guess and see").focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # show it anyway
        assert said(place) == "Shown without a guess."
    assert waiting() == [False] * len(names)
    assert rows.count() == 0
    assert page.complaints == []


PREDICTED = [
    path.stem
    for path in sorted((ROOT / "chapters").glob("*.ipynb"))
    if "<!-- answer:" in path.read_text(encoding="utf-8")
]


def test_a_browser_that_keeps_nothing_still_takes_guesses(visit) -> None:
    page = visit(PREDICTED[0], REFUSE)
    place = page.locator(".tinygpt-guess").first
    place.locator("input").press("Enter")
    assert "it is" in said(place) or "Right" in said(place)
    assert "This browser keeps nothing" in words(page.locator(".tinygpt-guesses"))
    page.reload()
    assert page.locator(".tinygpt-guesses").inner_text() == ""
    # The theme complains, too, but not we.
    assert [stack for stack in page.complaints if "predict.js" in stack] == []


def test_what_was_kept_may_be_spoilt(visit) -> None:
    page = visit(PREDICTED[0])
    name = page.locator(".tinygpt-guess").first.get_attribute("data-name")
    for kept in ("{", "[]", "null", json.dumps({name: 7}), json.dumps({name: "1e9"})):
        page.evaluate("kept => localStorage.setItem('tinygpt-guesses', kept)", kept)
        page.reload()
        assert page.locator(".tinygpt-waits").first.is_visible()
        assert page.complaints == []


def test_nothing_is_hidden_without_scripts(visit) -> None:
    page = visit(PREDICTED[1], java_script_enabled=False)
    assert all(one.is_visible() for one in page.locator(".tinygpt-outcome > *").all())
    assert page.locator("form.tinygpt, .tinygpt-question input").count() == 0
    box = page.locator(".tinygpt-question").first
    box.locator("summary").click()
    assert box.locator("details li").first.is_visible()


def test_paper_shows_what_the_notebook_shows(visit) -> None:
    page = visit(PREDICTED[1])
    reach_quiz(page)
    assert page.locator(".tinygpt-waits").first.is_visible()
    page.emulate_media(media="print")
    for one in page.locator(".tinygpt-outcome").all():
        assert one.bounding_box()["height"] > 10
    for selector in ("input", "button", ".verdict", ".acts"):
        for kind in (".tinygpt-question", ".tinygpt-guess"):
            assert not any(
                e.is_visible() for e in page.locator(f"{kind} {selector}").all()
            )
    assert page.locator(".tinygpt-question li").first.is_visible()
    assert page.locator(".tinygpt-question summary").first.is_visible()


def test_by_keyboard_alone(visit) -> None:
    """Nothing but Tab, arrows, Space and Enter, from one place to the next."""
    page = visit(PREDICTED[0])
    reach_quiz(page)
    place = page.locator(".tinygpt-guess").first
    place.locator("..").locator("p").first.click()  # where the Tab key starts from

    def tab_to(condition: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches('{condition}')"):
                return
        raise AssertionError(f"no Tab leads to {condition}")

    tab_to(".tinygpt-guess input")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    assert said(place)
    assert page.evaluate("document.activeElement.matches('.tinygpt-guess input')")
    for box in page.locator(".tinygpt-question").all():
        tab_to(".tinygpt-question input")
        page.keyboard.press("Space")
        page.keyboard.press("7")  # in a field for a number; a choice ignores it
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert said(box).startswith(("Right. ", "Not yet. "))


LOADED = """[...document.scripts].map((one) => new URL(one.src || "a:b").pathname)
  .map((path) => path.split("/").at(-1))"""


def test_scripts_are_light_and_come_when_needed(site: Path, visit) -> None:
    """All that asks and shows weighs at most 60 kB on a page; data aside."""
    static = site / "_static"
    for path in (site / "chapters").glob("*.html"):
        text = path.read_text("utf-8")
        names = {f"widgets/{name}" for name in re.findall(r'data-widget="(\w+)"', text)}
        names |= set(re.findall(r'data-script="(\w+)"', text)) | {"door", "widgets"}
        names |= {"predict"} if "predict.js" in text else set()
        assert sum((static / f"{n}.js").stat().st_size for n in names) < 60_000
    assert "predict.js" not in (site / "book" / "intro.html").read_text("utf-8")
    page = visit("07_training")
    late = {"quiz.js", "puzzles.js", "descent.js"}
    assert not late & set(page.evaluate(LOADED))
    for place in (".tinygpt-widget", ".tinygpt-puzzle", ".tinygpt-question"):
        page.locator(place).first.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
    reach_quiz(page)
    assert late <= set(page.evaluate(LOADED))
