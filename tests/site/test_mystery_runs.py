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

pytestmark = pytest.mark.timeout(600)  # the first test builds the site
N = 12


@pytest.fixture
def page(site: Path, browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 360, "height": 900})
    page = context.new_page()
    page.complaints = []
    context.route(
        re.compile("^(?!file:|data:|blob:)"),
        lambda route: (page.complaints.append(route.request.url), route.abort()),
    )
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto((site / "book" / "mystery_runs.html").as_uri())
    yield page
    assert page.complaints == []
    context.close()


def runs(page: Any) -> list[tuple[Any, dict[str, Any], Any]]:
    """Each run's box, what the page knows of it, and the fold that explains it."""
    boxes = page.locator(".tinygpt-mystery").all()
    folds = page.locator(".tinygpt-diagnosis").all()
    assert len(boxes) == len(folds) == N
    told = [json.loads(box.get_attribute("data-run")) for box in boxes]
    return list(zip(boxes, told, folds, strict=True))


def test_every_run_is_named_wrong_and_then_right(page) -> None:
    for i, (box, told, fold) in enumerate(runs(page), 1):
        said = box.get_by_role("status")
        choose = box.get_by_label(f"What is wrong with run {i}?")
        button = box.get_by_role("button", name=f"Diagnose run {i}")
        button.click()
        assert said.inner_text() == "Choose a diagnosis first."
        wrong = list(told["replies"])[i % (N - 1)]
        choose.select_option(label=told["names"][wrong])
        button.click()
        assert said.inner_text() == told["replies"][wrong]
        assert not fold.locator("p").first.is_visible()
        choose.select_option(label=told["names"][told["right"]])
        button.click()
        assert said.inner_text() == (
            f"Right, at try 2. The diagnosis below explains it. {i} of {N} runs named."
        )
        assert told["names"][told["right"]] in fold.locator("p").first.inner_text()
        assert fold.locator("pre").is_visible()
    assert sorted(told["right"] for _, told, _ in runs(page)) == sorted(told["names"])


def test_a_run_is_named_by_keyboard_alone(page) -> None:
    box, told, fold = runs(page)[0]
    page.locator(".mystery-measures summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".mystery-measures table").first.is_visible()
    here = "document.activeElement.matches('.tinygpt-mystery select')"
    for _ in range(30):  # past the links of the table
        page.keyboard.press("Tab")
        if page.evaluate(here):
            break
    assert page.evaluate(here)
    for _ in range(1 + list(told["names"]).index(told["right"])):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert box.locator("output").inner_text().startswith("Right, at the first try.")
    assert fold.locator("pre").is_visible()
    page.keyboard.press("Enter")  # said again, so that it is heard again
    page.wait_for_function(
        "document.querySelector('.tinygpt-mystery output').innerText"
    )


def test_it_fits_a_phone_and_axe_finds_nothing_in_both_themes(page) -> None:
    for fold in page.locator("details").all():
        fold.evaluate("fold => { fold.open = true; }")
    for box, told, _ in runs(page)[:2]:
        box.locator("select").select_option(told["right"])
        box.locator("button").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []


def test_paper_has_the_whole_page(page) -> None:
    page.emulate_media(media="print")
    for box, _, fold in runs(page):
        assert not box.is_visible()
        assert fold.locator("pre").is_visible()
    assert all(table.is_visible() for table in page.locator("table").all())
    assert page.locator(".mystery-figure svg").count() == N


def test_no_other_page_loads_the_script(site: Path) -> None:
    loads = [
        path.name
        for path in (site / "book").glob("*.html")
        if "mystery.js" in path.read_text(encoding="utf-8")
    ]
    assert loads == ["mystery_runs.html"]
