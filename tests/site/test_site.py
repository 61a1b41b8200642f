"""The built site in a browser, with the network blocked.

Skipped with a message where Chromium or the packages that build the site are missing.
What it leaves out: what the chapters compute (nbval) and say (`test_book`).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from conftest import ROOT, violations
from test_contrast import FAINT

pytestmark = pytest.mark.timeout(600)  # the first test builds the site

TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"]]
PAGES += [entry["file"] for part in TOC["parts"] for entry in part["chapters"]]
each_page = pytest.mark.parametrize("name", PAGES)
CHAPTERS = [Path(name) for name in PAGES if name.startswith("chapters/")]
each_chapter = pytest.mark.parametrize("name", [str(path) for path in CHAPTERS])


class Visit:
    """One page in a fresh window; what it asked for and complained about."""

    def __init__(
        self, browser: Any, path: Path, query: str = "", **window: Any
    ) -> None:
        window = {"viewport": {"width": 1200, "height": 900}} | window
        context = browser.new_context(**window)
        context.set_default_timeout(120_000)
        self.outside: list[str] = []
        self.complaints: list[str] = []
        context.route(re.compile("^(?!file:|data:|blob:)"), self._block)
        self.page = context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path.as_uri() + query, wait_until="load")

    def _block(self, route: Any) -> None:
        self.outside.append(route.request.url)
        route.abort()

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def close(self) -> None:
        self.page.context.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    visits = []

    def open_page(path: Path, query: str = "", **window: Any) -> Visit:
        visits.append(Visit(browser, path, query, **window))
        return visits[-1]

    yield open_page
    for one in visits:
        one.close()


def turn(page: Any, scheme: str) -> None:
    """Show the page as a reader who prefers `scheme` sees it, when all has faded in."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        """scheme => document.documentElement.dataset.theme === scheme
        && document.getAnimations().every((one) => one.playState !== "running")""",
        arg=scheme,
    )


PHONE = {"width": 360, "height": 740}
TOO_WIDE = """() => [...document.querySelectorAll(".bd-article *")].filter((e) => {
  const r = e.getBoundingClientRect();
  if (r.width === 0 || r.right <= window.innerWidth + 1) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== "visible") return false;
  return true;
}).map((e) => e.outerHTML.slice(0, 120))"""
# A link among other words, which must differ from them by more than its colour.
LIKE_TEXT = """() => [...document.querySelectorAll(
  ".bd-article :is(p, li, td, dd) a:not(.headerlink)")].filter((a) =>
  a.checkVisibility() && getComputedStyle(a).textDecorationLine !== "underline"
  && a.textContent.trim() !== a.parentElement.textContent.trim()
).map((a) => a.outerHTML.slice(0, 120))"""


@each_page
def test_a_page_stands_alone_fits_and_is_accessible(
    site: Path, visit, name: str
) -> None:
    """All in one visit: on a phone in the dark, then on a desk in the light."""
    path = site / f"{name}.html"
    here = visit(path, color_scheme="dark", viewport=PHONE)
    page = here.page
    if "math notranslate" in path.read_text(encoding="utf-8"):
        page.wait_for_selector("mjx-container", state="attached")
        assert page.locator("mjx-merror").count() == 0
    for box in page.locator(".tinygpt-widget").all():
        box.scroll_into_view_if_needed()  # what is far away is not fetched
    page.wait_for_function(
        "!document.querySelector('.tinygpt-widget:not([data-drawn])')"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(LIKE_TEXT) == []
    assert here.outside == []
    assert here.complaints == []  # before axe-core, which reads style sheets
    page.set_viewport_size({"width": 1200, "height": 900})
    assert page.evaluate(FAINT) == []
    slow = ("color-contrast", "link-in-text-block")  # FAINT and LIKE_TEXT are quicker
    if name == CHAPTERS[0].as_posix():
        slow = ()
        assert violations(page, only=("link-in-text-block",)) == []
    turn(page, "light")
    assert page.evaluate(FAINT) == []
    assert violations(page, without=slow) == []


def test_a_link_without_a_line_is_found(browser: Any) -> None:
    page = browser.new_page()
    page.set_content(
        '<main class="bd-article"><p>See <a href="#a">this</a> and '
        '<a href="#b" style="text-decoration: none">that</a>.</p></main>'
    )
    found = page.evaluate(LIKE_TEXT)
    page.close()
    assert [words[:12] for words in found] == ['<a href="#b"']


def test_buttons_that_need_a_network_hide_without_one(visit, tmp_path: Path) -> None:
    """As they stand on a page of a site that knows its repository (`test_public`)."""
    static = (ROOT / "book" / "_static").as_uri()
    (tmp_path / "page.html").write_text(
        f'<link rel="stylesheet" href="{static}/course.css">'
        f'<script src="{static}/accessibility.js" defer></script>'
        '<div class="dropdown dropdown-launch-buttons">Colab</div>'
        '<div class="dropdown dropdown-source-buttons">Repository</div>',
        encoding="utf-8",
    )
    page = visit(tmp_path / "page.html").page
    buttons = page.locator(".dropdown").all()
    assert [button.is_visible() for button in buttons] == [True, True]
    page.context.set_offline(True)
    page.wait_for_selector(".dropdown-launch-buttons", state="hidden")
    assert [button.is_visible() for button in buttons] == [False, False]
    page.context.set_offline(False)
    page.wait_for_selector(".dropdown-launch-buttons", state="visible")


def test_search_finds_softmax(site: Path, visit) -> None:
    here = visit(site / "search.html", "?q=softmax")
    here.page.wait_for_selector("ul.search li a")
    assert "Glossary" in here.page.inner_text("#search-results")
    assert here.outside == []


def test_links_inside_the_site_lead_somewhere(site: Path) -> None:
    ids: dict[Path, set[str]] = {}
    for page in sorted(site.rglob("*.html")):
        if page.stem.endswith("webpack-macros"):  # the theme's own template
            continue
        ids[page] = set(re.findall(r'\sid="([^"]+)"', page.read_text(encoding="utf-8")))
    broken = []
    for page in ids:
        text = page.read_text(encoding="utf-8")
        for link in set(re.findall(r'\shref="([^"]+)"', text)):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file.split("?")[0]).resolve() if file else page
            if not target.exists() or (
                anchor and target in ids and anchor not in ids[target]
            ):
                broken.append(f"{page.name}: {link}")
    assert broken == []


@each_page
def test_no_markup_is_left_in_the_text(site: Path, name: str) -> None:
    """Roles and directives that the build did not know, numbers that were not there."""
    text = (site / f"{name}.html").read_text(encoding="utf-8")
    (article,) = re.findall(r"<article.*?</article>", text, re.DOTALL)
    not_prose = r"<(pre|script|style)\b.*?</\1>|<!--.*?-->"
    prose = re.sub(not_prose, "", article, flags=re.DOTALL)
    left = r"\{[a-z][\w:-]*\}\s*(?:`|<code)|:::|```|<(?:p|td)>\s*(?:None|nan)\s*</"
    left += r"|&lt;!–|\w\|\.\d"  # a comment that was cut in two, by the bar of a table
    assert re.findall(left, prose) == []


@each_chapter
def test_plain_markdown_becomes_a_page_of_the_course(site: Path, name: str) -> None:
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    prose = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    page = (site / f"{name}.html").read_text(encoding="utf-8")
    for markdown, html in (
        (r"^> \*\*", 'class="(?:warning|tip|note) admonition"'),
        (r"^#+ (?:Exercise |Make it yours)", 'class="exercise"'),
        (r"^\*Figure:", '<p class="caption"><em>Figure'),
    ):
        there = len(re.findall(markdown, prose, re.MULTILINE))
        assert len(re.findall(html, page)) == there, markdown
    linked = re.findall(r'href="\.\./book/glossary\.html#(term-[^"]+)"', page)
    assert len(linked) > 3
    assert len(linked) == len(set(linked))  # the first use only
    package = re.findall(r"\]\(\.\./tinygpt/(\w+)/(\w+)\.py\)", prose)
    for room, module in package:
        target = rf'api_{room}\.html#(?:module-)?tinygpt\.{room}\.{module}[."]'
        assert re.search(target, page), module
    (way,) = re.findall(r'<nav class="way".*?</nav>', page)
    assert re.findall(r'href="(\w+)\.html"', way) == [path.stem for path in CHAPTERS]
    assert re.findall(r'(\w+)\.html" aria-current="page"', way) == [Path(name).stem]


def test_a_figure_follows_the_theme(site: Path, visit) -> None:
    """A heat map by a second picture, others by a filter, and never two at once."""
    page = visit(site / "chapters" / "04_attention.html").page
    for scheme, other in (("dark", "light"), ("light", "dark")):
        turn(page, scheme)
        twins = page.locator(f".cell_output img.only-{scheme}").all()
        assert len(twins) == 2
        for twin in twins:
            assert twin.evaluate("e => getComputedStyle(e).filter") == "none"
            assert twin.evaluate("e => getComputedStyle(e).display") != "none"
        for twin in page.locator(f".cell_output img.only-{other}").all():
            assert not twin.is_visible()
        plain = page.locator(".cell_output img:not(.only-light, .only-dark)").first
        turned = plain.evaluate("e => getComputedStyle(e).filter") != "none"
        assert turned == (scheme == "dark")


SCALES = """() => [...document.querySelectorAll(".bd-content .cell_output img")]
  .filter((picture) => picture.checkVisibility())
  .map((picture) => picture.getBoundingClientRect().width / picture.naturalWidth)"""
SMALLEST = 10 / 72 * 200  # pixels of the letters of 10 points in a figure


def test_on_a_phone_a_wide_figure_scrolls_and_the_page_does_not(
    site: Path, visit
) -> None:
    page = visit(site / "chapters" / "05_masking.html", viewport=PHONE).page
    two_panels = page.locator(".cell_output img.wide >> visible=true")
    assert two_panels.count() == 2
    scales = page.evaluate(SCALES)
    assert len(scales) == 3
    assert all(8.5 < scale * SMALLEST < 10 for scale in scales)
    for picture in two_panels.all():
        box = picture.locator("..")
        assert box.evaluate("e => e.scrollWidth - e.clientWidth") > 200
        box.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("e => e.scrollLeft > 0", arg=box.element_handle())
    assert violations(page, only=("scrollable-region-focusable",)) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.set_viewport_size({"width": 1200, "height": 900})
    for picture in two_panels.all():  # on a desk it fits
        box = picture.locator("..")
        assert box.evaluate("e => e.scrollWidth - e.clientWidth") == 0


def test_on_a_phone_nothing_lies_on_the_text(site: Path, visit) -> None:
    page = visit(site / "book" / "train_your_own.html", viewport=PHONE).page
    page.evaluate("scrollTo(0, 900)")
    page.evaluate("scrollTo(0, 700)")  # going up, the theme shows its button
    page.wait_for_timeout(500)
    button = page.locator("#pst-back-to-top")
    assert button.count() == 1
    assert not button.is_visible()


def test_pages_carry_what_the_outside_wants_to_know(site: Path) -> None:
    intro = (site / "book" / "intro.html").read_text(encoding="utf-8")
    for wanted in ('property="og:title"', 'property="og:image"', 'rel="icon"'):
        assert wanted in intro
    assert (site / "_static" / "card.png").is_file()
    sitemap = (site / "sitemap.xml").read_text(encoding="utf-8")
    assert all(f"{name}.html" in sitemap for name in PAGES)


def test_a_reader_meets_the_trained_model(site: Path, visit) -> None:
    for name in ("book/playground", "chapters/04_attention"):
        here = visit(site / f"{name}.html", viewport={"width": 360, "height": 740})
        page, box = here.page, here.page.locator(".tinygpt-playground").first
        box.get_by_role("button", name="Start pocket-gpt2").click()
        box.get_by_label("prompt").wait_for()
        for fold in box.locator("summary").all():
            fold.click()
        box.locator(".heard li").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert here.outside == []
        assert here.complaints == []
        assert violations(page) == []
