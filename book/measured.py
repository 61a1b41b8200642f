"""A Sphinx extension: numbers on a page come from benchmarks/results, not from typing.

    {measured}`generation/speed/2M/batch 1/ratio/median|.1f`

is the number under these keys of benchmarks/results/generation.json, in that format.
The directive `measured-rows` is the table of all benchmarks: goal beside result. What
it leaves out: measuring (see `make bench`) and figures (see benchmarks/draw.py).
"""

import json
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))
REACHED = {True: "reached", False: "not reached", None: "–"}


def look_up(quoted: str) -> str:
    """The number that a page quotes, as text.

    Raises:
        KeyError: there is no such file or key.
    """
    path, _, style = quoted.partition("|")
    name, *keys = path.split("/")
    file = RESULTS / f"{name}.json"
    if not file.is_file():
        raise KeyError(file.name)
    value: Any = json.loads(file.read_text(encoding="utf-8"))
    for key in keys:
        value = value[int(key) if isinstance(value, list) else key]
    return format(value, style)


def measured(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, *_: Any
) -> tuple[list, list]:
    """The role: a number, or a complaint that stops the build."""
    try:
        return [nodes.Text(look_up(text))], []
    except (KeyError, IndexError, TypeError, ValueError) as error:
        told = inliner.reporter.error(f"nothing measured: {error}", line=lineno)
        return [inliner.problematic(rawtext, rawtext, told)], [told]


def all_rows() -> list[dict[str, Any]]:
    """Every row of every result, in the order of the summary."""
    from summary import rows

    return rows()


class MeasuredRows(Directive):
    """The table: what, goal, result, reached."""

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        table = nodes.table(classes=["measured"])
        group = nodes.tgroup(cols=4)
        table += group
        group += [nodes.colspec(colwidth=width) for width in (5, 2, 6, 2)]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        head += self._line("what", "goal", "measured", "reached")
        for row in all_rows():
            said = REACHED[row["reached"]]
            body += self._line(row["row"], row["goal"] or "–", row["result"], said)
        return [table]

    @staticmethod
    def _line(*cells: str) -> nodes.row:
        line = nodes.row()
        for cell in cells:
            line += nodes.entry("", nodes.paragraph("", cell))
        return line


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_role("measured", measured)
    app.add_directive("measured-rows", MeasuredRows)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
