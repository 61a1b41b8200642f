"""Print the built site as one book: `python book/pdf.py [--site FOLDER] [--to FILE]`.

The articles of all pages, in the order of the table of contents, are joined to one page
of HTML and printed by Chromium with `print.css`: every fold open, widgets as they stand
when they are opened, links between pages as links inside the book. The page numbers of
the contents come from a first print, the file from a second. The reference of the
package is the appendix.

What it leaves out: what moves. A widget stands still, and a quiz shows its answers.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup, Tag
from offered import link_offers

HERE = Path(__file__).resolve().parent
SITE = HERE / "_build" / "html"
APPENDIX = "The package"  # a part of the table of contents
MAY_BREAK = 16  # lines of a cell of code from which a page may end within it
NOT_PRINTED = "nav.way, .headerlink, button, script, style, .toctree-wrapper"
WRITE_NUMBERS = """numbers => document.querySelectorAll(".contents .number")
  .forEach((place, i) => { place.textContent = numbers[i]; })"""
ALL_FORMULAS = """() => [...document.querySelectorAll(".math")]
  .every(formula => formula.querySelector("mjx-container"))"""
IS_DRAWN = "widget => 'drawn' in widget.dataset"
ARTICLES = ".page[id]"  # the contents have no id
NO_ENTRY = {"Exercises", "Quiz", "Summary", "References"}  # every chapter has these
FOOT = (
    '<div style="width: 100%; text-align: center; font: 8pt system-ui, sans-serif; '
    'color: #555"><span class="pageNumber"></span></div>'
)


def parts() -> list[tuple[str, list[str]]]:
    """The parts of the book, each with the names of its pages."""
    toc = yaml.safe_load((HERE.parent / "_toc.yml").read_text(encoding="utf-8"))
    found = [("", [toc["root"]])]
    for part in toc["parts"]:
        names = [entry["file"] for entry in part["chapters"]]
        last = part["caption"] == APPENDIX
        found.append(("Appendix: the package" if last else part["caption"], names))
    return found


def within(name: str, target: str = "") -> str:
    """The id that an id of a page has in the joined book."""
    return name.replace("/", "-") + (f"--{target}" if target else "")


def article(site: Path, name: str, printed: set[str]) -> Tag:
    """A page's article, its ids and links made those of the joined book."""
    text = (site / f"{name}.html").read_text(encoding="utf-8")
    found = BeautifulSoup(text, "html.parser").find("article", class_="bd-article")
    for node in found.select(NOT_PRINTED):
        node.decompose()
    for code in found.find_all(class_="cell_input"):
        if code.get_text().strip().count("\n") >= MAY_BREAK:
            code["class"] = [*code["class"], "long"]
    folder = Path(name).parent
    for node in found.find_all(True):  # selectors would take four times as long
        if node.name == "details":
            node["open"] = ""
        if "id" in node.attrs:
            node["id"] = within(name, node["id"])
        if "src" in node.attrs:
            node["src"] = _from_root(folder, node["src"])
    for link in found.find_all("a", href=True):
        file, _, target = link["href"].partition("#")
        if re.match(r"[a-z]+:", file):
            continue
        page = _from_root(folder, file).removesuffix(".html") if file else name
        if page in printed:
            link["href"] = "#" + within(page, target)
        else:
            link.unwrap()  # to a file
    found.name, found["id"] = "section", within(name)
    found["class"] = ["bd-article", "page"]
    return found


def _from_root(folder: Path, link: str) -> str:
    """A link of a page, as one from the root of the site."""
    if re.match(r"[a-z]+:", link):
        return link
    steps: list[str] = []
    for step in (*folder.parts, *link.split("/")):
        if step == "..":
            steps.pop()
        elif step != ".":
            steps.append(step)
    return "/".join(steps)


def entries(articles: list[Tag]) -> Iterator[tuple[Tag, bool]]:
    """The headings that the contents list, and whether each opens a page."""
    for page in articles:
        yield page.select_one("h1"), True
        if page["id"].startswith("chapters-"):
            for heading in page.select("h2"):
                if heading.get_text().strip() not in NO_ENTRY:
                    yield heading, False


def join(site: Path, names: list[str], captions: dict[str, str]) -> BeautifulSoup:
    """One page of HTML with the title, the contents (unnumbered) and all articles."""
    first = (site / f"{names[0]}.html").read_text(encoding="utf-8")
    book = BeautifulSoup(first, "html.parser")
    for node in book.select("script, link[rel=prefetch], link[rel=preload]"):
        source = node.get("src", "") + (node.string or "")
        if not re.search(r"mathjax|MathJax", source):
            node.decompose()
    for node in book.select("head [src], head [href]"):
        key = "src" if node.get("src") else "href"
        node[key] = _from_root(Path(names[0]).parent, node[key])
    widgets = {"src": "_static/widgets.js", "defer": ""}  # not every page asks for it
    book.head.append(book.new_tag("script", attrs=widgets))
    articles = [article(site, name, set(names)) for name in names]
    contents = book.new_tag("ol", attrs={"class": "contents"})
    for heading, opens in entries(articles):
        at = heading.parent.get("id") or heading.find_parent(id=True)["id"]
        page = heading.find_parent("section", class_="page")["id"]
        if opens and captions.get(page):
            caption = book.new_tag("li", attrs={"class": "part"})
            caption.string = captions[page]
            contents.append(caption)
        entry = book.new_tag("li", attrs={"class": "opens" if opens else "inside"})
        link = book.new_tag("a", href=f"#{at}")
        link.string = " ".join(heading.get_text().split())
        number = book.new_tag("span", attrs={"class": "number"})
        entry.extend([link, number])
        contents.append(entry)
    front = BeautifulSoup(
        '<section class="front"><h1>TinyGPT</h1>'
        "<p>A Transformer from scratch: from a text file to a GPT that speaks</p>"
        "<p>The TinyGPT authors</p></section>"
        '<section class="page"><h1>Contents</h1></section>',
        "html.parser",
    )
    front.select("section")[1].append(contents)
    book.html["data-theme"] = book.html["data-mode"] = "light"
    book.title.string = "TinyGPT"
    body = book.new_tag("body", attrs={"class": "tinygpt-book"})
    content = book.new_tag("main", attrs={"class": "bd-content"})
    content.extend([*front.contents, *articles])
    body.append(content)
    book.body.replace_with(body)
    return book


def opened(page: Any, path: Path) -> None:
    """Show the joined page, until formulas and widgets are drawn."""
    page.goto(path.as_uri(), wait_until="load")
    page.wait_for_function(ALL_FORMULAS)
    for widget in page.locator(".tinygpt-widget").all():
        widget.scroll_into_view_if_needed()
        page.wait_for_function(IS_DRAWN, arg=widget.element_handle())
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate(
        "Promise.all([...document.images].map(i => (i.loading = 'eager', i.decode())))"
    )


def pages_of_headings(path: Path) -> list[int]:
    """The page of each heading, from the outline of a PDF."""
    from pypdf import PdfReader

    reader = PdfReader(path)

    def walk(outline: list[Any]) -> Iterator[int]:
        for entry in outline:
            if isinstance(entry, list):
                yield from walk(entry)
            else:
                yield reader.get_destination_page_number(entry) + 1

    return list(walk(reader.outline))


def numbers(book: BeautifulSoup, path: Path) -> list[int]:
    """The page of each entry of the contents, as a PDF of the book has it."""
    pages, found = pages_of_headings(path), book.select("h1, h2, h3, h4, h5, h6")
    if len(found) != len(pages):
        sys.exit(f"The PDF's outline has {len(pages)} headings, the book {len(found)}.")
    at = {id(heading): page for heading, page in zip(found, pages, strict=True)}
    return [at[id(heading)] for heading, _ in entries(book.select(ARTICLES))]


def write(site: Path, path: Path, names: list[str], captions: dict[str, str]) -> None:
    """Print the pages into one PDF."""
    from playwright.sync_api import Error, sync_playwright

    names = ("chromium", "chromium-browser", "chromium-headless-shell")
    program = next(filter(None, map(shutil.which, names)), None)
    options = {"executable_path": program, "args": ["--no-sandbox", "--disable-gpu"]}
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(**options)
        except Error:
            sys.exit(
                "Chromium, which prints the book, does not start: install it, or run "
                "`.venv/bin/playwright install chromium`."
            )
        print_book(browser, site, path, names, captions)
        browser.close()


def print_book(
    browser: Any, site: Path, path: Path, names: list[str], captions: dict[str, str]
) -> None:
    """The same, in a browser that is there already."""
    book = join(site, names, captions)
    joined = site / "_book.html"  # beside what it shows
    joined.write_text(str(book), encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.set_default_timeout(600_000)
    try:
        opened(page, joined)
        found: list[int] = []
        for _ in range(4):  # twice as a rule: the numbers have their room beforehand
            page.pdf(
                path=path,
                outline=True,
                tagged=True,
                prefer_css_page_size=True,
                print_background=True,
                display_header_footer=True,
                header_template="<span></span>",
                footer_template=FOOT,
            )
            before, found = found, numbers(book, path)
            if found == before:
                break
            page.evaluate(WRITE_NUMBERS, found)
        else:
            sys.exit("The numbers in the contents move the pages again and again.")
    finally:
        context.close()
        joined.unlink()


def main() -> None:
    """Read the command line, print the book, link it from the site."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--site", type=Path, default=SITE, help="the built site")
    parser.add_argument("--to", type=Path, help="the PDF (in the site)")
    options = parser.parse_args()
    made = options.to or options.site / "tinygpt.pdf"
    book = parts()
    names = [name for _, pages in book for name in pages]
    captions = {within(pages[0]): caption for caption, pages in book}
    if not (options.site / f"{names[0]}.html").is_file():
        sys.exit(f"There is no built site in {options.site}: `make book` builds it.")
    try:
        import playwright
        import pypdf
    except ImportError as error:
        sys.exit(f"The book needs {error.name} to be printed: `make pdf` installs it.")
    del playwright, pypdf
    write(options.site, made, names, captions)
    link_offers(options.site)
    print(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
