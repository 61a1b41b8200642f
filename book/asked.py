"""A Sphinx extension: what a page asks its reader, made ready for a script to answer.

A question of a quiz and a guess stand in plain Markdown, complete without scripts:

    **Question 1.** How many halvings make 1/8 of 1?

    - A. Two.
    - B. Three.

    <details>
    <summary>Answer</summary>

    **B.** A half, a quarter, an eighth.

    - A: two make a quarter.

    </details>

Each wrong choice has an item of its own. Where a number is asked, `*A number,
exactly.*` or `*A number, give or take 0.05.*` stands in place of the choices, the bold
number is the answer, and the items are wrong numbers with the mistake behind each.

    > **Predict.** Into how many tokens will the sentence be cut?
    >
    > *A number from 5 to 50 tokens.* <!-- answer:tokenization_tokens -->

is a guess at what the next output shows: the cell stored the answer by `glue`. In place
of the range, `*A token.*` or a list, one item of which is what the cell stored. Without
such a comment a prediction is a box like others.

`quiz.js` and `predict.js` do the rest, on the pages that ask, and nothing is hidden or
lost without them.
"""

import re
from html import escape
from itertools import dropwhile, groupby
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from quoted import numbers
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

ANSWER = re.compile(r"<!-- answer:(\w+) -->")
RANGE = re.compile(r"A number from (-?[\d.]+) to ([\d.]+)(?: (.+))?\.")
TOLERANCE = re.compile(r"A number, (?:exactly|give or take ([\d.]+))\.")
log = logging.getLogger(__name__)


def plain(node: nodes.Node) -> str:
    """The text of a node without the comments around its numbers."""
    found = node.findall(nodes.Text)
    return "".join(t.astext() for t in found if not isinstance(t.parent, nodes.raw))


def html(text: str) -> nodes.raw:
    """A piece of HTML as it is."""
    return nodes.raw("", text, format="html")


def div(kind: str, **data: str) -> nodes.raw:
    """The start of `<div class="tinygpt-KIND" data-...>`."""
    told = "".join(f' data-{k}="{escape(v)}"' for k, v in data.items())
    return html(f'<div class="tinygpt-{kind}"{told}>')


def lettered(found: nodes.Node, mark: str) -> list[str]:
    """The letters before `mark` with which the items of a list begin."""
    return [plain(item).partition(mark)[0] for item in found.children]


def question(parts: list[nodes.Node]) -> dict[str, str]:
    """What a script has to know about a question: its answer, its tolerance.

    Raises:
        ValueError: it is not written as this module's text says.
    """
    kinds = [type(part) for part in parts]
    start = kinds.index(nodes.raw) if nodes.raw in kinds else 0
    asked, told = parts[:start], parts[start + 1 :]
    bold = next(told[0].findall(nodes.strong), None) if told else None
    if len(asked) < 2 or bold is None:
        raise ValueError("a question, choices, and a fold with the answer in bold")
    right = plain(bold).rstrip(".")
    lists = [part for part in told if isinstance(part, nodes.bullet_list)]
    items = [mark for found in lists for mark in lettered(found, ":")]
    if isinstance(asked[-1], nodes.bullet_list):
        letters = lettered(asked[-1], ".")
        if letters != list("ABCDE"[: len(letters)]):
            raise ValueError("choices that begin with A., B., C.")
        if items != [letter for letter in letters if letter != right]:
            raise ValueError("one item for each wrong choice, in their order")
        return {"right": right}
    tolerance = TOLERANCE.fullmatch(plain(asked[-1]))
    if not tolerance:
        raise ValueError("a list of choices, or *A number, exactly.*")
    for number in (right, *items):
        float(number.replace(",", ""))
    return {"number": right.replace(",", ""), "tolerance": tolerance[1] or "0"}


class Quizzes(SphinxTransform):
    """Around each question of a quiz, what its script has to know."""

    default_priority = 396

    def apply(self, **_: Any) -> None:
        """Find the questions by how they begin."""
        for section in self.document.findall(nodes.section):
            if plain(section[0]) != "Quiz":
                continue
            section["classes"].append("quiz")  # where no term is linked
            parts: list[nodes.Node] = []
            for part in [*section.children[1:], None]:
                starts = part is None or plain(part).startswith("Question ")
                if starts and parts:
                    self._wrap(section, parts)
                    parts = []
                if part is not None and (starts or parts):
                    parts.append(part)

    def _wrap(self, section: nodes.section, parts: list[nodes.Node]) -> None:
        try:
            told = question(parts)
        except ValueError as error:
            log.warning("%s: wanted %s", plain(parts[0])[:60], error, location=parts[0])
            return
        section.insert(section.index(parts[0]), div("question", script="quiz", **told))
        section.insert(section.index(parts[-1]) + 1, html("</div>"))


def guess(box: nodes.Element, stored: dict[str, str]) -> dict[str, str] | None:
    """What a script has to know about a prediction; None if nobody checks it.

    Raises:
        ValueError: it is not written as this module's text says, or what the cell
            stored is none of the choices, out of the range or nothing at all.
    """
    comments = [raw for raw in box.findall(nodes.raw) if ANSWER.match(raw.astext())]
    if not comments:
        return None
    name = ANSWER.match(comments[0].astext())[1]  # type: ignore[index]
    comments[0].parent.remove(comments[0])
    if name not in stored:
        raise ValueError(f'a cell that says glue("{name}", ...)')
    told = {"name": name, "answer": stored[name]}
    asked = [child for child in box.children if plain(child).strip()]
    if isinstance(asked[-1], nodes.bullet_list):
        if told["answer"] not in map(plain, asked[-1].children):
            raise ValueError(f"{told['answer']} among the choices")
        return told
    wanted = plain(asked[-1]).strip()
    scale = RANGE.fullmatch(wanted)
    if scale:
        low, high, unit = scale.groups(default="")
        told["answer"] = told["answer"].removesuffix("%").replace(",", "")
        if not float(low) <= float(told["answer"]) <= float(high):
            raise ValueError(f"{told['answer']} in the range")
        return {**told, "low": low, "high": high, "unit": unit}
    if wanted != "A token.":
        raise ValueError("a list of choices, *A number from 0 to 9.* or *A token.*")
    return told


class Guesses(SphinxTransform):
    """In a prediction, room for a guess; around the next output, what waits for it."""

    default_priority = 402  # when quotes are boxes

    def apply(self, **_: Any) -> None:
        """Find the predictions of a notebook."""
        path = Path(self.env.doc2path(self.env.docname))
        if path.suffix != ".ipynb":
            return
        stored = numbers(nbformat.read(path, 4))
        found = 0
        for box in list(self.document.findall(nodes.admonition)):
            if not plain(box[0]).startswith("Predict"):
                continue
            try:
                told = guess(box, stored)
                if told:
                    self._cover(box, told["name"])
                    box += [div("guess", **told), html("</div>")]
                    found += 1
            except ValueError as error:
                log.warning("a prediction wants %s", error, location=box)
        if found:
            for section in self.document.findall(nodes.section):
                if plain(section[0]) == "Summary":
                    section += [div("guesses"), html("</div>")]

    def _cover(self, box: nodes.Element, name: str) -> None:
        """Mark the next outputs and what is said about them, up to the next cell."""
        after = iter(box.parent.children[box.parent.index(box) + 1 :])
        after = dropwhile(lambda node: _output(node) is None, after)
        waits: list[nodes.Node] = []
        for node in after:
            closed = waits and not _is_shown(waits[-1])  # the words have begun
            if not _is_prose(node) and (closed or not _is_cell(node)):
                break
            waits.append(node)
        if not waits:
            raise ValueError("an output after it, in its section")
        for is_cell, run in groupby(waits, _is_cell):
            if is_cell:
                for output in filter(None, map(_output, run)):
                    output[:] = [div("outcome", of=name), *output, html("</div>")]
            else:
                first, *_, last = [*run] * 2
                at = box.parent.index(first)
                box.parent.insert(box.parent.index(last) + 1, html("</div>"))
                box.parent.insert(at, div("outcome", of=name))


def _classes(node: nodes.Node) -> list[str]:
    return node.get("classes", []) if isinstance(node, nodes.Element) else []


def _is_cell(node: nodes.Node) -> bool:
    return "cell" in _classes(node)


def _is_shown(node: nodes.Node) -> bool:
    """Whether it is a cell or a figure's caption, which belongs to a cell."""
    return _is_cell(node) or "caption" in _classes(node)


def _is_prose(node: nodes.Node) -> bool:
    """Whether a node only speaks: no cell, section, box or fold, no widget."""
    others = (nodes.section, nodes.admonition, nodes.raw, nodes.target)
    return not isinstance(node, others) and not _is_cell(node)


def _output(cell: nodes.Node) -> nodes.Element | None:
    """The part of a cell that shows something; `glue` alone shows nothing."""
    parts = cell.children if _is_cell(cell) else []
    outputs = [part for part in parts if "cell_output" in _classes(part)]
    return next((o for o in outputs if isinstance(o, nodes.Element) and len(o)), None)


SIGNS = {  # of what a script serves, with the script's name and its style sheet
    "data-script=": ("door", "asked.css"),
    "tinygpt-guess": ("predict", "asked.css"),
    'class="tinygpt-widget"': ("widgets",),
    'class="tinygpt-playground"': ("playground",),
}


def add_scripts(app: Any, name: str, template: str, context: Any, tree: Any) -> None:
    """On a page that asks, the scripts for it; `door.js` fetches the rest later."""
    if tree is None:
        return
    raws = "".join(raw.astext() for raw in tree.findall(nodes.raw))
    for sign, (script, *styles) in SIGNS.items():
        if sign in raws:
            app.add_js_file(f"{script}.js", defer="defer")
            for style in styles:
                app.add_css_file(style)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(Quizzes)
    app.add_transform(Guesses)
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
