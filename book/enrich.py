"""A Sphinx extension: what the plain Markdown of the pages becomes on the site.

- The first use of each term of the glossary on a page is linked to its entry, unless it
  stands in bold, where it is being introduced.
- A link to a file of tinygpt leads to the reference of what its text names.
- A chapter opens with the way through the course, its own station marked.
- A quote that begins in bold, `> **Careful.** ...`, is a box; a heading `Exercise ...`
  or `Make it yours ...` opens a card; a paragraph in italics that begins with `Figure:`
  is a caption.

Numbers, code, solutions and answers need nothing: they are Markdown already (see
`quoted`). What it leaves out: the pages of the reference, whose text is docstrings.
"""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

HERE = Path(__file__).resolve().parent
STATIONS = {  # of the way through the course, with the chapter that opens each
    "overview": "00_one_minute",
    "tokens": "01_tokenization",
    "embeddings": "02_embeddings",
    "positions": "03_positional",
    "attention": "04_attention",
    "mask": "05_masking",
    "blocks": "06_blocks",
    "training": "07_training",
    "fine-tuning": "08_finetuning",
    "generation": "09_generation",
    "inside": "10_inside",
    "rewards": "11_rewards",
}
BOXES = {"Careful": "warning", "Predict": "tip", "Try": "tip"}  # others are notes
PLURALS = (("y", "ies"), ("is", "es"), ("ix", "ices"), ("", "s"), ("", "es"))
CLOSED = (  # where no term is linked
    nodes.title,
    nodes.literal,
    nodes.literal_block,
    nodes.math,
    nodes.math_block,
    nodes.raw,
    nodes.reference,
    nodes.thead,
    addnodes.pending_xref,
    addnodes.download_reference,
)


def glossary_terms(text: str) -> list[str]:
    """The terms of a `glossary` directive, as they are written there."""
    body = text.split(":::{glossary}\n")[1].split("\n:::")[0]
    return [line for line in body.splitlines() if line and line[0] != " "]


def spellings(term: str) -> set[str]:
    """A term and its plurals.

    >>> sorted(spellings("query"))
    ['queries', 'query', 'queryes', 'querys']
    """
    found = {term}
    for end, plural in PLURALS:
        if term.endswith(end):
            found.add(term[: len(term) - len(end)] + plural)
    return found


class Terms:
    """Finds terms in running text."""

    def __init__(self, terms: list[str]) -> None:
        self.by_spelling = {s: term for term in terms for s in spellings(term)}
        longest = sorted(self.by_spelling, key=len, reverse=True)
        either = "|".join(map(re.escape, longest))
        self.pattern = re.compile(rf"(?<![\w-])(?:{either})(?![\w-])", re.IGNORECASE)

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Start, end and term of each; a name in capitals is found only so."""
        found = []
        for match in self.pattern.finditer(text):
            word = match[0]
            term = self.by_spelling.get(word) or self.by_spelling.get(word.lower())
            if term:
                found.append((*match.span(), term))
        return found


class LinkTerms(SphinxTransform):
    """The first use of each term on a page becomes a link."""

    default_priority = 400

    def apply(self, **_: Any) -> None:
        """Walk the text in its order."""
        name = self.env.docname
        if name.startswith("book/api"):
            return
        file = HERE / "glossary.md"
        terms = Terms(glossary_terms(file.read_text(encoding="utf-8")))
        self.env.note_dependency(str(file))
        seen: set[str] = set()
        for text in list(self.document.findall(nodes.Text)):
            above = list(_ancestors(text))
            if any(isinstance(node, CLOSED) or _is_closed(node) for node in above):
                continue
            if isinstance(text.parent, nodes.term):
                seen = {text.astext()}  # an entry of the glossary, which links anew
            elif any(isinstance(node, nodes.strong) for node in above):
                seen.update(term for _, _, term in terms.find(text.astext()))
            else:
                self._link(text, terms, seen)

    def _link(self, text: nodes.Text, terms: Terms, seen: set[str]) -> None:
        string, pieces, at = text.astext(), [], 0
        for start, end, term in terms.find(string):
            if term in seen:
                continue
            seen.add(term)
            shown = string[start:end]
            link = addnodes.pending_xref(
                "",
                nodes.inline("", shown, classes=["std", "std-term"]),
                refdomain="std",
                reftype="term",
                reftarget=term,
                refexplicit=True,
                refdoc=self.env.docname,
                refwarn=True,
            )
            pieces += [nodes.Text(string[at:start]), link]
            at = end
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(string[at:])])


class LinkPackage(SphinxTransform):
    """A link to `../tinygpt/model/block.py` leads to the page of the reference."""

    default_priority = 399

    def apply(self, **_: Any) -> None:
        """Replace what would be a download."""
        for link in list(self.document.findall(addnodes.download_reference)):
            found = re.fullmatch(r"\.\./(tinygpt/\S+)\.py", link["reftarget"])
            if not found:
                continue
            module = found[1].replace("/", ".").removesuffix(".__init__")
            name = link.astext()
            inside = re.fullmatch(r"[A-Za-z_][\w.]*", name) and name != module
            new = addnodes.pending_xref(
                "",
                *link.children,
                refdomain="py",
                reftype="obj" if inside else "mod",
                reftarget=f"{module}.{name}" if inside else module,
                refexplicit=True,
                refdoc=self.env.docname,
                refwarn=True,
            )
            link.parent.replace(link, new)


class Way(SphinxTransform):
    """Under the title of a chapter, where it stands in the course."""

    default_priority = 401

    def apply(self, **_: Any) -> None:
        """Put the strip behind the title."""
        folder, _slash, here = self.env.docname.rpartition("/")
        if folder != "chapters":
            return
        links = []
        for name, chapter in STATIONS.items():
            now = ' aria-current="page"' if chapter == here else ""
            links.append(f'<li><a href="{chapter}.html"{now}>{name}</a></li>')
        stations = "".join(links)
        strip = f'<nav class="way" aria-label="The course"><ol>{stations}</ol></nav>'
        section = next(iter(self.document.findall(nodes.section)))
        section.insert(1, nodes.raw("", strip, format="html"))


class Cards(SphinxTransform):
    """Boxes, exercises and captions, by how their text begins."""

    default_priority = 398

    def apply(self, **_: Any) -> None:
        """Boxes become admonitions; the others get a class."""
        for quote in list(self.document.findall(nodes.block_quote)):
            words = [node for node in quote[0] if node.astext()]  # some are empty
            first = words[0] if words else None
            if isinstance(first, nodes.strong):
                title = first.astext().rstrip(".")
                kind = BOXES.get(title.split()[0].rstrip("?!:"), "note")
                quote[0].remove(first)
                box = nodes.admonition("", nodes.title("", title), classes=[kind])
                box += quote.children
                quote.parent.replace(quote, box)
        for section in self.document.findall(nodes.section):
            if section[0].astext().startswith(("Exercise ", "Make it yours")):
                section["classes"].append("exercise")
        for paragraph in self.document.findall(nodes.paragraph):
            only = paragraph[0] if len(paragraph) == 1 else None
            if isinstance(only, nodes.emphasis) and only.astext().startswith("Figure:"):
                paragraph["classes"].append("caption")


def _ancestors(node: nodes.Node) -> Any:
    while node.parent is not None:
        node = node.parent
        yield node


def _is_closed(node: nodes.Node) -> bool:
    classes = node.get("classes", []) if isinstance(node, nodes.Element) else []
    return not {"caption", "cell_input", "cell_output", "quiz"}.isdisjoint(classes)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    for transform in (Cards, LinkPackage, LinkTerms, Way):
        app.add_transform(transform)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
