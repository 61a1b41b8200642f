"""The page of mystery runs in a browser: every run named, right and wrong.

From file://, with the network blocked. Skipped with a message where Chromium or the
packages that build the site are missing. What it leaves out: whether the diagnoses are
true of the runs (`test_mystery` in tests/book).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import violations
from test_quiz import LISTEN

pytestmark = pytest.mark.timeout(600)  # the first test builds the site
N = 12


@pytest.fixture(scope="module")
def page(site: Path, browser: Any) -> Iterator[Any]:
    """The page on a phone; a test that starts afresh reloads it."""
    context = browser.new_context(viewport={"width": 360, "height": 900})
    page = context.new_page()
    page.complaints = []
    context.route(
        re.compile("^(?!file:|data:|blob:)"),
        lambda route: (page.complaints.append(route.request.url), route.abort()),
    )
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.add_init_script(LISTEN)
    page.goto((site / "book" / "mystery_runs.html").as_uri())
    yield page
    context.close()


def runs(page: Any) -> list[tuple[Any, dict[str, Any], Any]]:
    """Each run's box, what the page knows of it, and the fold that explains it."""
    page.locator(".mystery-figure").first.scroll_into_view_if_needed()
    boxes = page.locator(".tinygpt-mystery").all()
    boxes[0].locator("button").wait_for()  # its script comes when a run comes near
    folds = page.locator(".tinygpt-diagnosis").all()
    assert len(boxes) == len(folds) == N
    told = [json.loads(box.get_attribute("data-run")) for box in boxes]
    return list(zip(boxes, told, folds, strict=True))


def named(i: int, tries: str) -> str:
    return f"Right, at {tries}. The diagnosis below explains it. {i} of {N} runs named."


def wrong_for(i: int, told: dict[str, Any]) -> str:
    """One of the wrong diagnoses; another for each run."""
    return list(told["replies"])[i % (N - 1)]


def test_the_script_comes_when_a_run_comes_near(page) -> None:
    loaded = "[...document.scripts].some((one) => one.src.endsWith('mystery.js'))"
    assert not page.evaluate(loaded)
    runs(page)
    assert page.evaluate(loaded)


def test_every_run_is_named_wrong_and_right_by_keyboard_alone(page) -> None:
    """Tab, arrows and Enter, from one run to the next, and each word of it is heard."""
    found = runs(page)
    page.locator(".mystery-measures summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".mystery-measures table").first.is_visible()
    for i, (_, told, fold) in enumerate(found, 1):
        names, wrong = list(told["names"]), wrong_for(i, told)

        def tab_to(tag: str) -> None:
            here = f"document.activeElement.matches('.tinygpt-mystery {tag}')"
            for _ in range(40):  # past the links of a diagnosis and of a table
                page.keyboard.press("Tab")
                if page.evaluate(here):
                    return
            raise AssertionError(f"no Tab leads to the {tag}")

        tab_to("select")
        at = 0
        for key, heard in ((wrong, told["replies"][wrong]), (told["right"], "")):
            to = 1 + names.index(key)
            for _ in range(abs(to - at)):
                page.keyboard.press("ArrowDown" if to > at else "ArrowUp")
            at = to
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
            assert page.evaluate("window.heard.at(-1)") == (heard or named(i, "try 2"))
            if heard:
                assert not fold.locator("p").first.is_visible()
                page.keyboard.press("Shift+Tab")
        assert fold.locator("pre").is_visible()
    count = len(page.evaluate("window.heard"))
    page.keyboard.press("Enter")  # said again, so that it is heard again
    page.wait_for_function(f"window.heard.length > {count}")
    assert page.evaluate("window.heard.at(-1)") == named(N, "try 3")
    assert page.complaints == []


def test_every_run_is_named_wrong_and_right_by_mouse(page) -> None:
    page.reload()
    page.emulate_media(color_scheme="dark")
    for i, (box, told, fold) in enumerate(runs(page), 1):
        choose = box.get_by_label(f"What is wrong with run {i}?")
        button = box.get_by_role("button", name=f"Diagnose run {i}")
        said = box.get_by_role("status")
        button.click()
        assert said.inner_text() == "Choose a diagnosis first."
        wrong = wrong_for(i, told)
        choose.select_option(label=told["names"][wrong])
        button.click()
        assert said.inner_text() == told["replies"][wrong]
        choose.select_option(label=told["names"][told["right"]])
        button.click()
        assert said.inner_text() == named(i, "try 2")
        assert told["names"][told["right"]] in fold.locator("p").first.inner_text()
    assert sorted(told["right"] for _, told, _ in runs(page)) == sorted(told["names"])
    assert page.complaints == []


def test_it_fits_a_phone_and_axe_finds_nothing_in_both_themes(page) -> None:
    for fold in page.locator("details").all():
        fold.evaluate("fold => { fold.open = true; }")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []


def test_paper_has_the_whole_page(page) -> None:
    page.emulate_media(media="print")
    for box in page.locator(".tinygpt-mystery").all():
        assert not box.is_visible()
    for fold in page.locator(".tinygpt-diagnosis").all():
        assert fold.locator("pre").is_visible()
    assert all(table.is_visible() for table in page.locator("table").all())
    assert page.locator(".mystery-figure svg").count() == N


def test_no_other_page_loads_the_script(site: Path) -> None:
    asks = [
        path.name
        for path in (site / "book").glob("*.html")
        if 'data-script="mystery"' in path.read_text(encoding="utf-8")
    ]
    assert asks == ["mystery_runs.html"]
