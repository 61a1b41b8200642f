"""A Sphinx extension: the same piece of the model in Python and in JavaScript.

    :::{two-languages} model.block.layer_norm | layerNorm
    :::

shows both sources as they stand in tinygpt/ and in the scripts of book/_static, side by
side where there is room. Several names on a side stand one below the other; a method is
named with its class. Python is shown in brief, without what only a user of the package
needs. What it leaves out: JavaScript that is not indented by two spaces per level, as
tinygpt.js is; such a name is not found, and the build says so.
"""

import ast
import re
from pathlib import Path
from textwrap import dedent
from typing import Any

from docutils import nodes
from quoted import python_file, python_source
from sphinx.util.docutils import SphinxDirective

STATIC = Path(__file__).resolve().parent / "_static"
SCRIPTS = ("tinygpt.js", "tinygpt_web.js", "tinygpt_backward.js")


def javascript_source(name: str) -> str:
    """Source of `function`, `Class` or `Class.method`, comment and all.

    It is looked for in the `SCRIPTS`, one after the other; a function within another is
    named like a method.

    Raises:
        LookupError: there is no such function, class or method.
    """
    for script in SCRIPTS:
        lines = (STATIC / script).read_text(encoding="utf-8").splitlines()
        if source := _source(lines, name):
            return source
    raise LookupError(f"{', '.join(SCRIPTS)}: the page's code has no {name}")


def _source(lines: list[str], name: str) -> str:
    first, last = 0, len(lines)
    for depth, part in enumerate(name.split("."), start=1):
        space = "  " * depth
        opening = re.compile(rf"{space}(?:function\*? |class |get )?{part}\b.*\{{")
        starts = [i for i in range(first, last) if opening.fullmatch(lines[i])]
        if not starts:
            return ""
        first = starts[0]
        last = lines.index(f"{space}}}", first) + 1
    if lines[first - 1].endswith("*/"):
        while not lines[first - 1].lstrip().startswith("/**"):
            first -= 1
        first -= 1
    return dedent("\n".join(lines[first:last]))


def brief(source: str) -> str:
    """Python without checks of arguments; of docstrings, only the first paragraph."""
    lines: list[str | None] = list(source.splitlines())
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Expr):
            continue
        first, last, value = node.lineno - 1, node.end_lineno, node.value
        if isinstance(value, ast.Call) and REQUIRES.match(ast.unparse(value.func)):
            lines[first:last] = [None] * len(lines[first:last])
        elif isinstance(value, ast.Constant) and "" in (docstring := lines[first:last]):
            end = first + docstring.index("")
            lines[end - 1] = f'{lines[end - 1]}"""'
            lines[end:last] = [None] * len(lines[end:last])
    return "\n".join(line for line in lines if line is not None)


def brief_python(name: str) -> str:
    """What `python_source` gives, in brief."""
    return brief(python_source(name))


REQUIRES = re.compile(r"(\w+\.)*_?(require|check)")
LANGUAGES = (("Python", brief_python), ("JavaScript", javascript_source))


class TwoLanguages(SphinxDirective):
    """`NAMES | NAMES`: Python's on the left; a side without names is left out."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """One column per language, each with a caption that names what it shows."""
        sides = [names.split() for names in self.arguments[0].split("|")]
        if len(sides) != len(LANGUAGES):
            raise self.error("two-languages: write PYTHON NAMES | JAVASCRIPT NAMES")
        row = nodes.container(classes=["tinygpt-languages", "full-width"])
        for (language, source), names in zip(LANGUAGES, sides, strict=True):
            if not names:
                continue
            try:
                code = "\n\n".join(source(name) for name in names)
            except LookupError as error:
                raise self.error(f"two-languages: {error.args[0]}") from error
            shown = nodes.paragraph("", f"{language}: ", classes=["language"])
            shown += nodes.literal("", ", ".join(names))
            block = nodes.literal_block(code, code, language=language.lower())
            row += nodes.container("", shown, block)
        files = sorted({python_file(name) for name in sides[0]})
        scripts = [STATIC / name for name in SCRIPTS]
        for path in (*files, *scripts, Path(__file__)):
            self.env.note_dependency(str(path))  # when it changes, so does the page
        return [row]


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("two-languages", TwoLanguages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
