"""Make a deck of slides for each chapter: `python book/slides.py [--to FOLDER]`.

What a deck says comes from `for_teachers.md`, what it shows from the chapter: the first
output, the figures with their captions, an exercise, a question of the quiz. The folder
carries all that the decks need, reveal.js (book/reveal, MIT) and MathJax, so that it
opens from a stick, without a network. In a deck, F is full screen, Esc an overview, and
`?print-pdf` behind the address prints it.

What it leaves out: speaker's notes, which are the page for teachers itself.
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import NamedTuple

import nbformat
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode
from offered import link_offers

HERE = Path(__file__).resolve().parent
SITE = HERE / "_build" / "html"
MAX_CODE = 8  # lines of code on a slide
MAX_FIGURES = 5
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="reveal/deck.css">
<script defer src="reveal/reveal.js"></script>
<script defer src="reveal/deck.js"></script>
<script defer src="mathjax/tex-mml-chtml.js"></script>
</head>
<body>
<div class="reveal"><div class="slides">
{slides}
</div></div>
</body>
</html>
"""

markdown = MarkdownIt("commonmark").enable("table")
markdown.use(
    dollarmath_plugin,
    renderer=lambda formula, mode: (
        rf"\[{escape(formula)}\]" if mode["display_mode"] else rf"\({escape(formula)}\)"
    ),
)


class Figure(NamedTuple):
    """A picture of a chapter, as it stands there."""

    heading: str
    png: str  # in base64
    alt: str
    caption: str


def guides() -> dict[str, dict[str, str]]:
    """What the page for teachers says of each chapter, by number and lead.

    A lead is what a paragraph begins with, in bold and with a full stop; its text goes
    on to the next one. "title" is the chapter's name.
    """
    page = (HERE / "for_teachers.md").read_text(encoding="utf-8")
    found = {}
    for number, title, body in re.findall(
        r"^## (\d\d) ([^\n]*)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL
    ):
        parts = re.split(r"^\*\*(.+?)\.\*\*\s*", body, flags=re.MULTILINE)
        leads = dict(zip(parts[1::2], map(str.strip, parts[2::2]), strict=True))
        found[number] = {"title": title} | leads
    return found


def board(guide: dict[str, str]) -> str:
    """The code to type in front of the class."""
    return re.search(r"```python\n(.*?)```", guide["On the board"], re.DOTALL)[1]


def plain(text: str) -> str:
    """Markdown without links and comments, which lead nowhere from a slide."""
    return re.sub(r"!?\[([^][]*)\]\([^)]*\)", r"\1", re.sub(r"<!--.*?-->", "", text))


def figures(notebook: NotebookNode) -> Iterator[Figure]:
    """The pictures, each with the heading above it and the caption below."""
    heading = ""
    for cell, after in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        if cell.cell_type == "markdown":
            heading = (
                re.findall(r"^##? (.*)", cell.source, re.MULTILINE)[-1:] or heading
            )
            continue
        for output in cell.outputs:
            if png := output.get("data", {}).get("image/png"):
                alt = cell.metadata["mystnb"]["image"]["alt"]
                told = after.source if after is not None else ""
                caption = re.search(r"^\*Figure: (.*?)\*$", told, re.DOTALL | re.M)
                below = plain(caption[1]) if caption else ""
                yield Figure("".join(heading), png, alt, below)


def first_output(notebook: NotebookNode) -> tuple[str, str]:
    """The first text that a cell of the chapter prints, and what was said before it."""
    said = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"^#.*", "", cell.source, flags=re.MULTILINE).strip()
            said = plain(prose.split("\n\n")[-1]) or said
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                sentences = re.split(r"(?<=[.?!)]) (?=[A-Z(*`])", said)
                return " ".join(sentences[-2:]), output.text.strip()
    return said, ""


def first(pattern: str, notebook: NotebookNode) -> str:
    """The first piece of the chapter's prose that fits, as Markdown; or nothing."""
    prose = "\n\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    found = re.search(pattern, prose, re.MULTILINE | re.DOTALL)
    return plain(found[1]).strip() if found else ""


def slides(guide: dict[str, str], notebook: NotebookNode) -> Iterator[str]:
    """The slides of one chapter, from its question to what was gained."""
    title = first(r"^# (\d\d .*?)$", notebook)
    question = markdown.renderInline(guide["Question"])
    yield f'<section class="title"><h1>{escape(title)}</h1><p>{question}</p></section>'
    yield slide("Afterwards you can", guide["Goals"].partition("\n")[2])
    said, printed = first_output(notebook)
    yield slide("Run it, and look", f"{said}\n\n```\n{printed}\n```")
    yield slide("The one idea", guide["The one idea"], "idea")
    if predict := first(r"^> \*\*Predict\.?\*\*\.?(.*?)\n\n", notebook):
        yield slide("Predict", re.sub(r"^> ?", "", predict, flags=re.M), "idea")
    for figure in list(figures(notebook))[:MAX_FIGURES]:
        yield (
            f"<section><h2>{markdown.renderInline(figure.heading)}</h2>"
            f'<img src="data:image/png;base64,{"".join(figure.png.split())}" '
            f'alt="{escape(figure.alt)}">'
            f'<p class="caption">{markdown.renderInline(figure.caption)}</p></section>'
        )
    code = board(guide)
    wide = max(map(len, code.splitlines())) > 64
    kind = "code wide" if wide else "code"
    yield slide("In code", f"```python\n{code}```", kind)
    asked = first(r"^### (Exercise .*?)(?=^### |^## |<details|\Z)", notebook)
    heading, _, task = asked.partition("\n")
    yield slide(heading, task)
    quiz = first(r"^\*\*Question 1\.\*\*(.*?)(?=<details|\Z)", notebook)
    answer = first(r"<summary>Answer</summary>(.*?)</details>", notebook)
    shown = markdown.render(answer)
    yield slide("Quiz", quiz, after=f'<div class="fragment">{shown}</div>')
    yield slide("Discuss", guide["Discuss"])
    yield slide("Summary", first(r"^## Summary\n(.*?)\n\n", notebook), "idea")


def slide(heading: str, body: str, kind: str = "", after: str = "") -> str:
    """One slide, its body in Markdown."""
    start = f'<section class="{kind}">' if kind else "<section>"
    text = markdown.render(body)
    return f"{start}<h2>{markdown.renderInline(heading)}</h2>{text}{after}</section>"


def make(folder: Path) -> list[Path]:
    """Write all decks and their index; gives the paths of the decks."""
    told = guides()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(HERE / "reveal", folder / "reveal", dirs_exist_ok=True)
    shutil.copytree(
        HERE / "_static" / "mathjax", folder / "mathjax", dirs_exist_ok=True
    )
    decks, links = [], []
    for chapter in sorted((HERE.parent / "chapters").glob("*.ipynb")):
        guide = told[chapter.stem[:2]]
        shown = "\n".join(slides(guide, nbformat.read(chapter, as_version=4)))
        title = f"{chapter.stem[:2]} {guide['title']}"
        decks.append(folder / f"{chapter.stem}.html")
        text = PAGE.format(title=escape(title), slides=shown)
        decks[-1].write_text(text, encoding="utf-8")
        links.append(f'<li><a href="{chapter.stem}.html">{escape(title)}</a></li>')
    index = (
        f'<section class="index"><h2>TinyGPT: slides</h2><ol>{"".join(links)}</ol>'
        "</section>"
    )
    text = PAGE.format(title="TinyGPT: slides", slides=index)
    (folder / "index.html").write_text(text, encoding="utf-8")
    return decks


def main() -> None:
    """Read the command line, write the decks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=SITE / "slides", help="a folder")
    folder = parser.parse_args().to
    try:
        decks = make(folder)
        link_offers(SITE)
    except OSError as error:
        sys.exit(f"The slides cannot be written: {error}")
    print(f"{len(decks)} decks: {folder / 'index.html'}")


if __name__ == "__main__":
    main()
