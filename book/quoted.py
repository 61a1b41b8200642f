r"""What the prose of a chapter quotes: numbers of its run or of a benchmark, and code.

All stand in the text itself, between comments that no reader sees, so that a notebook
reads the same in JupyterLab, on GitHub and on the site (a table needs \| for the |):

    Its weight is <!-- n:weight -->0.77<!-- / -->.
    Chapter 02 came to <!-- n:02_embeddings/embeddings_end -->1.65<!-- / -->.
    Muon ends at <!-- m:controls/groups/.../mean|.2f -->1.54<!-- / -->.

    <!-- code:model.block.layer_norm -->
    ```python
    def layer_norm(...)
    ```
    <!-- / -->

    <!-- puzzle:attention.scores:my_scores -->
    <details> ... </details>
    <!-- / -->

`fill` puts in the number that a cell stored by `glue("weight", 0.77)`, here or in
another chapter, the one of benchmarks/results (see `measured`), the code as it stands
in tinygpt, and the lines of an exercise (see `puzzles`). `notebooks.py` calls it for
all chapters, and a test compares.
"""

import ast
import re
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any

import nbformat
import puzzles
from measured import look_up

ROOT = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"(<!-- n:(?:(\w+)/)?(\w+) -->).*?(<!-- / -->)")
MEASURED = re.compile(r"(<!-- m:(.+?) -->).*?(<!-- / -->)")
CODE = re.compile(r"(<!-- code:(\S+) -->\n```python\n).*?(```\n<!-- / -->)", re.DOTALL)
PUZZLE = re.compile(r"(<!-- puzzle:(\S+) -->\n).*?(<!-- / -->)", re.DOTALL)


def python_file(name: str) -> Path:
    """The file of `room.module.anything`."""
    return ROOT.joinpath("tinygpt", *name.split(".")[:2]).with_suffix(".py")


def python_source(name: str) -> str:
    """Source of `room.module.function` or `room.module.Class.method` of the package.

    Raises:
        LookupError: there is no such module, function, class or method.
    """
    path = python_file(name)
    parts = name.split(".")[2:]
    if not path.is_file() or not parts:
        raise LookupError(f"tinygpt has no {name}")
    text = path.read_text(encoding="utf-8")
    node: Any = ast.parse(text)
    for part in parts:
        inside = [n for n in node.body if getattr(n, "name", None) == part]
        if not inside:
            raise LookupError(f"{path.name} has no {'.'.join(parts)}")
        node = inside[0]
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def numbers(notebook: Any) -> dict[str, str]:
    """What the cells stored by `glue`, by name."""
    found = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                (found[name],) = output["data"].values()
    return found


def fill(notebook: Any) -> None:
    """Renew every number, piece of code and puzzle that the prose quotes.

    Raises:
        LookupError: no cell stored such a number, nobody measured it, or the package
            has no such code or no such puzzle.
    """

    @cache
    def stored(chapter: str | None) -> dict[str, str]:
        if not chapter:
            return numbers(notebook)
        path = ROOT / "chapters" / f"{chapter}.ipynb"
        if not path.is_file():
            raise LookupError(f"there is no chapter {chapter}")
        return numbers(nbformat.read(path, as_version=4))

    def number(match: re.Match[str]) -> str:
        before, chapter, name, after = match.groups()
        if name not in stored(chapter):
            where = chapter or "this notebook"
            raise LookupError(f'no cell of {where} says glue("{name}", ...)')
        return before + stored(chapter)[name] + after

    def measured(match: re.Match[str]) -> str:
        return match[1] + look_up(match[2]) + match[3]

    def code(match: re.Match[str]) -> str:
        return f"{match[1]}{python_source(match[2])}\n{match[3]}"

    def puzzle(match: re.Match[str]) -> str:
        return f"{match[1]}{puzzles.fold(match[2])}{match[3]}"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = MEASURED.sub(measured, NUMBER.sub(number, cell.source))
            cell.source = PUZZLE.sub(puzzle, CODE.sub(code, text))
