"""The course's interactive figures in a browser, each on a page of its own.

Skipped with a message where Chromium is missing. What it leaves out: the pages that
they stand on (`test_site`); whether their data are the models' own (`test_book`).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, violations

STATIC = (ROOT / "book" / "_static").as_uri()
ASKED = re.compile(r'<div class="tinygpt-widget" data-widget="(\w+)"([^>]*)>')
WANTED = (  # how the pages ask for each
    ("wavelengths", ""),
    ("sampling", 'data-data="sampling_pocket"'),
    ("attention", 'data-data="attention_pocket"'),
    ("attention", 'data-data="attention_story" data-mask="choose" data-query=" it"'),
    ("pencil", ""),
    ("product", ""),
    ("descent", 'data-kind="example"'),
    ("descent", 'data-kind="valley"'),
    ("depth", ""),
    ("neighbours", 'data-data="neighbours_story"'),
    ("merges", 'data-data="merges_course"'),
    ("moments", 'data-data="moments_stories"'),
)


@pytest.fixture
def widget(browser: Any, tmp_path: Path) -> Iterator[Any]:
    contexts = []

    def open_widget(name: str, settings: str = "", **window: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_text(
            '<!doctype html><html lang="en"><meta charset="utf-8">'
            f'<link rel="stylesheet" href="{STATIC}/course.css"><title>{name}</title>'
            f'<main><h1>{name}</h1><div class="tinygpt-widget" data-widget="{name}" '
            f"{settings}>Without scripts.</div></main>"
            f'<script src="{STATIC}/widgets.js"></script>',
            encoding="utf-8",
        )
        contexts.append(browser.new_context(**window))
        page = contexts[-1].new_page()
        page.complaints = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector(".tinygpt-widget[data-drawn]")
        return page

    yield open_widget
    for context in contexts:
        context.close()


def said(page: Any) -> str:
    return page.locator("output").first.inner_text()


def drag(page: Any, slider: Any, to: str) -> None:
    """Move a slider with the mouse to its first or last value."""
    box = slider.bounding_box()
    x = 2 if to == "first" else box["width"] - 2
    page.mouse.click(box["x"] + x, box["y"] + box["height"] / 2)


@pytest.mark.parametrize(("name", "settings"), WANTED)
def test_a_widget_is_accessible_and_fits_on_a_phone(widget, name, settings) -> None:
    page = widget(name, settings, viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator(".tinygpt-widget .title").count() == 1
    for button in page.get_by_role("button").all():
        button.click()
    for slider in page.get_by_role("slider").all():
        for key in ("Home", "End"):
            slider.press(key)
    for select in page.get_by_role("combobox").all():
        select.select_option(index=1)
    assert "NaN" not in page.locator(".tinygpt-widget").inner_html()
    assert page.complaints == []  # before axe-core, which reads style sheets
    assert violations(page) == []


def test_every_widget_of_a_page_is_tried_here() -> None:
    asked = set()
    for path in [*ROOT.glob("chapters/*.ipynb"), *ROOT.glob("book/*.md")]:
        text = path.read_text(encoding="utf-8").replace('\\"', '"')
        asked |= {name for name, _ in ASKED.findall(text)}
    files = {path.stem for path in (ROOT / "book/_static/widgets").glob("*.js")}
    with_data = {name for name in files if "_" in name}
    assert asked == files - with_data == {name for name, _ in WANTED}


def test_nothing_is_fetched_until_it_comes_near(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        '<!doctype html><div style="height: 5000px"></div>'
        '<div class="tinygpt-widget" data-widget="depth">Without scripts.</div>'
        f'<script src="{STATIC}/widgets.js"></script>',
        encoding="utf-8",
    )
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_timeout(100)
    assert not any(url.endswith("depth.js") for url in asked)
    assert page.locator(".tinygpt-widget").inner_text() == "Without scripts."
    page.locator(".tinygpt-widget").scroll_into_view_if_needed()
    page.wait_for_selector("[data-drawn]")
    assert any(url.endswith("depth.js") for url in asked)
    page.close()


def test_the_waves_answer_to_keyboard_and_mouse(widget) -> None:
    page = widget("wavelengths")
    assert "dimension 12 (sine" in said(page)
    pair, place, other = page.get_by_role("slider").all()
    pair.press("Home")
    assert "One wave is 6.3 tokens long" in said(page)
    assert pair.get_attribute("aria-valuetext") == "0 and 1"
    pair.press("End")
    assert "One wave is 47,117 tokens long" in said(page)
    drag(page, place, "first")
    assert "At position 0, dimension 62 (sine, solid) holds 0.000" in said(page)
    drag(page, other, "first")  # each of the 32 pairs adds sin^2 + cos^2 = 1
    assert "The dot product of positions 0 and 0 is 32.0." in said(page)


def test_three_tokens_apart_is_the_same_everywhere(widget) -> None:
    page = widget("wavelengths")
    _, place, other = page.get_by_role("slider").all()
    found = set()
    for first in (0, 10, 50):
        place.fill(str(first))
        other.fill(str(first + 3))
        found.add(said(page).split(" is ")[-1])
    assert len(found) == 1


def test_the_sentence_the_map_and_the_arithmetic_show_one_pair(widget) -> None:
    page = widget("attention", 'data-data="attention_story" data-query=" it"')
    assert said(page).startswith("“␣it” listens to ")
    page.locator("svg text", has_text="␣dog").first.hover()
    assert said(page).startswith("“␣it” listens to “␣dog” with a weight of ")
    row = page.locator("tbody tr.now")
    assert row.locator("th").inner_text() == "␣dog"
    _, score, power, weight = (float(n) for n in row.locator("td").all_inner_texts())
    assert power == pytest.approx(2.71828**score, abs=0.02)
    assert f"weight of {weight:.2f}" in said(page)
    weights = page.locator("tbody td:last-child").all_inner_texts()
    assert sum(map(float, weights)) == pytest.approx(1, abs=0.05)
    page.locator("tbody tr").first.hover()
    assert said(page).startswith("“␣it” listens to “Tom”")
    assert page.locator(".arc.now").count() == 1


def test_the_map_is_read_with_the_arrow_keys(widget) -> None:
    page = widget("attention", 'data-data="attention_pocket"')
    map_ = page.get_by_role("application")
    map_.press("Home")
    assert "“The” listens to “The” with a weight of 1.00" in said(page)
    map_.press("ArrowDown")
    map_.press("ArrowRight")
    assert "“␣customer” listens to “␣customer”" in said(page)
    map_.press("ArrowRight")  # not into the future
    assert "“␣customer” listens to “␣customer”" in said(page)
    map_.press("ArrowLeft")
    assert "“␣customer” listens to “The”" in said(page)
    before = said(page)
    page.get_by_role("combobox").first.select_option(index=3)
    assert "(layer 4, head 1)" in said(page)
    assert said(page) != before


def test_without_the_mask_a_token_looks_ahead(widget) -> None:
    page = widget("attention", 'data-data="attention_story" data-mask="choose"')
    page.get_by_role("application").press("Home")
    cells = page.locator("tbody tr").nth(1).locator("td")
    assert cells.all_inner_texts()[1:] == ["−∞", "0", "0"]
    page.get_by_role("combobox").last.select_option(index=1)
    assert float(cells.last.inner_text()) > 0
    page.get_by_role("application").press("ArrowRight")
    assert said(page).startswith("“Tom” listens to “␣gave”")


def test_the_next_token_answers_to_keyboard_and_mouse(widget) -> None:
    page = widget("sampling", 'data-data="sampling_pocket"')
    assert said(page).startswith("4,096 tokens can be chosen.")
    heat, k, p = page.get_by_role("slider").all()
    before = said(page)
    heat.press("ArrowLeft")
    assert said(page) != before
    drag(page, k, "first")
    assert said(page).startswith("1 token can be chosen.")
    page.get_by_role("button", name="Draw a token").press("Enter")
    assert "100.0 %" in page.locator("output").last.inner_text()
    k.press("End")
    p.press("Home")
    assert 1 <= int(said(page).split()[0]) < 50


def test_the_pencil_calculates_as_the_chapter_does(widget) -> None:
    page = widget("pencil")
    assert page.locator("tbody td:last-child").all_inner_texts() == [
        "0.77",
        "0.05",
        "0.19",
    ]
    assert said(page).endswith("= (2.49, 1.05).")
    page.get_by_label("query of it, first number").fill("0")
    page.get_by_label("query of it, second number").fill("2")
    weights = page.locator("tbody td:last-child").all_inner_texts()
    assert max(weights) == weights[1]  # the bone
    field = page.get_by_label("query of it, second number")
    field.fill("")
    assert field.get_attribute("aria-invalid") is not None
    assert page.locator("tbody td:last-child").all_inner_texts() == weights


def test_a_product_is_shown_cell_by_cell(widget) -> None:
    page = widget("product")
    results = page.get_by_role("group", name="result").get_by_role("button")
    assert results.all_inner_texts() == ["7", "0", "2", "3", "6", "0"]
    results.nth(4).focus()
    assert said(page) == "Row 2 times column 2: 0 · −1 + 3 · 2 = 6."
    page.get_by_label("first matrix, row 2, column 2").fill("6")
    assert results.all_inner_texts() == ["7", "0", "2", "6", "12", "0"]


def test_steps_go_downhill_as_on_the_page(widget) -> None:
    page = widget("descent", 'data-kind="example"')
    one = page.get_by_role("button", name="One step")
    one.click()
    assert said(page) == "After 1 step: loss 4, w = 1.8, b = 1.4."
    one.press("Enter")
    assert said(page) == "After 2 steps: loss 1, w = 2.2, b = 1.6."
    page.get_by_role("slider").fill("0.25")
    one.click()
    assert said(page) == "After 1 step: loss 36, w = 5, b = 3."


def test_one_rate_for_two_directions(widget) -> None:
    page = widget("descent", 'data-kind="valley"')

    def thirty_steps(rate: str) -> str:
        page.get_by_role("slider").fill(rate)
        page.get_by_role("button", name="Thirty steps").click()
        return said(page)

    # Beyond 2 / 25, SGD jumps higher up the other side with every step.
    assert re.match(r"SGD after \d+ steps: loss over a million\.", thirty_steps("0.5"))
    for found in re.findall(r"loss (\d+\.\d+)", thirty_steps("0.07")):
        assert float(found) < (81 + 25 * 9) / 2  # the loss at the start


def test_the_addition_keeps_the_gradient(widget) -> None:
    page = widget("depth")
    kind = page.get_by_role("combobox")
    layers, size = page.get_by_role("slider").all()
    layers.press("End")
    size.press("Home")

    def arrives(place: int) -> str:
        kind.select_option(index=place)
        return re.search(r"at the top, (\S+)( · 10\S+)? arrives", said(page)).group(0)

    assert "10^−" in arrives(0)
    assert "10^−" not in arrives(1)
    assert "10^−" not in arrives(2)


def test_neighbours_by_keyboard_and_mouse(widget) -> None:
    page = widget("neighbours", 'data-data="neighbours_story"')
    assert "␣cat" in said(page)
    page.locator("svg text", has_text=re.compile("^␣three$")).click()
    assert said(page).startswith("Nearest to “␣three”")
    assert "␣two" in said(page)
    page.get_by_role("combobox").select_option(label="␣king")
    assert "␣queen" in said(page)


def test_a_word_grows_merge_by_merge(widget) -> None:
    page = widget("merges", 'data-data="merges_course"')
    assert said(page) == "9 bytes, and no merge yet."
    slider = page.get_by_role("slider")
    slider.press("ArrowRight")
    assert said(page) == "Merge number 6 of the vocabulary makes “er”: 8 tokens."
    slider.press("End")
    assert page.locator(".chip").all_inner_texts() == ["␣customer"]
    page.get_by_role("combobox").select_option(index=1)
    assert page.locator(".chip").count() == 8


def test_a_run_through_time(widget) -> None:
    page = widget("moments", 'data-data="moments_stories"')
    expect = pytest.importorskip("playwright.sync_api").expect
    moment, prompt = page.get_by_label("moment"), page.get_by_label("prompt")
    text, near = page.locator(".history .text"), page.locator(".history .near")
    expect(page.locator(".lens li")).to_have_count(2)
    late = [text.inner_text(), near.inner_text()]
    assert all(f"␣{word}”" in late[1] for word in ("so", "too", "more", "as", "even"))
    assert (ROOT / "book/_static/widgets/moments_stories.js").stat().st_size < 3_000_000
    moment.press("Home")
    expect(text).not_to_have_text(late[0])
    expect(near).not_to_have_text(late[1])
    assert re.fullmatch(
        r"step 0, \d\.\d\d bits.*", moment.get_attribute("aria-valuetext")
    )
    assert not re.search(r"[\0-\x08\x0b-\x1f]", text.inner_text())  # noise can be seen
    drag(page, moment, "last")
    expect(text).to_have_text(late[0])
    prompt.fill("The little girl was very")
    prompt.press("Tab")
    expect(text).to_contain_text("The little girl was very")
    prompt.fill("")
    prompt.press("Tab")
    expect(page.locator(".history output")).to_contain_text("The prompt is empty")
    assert page.complaints == []
