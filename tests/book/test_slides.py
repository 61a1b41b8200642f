"""The page for teachers and the decks of slides made from it."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import violations
from test_book import CHAPTERS, ROOT, code, load_tool

pytest.importorskip("markdown_it", reason="the packages that build the site")
tool = load_tool("slides")
LEADS = [
    "title",
    "Question",
    "The one idea",
    "Goals",
    "Minutes",
    "On the board",
    "What goes wrong",
    "Discuss",
    "Ninety minutes",
    "One day",
]
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


@pytest.fixture(scope="module")
def decks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    tool.make(folder)
    return folder


@each_chapter
def test_the_page_for_teachers_says_all_of_each_chapter(path: Path) -> None:
    guide = tool.guides()[path.stem[:2]]
    assert list(guide) == LEADS
    assert guide["Goals"].count("\n- ") >= 3
    assert guide["What goes wrong"].count("- ") >= 3
    assert guide["Discuss"].count("?") + guide["Discuss"].count(".") >= 3
    lines = tool.board(guide).splitlines()
    assert 2 <= len(lines) <= tool.MAX_CODE
    there = {line.strip() for line in code(path).splitlines()}
    assert [line for line in lines if line.strip() not in there] == []


def test_the_minutes_add_up() -> None:
    page = (ROOT / "book" / "for_teachers.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d\d) .*? \| (\d+) \| (\d*) ?\| (\d*) ?\|$", page, re.M)
    assert [row[0] for row in rows] == [path.stem[:2] for path in CHAPTERS]
    day, short = (sum(int(row[i] or 0) for row in rows) for i in (2, 3))
    assert (day, short) == (6 * 60, 90)
    guides = tool.guides()
    for number, term, *_ in rows:
        parts = re.findall(r"(?:^|, |; )(\d+) (?=for|to)", guides[number]["Minutes"])
        assert sum(map(int, parts)) == int(term), number


@each_chapter
def test_a_deck_is_whole_and_stands_alone(decks: Path, path: Path) -> None:
    text = (decks / f"{path.stem}.html").read_text(encoding="utf-8")
    sections = re.findall(r"<section.*?</section>", text, re.DOTALL)
    assert 8 <= len(sections) <= 15
    headings = [re.search(r"<h[12]>(.*?)</h", section)[1] for section in sections]
    for wanted in ("Run it, and look", "The one idea", "In code", "Quiz", "Discuss"):
        assert wanted in headings
    assert any(heading.startswith("Exercise") for heading in headings)
    assert "src=" in text and 'alt=""' not in text
    assert 'class="caption"></p>' not in text
    assert '<div class="fragment"><p><strong>' in text  # the answer of the question
    for left in ("<!--", "](", "**", "```"):
        assert left not in re.sub(r"<pre>.*?</pre>", "", text, flags=re.DOTALL), left
    for link in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert link.startswith("data:") or (decks / link).is_file()


def test_the_slides_show_in_a_browser(decks: Path, browser: Any) -> None:
    """Every slide of one deck, by keyboard, from a file; nothing is cut off."""
    context = browser.new_context(viewport={"width": 960, "height": 540}, offline=True)
    page, complaints = context.new_page(), []
    page.on("console", lambda m: complaints.append(f"{m.type}: {m.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((decks / "04_attention.html").as_uri())
    page.wait_for_function("window.Reveal && Reveal.isReady()")
    page.wait_for_selector("mjx-container", state="attached")
    count, seen, cut = page.evaluate("Reveal.getTotalSlides()"), set(), []
    while True:
        here = page.evaluate("Reveal.getIndices().h")
        seen.add(here)
        cut += page.evaluate(
            """() => {
              const slide = Reveal.getCurrentSlide();
              return slide.scrollHeight > slide.clientHeight + 1
                || slide.scrollWidth > slide.clientWidth + 1 ? [slide.innerText] : [];
            }"""
        )
        if page.evaluate("Reveal.isLastSlide()"):
            break
        page.keyboard.press("ArrowRight")  # a fragment takes one, too
    assert len(seen) == count
    assert cut == []
    assert complaints == []
    assert violations(page) == []
    context.close()
