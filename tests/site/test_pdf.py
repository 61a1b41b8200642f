"""The book for the printer: all pages joined, and one of them printed."""

import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from test_contrast import FAINT

pytest.importorskip("jupyter_book", reason="the packages that build the site")
import sys

sys.path.append(str(ROOT / "book"))  # its programs import each other
import offered
import pdf

NAMES = [name for _, pages in pdf.parts() for name in pages]


def test_all_pages_join_to_one_with_whole_links(site: Path) -> None:
    captions = {pdf.within(pages[0]): caption for caption, pages in pdf.parts()}
    book = pdf.join(site, NAMES, captions)
    ids = [node["id"] for node in book.body.select("[id]")]
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in book.body.select("a[href]")]
    assert len(links) > 500
    inside = [link[1:] for link in links if link.startswith("#")]
    assert set(inside) <= set(ids)
    assert all(re.match(r"#|https?:", link) for link in links)
    for node in book.select("[src], link[href]"):
        source = node.get("src") or node["href"]
        if not re.match(r"[a-z]+:", source):
            assert (site / source.split("?")[0]).is_file(), source
    assert not book.select("details:not([open])")
    assert not book.body.select("script, nav, button")
    chapters = (ROOT / "chapters").glob("*.ipynb")
    told = "".join(path.read_text(encoding="utf-8") for path in chapters)
    shown = [fold.get_text() for fold in book.select("details[open] > summary")]
    for kind in ("Answer", "Solution", "One solution", "Hint 1", "Put the lines in"):
        there = told.count(f"<summary>{kind}")
        assert sum(fold.startswith(kind) for fold in shown) == there > 10, kind
    questions = book.select(".tinygpt-question > p:first-child")
    assert len(questions) == told.count("**Question ") > 70
    headings = [heading for heading, _ in pdf.entries(book.select(pdf.ARTICLES))]
    entries = book.select(".contents li:not(.part)")
    assert len(headings) == len(entries) > len(NAMES) > 20
    assert [e.a.get_text() for e in entries[:2]] == [
        " ".join(heading.get_text().split()) for heading in headings[:2]
    ]
    assert len(book.select(".contents .part")) == len(captions) - 1


def test_a_printed_page_is_whole(site: Path, browser: Any, tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf", reason="the reader of PDFs")
    names = ["book/intro", "chapters/00_one_minute", "book/two_tools"]
    names += ["chapters/07_training"]  # one of its widgets asks a worker
    path = tmp_path / "some.pdf"
    pdf.print_book(browser, site, path, names, {})
    assert not (site / "_book.html").exists()
    pages = [page.extract_text() for page in pypdf.PdfReader(path).pages]
    assert all(len(text.split()) > 10 for text in pages), "an empty page"
    told = re.findall(r"^(.*?)\s*(\d+)$", pages[1], re.MULTILINE)[:-1]  # the foot
    assert len(told) >= len(names)
    for title, number in told:
        words = "".join(title.split())
        assert words[-8:] in "".join(pages[int(number) - 1].split()), title
    text = "".join("".join(pages).split())
    for hidden in ("Hidethecode", "Showthecode"):
        assert hidden not in text
    # A fold's code, an answer, a widget, its setting, the end of the longest line.
    wanted = ("defnext_pieces", "Answer", "Tryit:", "learningrate0.05", "attendsmostto")
    for shown in (*wanted, 'glue("minute_bits"'):
        assert shown in text, shown


def test_a_page_in_the_dark_is_printed_dark_on_white(site: Path, browser: Any) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto((site / "chapters" / "04_attention.html").as_uri())
    theme = "document.documentElement.dataset.theme"
    page.evaluate(f"addEventListener('beforeprint', () => {{ printed = {theme} }})")
    assert page.evaluate(theme) == "dark"
    page.pdf()
    assert page.evaluate("printed") == "light"
    assert page.evaluate(theme) == "dark"
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(FAINT) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == "rgb(255, 255, 255)"
    page.close()


def test_a_page_links_what_is_there(tmp_path: Path) -> None:
    page = tmp_path / "book" / "intro.html"
    page.parent.mkdir()
    one = '<span data-offer="a.pdf">as <em>a</em> PDF</span>'
    two = '<span data-offer="b/c.zip">zip</span>'
    page.write_text(f"<p>{one} {two}</p>", encoding="utf-8")
    offered.link_offers(tmp_path)
    assert page.read_text("utf-8") == f"<p>{one} {two}</p>"
    (tmp_path / "a.pdf").touch()
    for _ in range(2):  # as every program does that makes one
        offered.link_offers(tmp_path)
        linked = '<a href="../a.pdf">as <em>a</em> PDF</a>'
        assert page.read_text("utf-8") == f"<p>{linked} {two}</p>"


def test_without_a_site_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pdf.py", "--site", str(tmp_path)])
    with pytest.raises(SystemExit, match="There is no built site in"):
        pdf.main()
