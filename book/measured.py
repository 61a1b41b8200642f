r"""A Sphinx extension: numbers on a page come from benchmarks/results, not from typing.

    {measured}`generation/speed/2M/batch 1/ratio/median|.1f`

is the number under these keys of benchmarks/results/generation.json, in that format (in
a table, \| stands for the |). The directive `measured-rows` is the table of all
benchmarks. What it leaves out: measuring (see `make bench`), the goals that somebody
set (see benchmarks/summary.py), and figures (see benchmarks/draw.py).
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
sys.path.insert(0, str(ROOT / "benchmarks"))
CODE_OR_POWER = re.compile(r"`([^`]+)`|(--[\w-]+)|\^(-?[\d.]+\d)")


def look_up(quoted: str) -> str:
    """The number that a page quotes, as text.

    Raises:
        KeyError: there is no such file or key.
    """
    path, _, style = quoted.replace("\\|", "|").partition("|")
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
    """The table: what was compared, and the result."""

    def run(self) -> list[nodes.Node]:
        """Build the table."""
        table = nodes.table(classes=["measured"])
        group = nodes.tgroup(cols=2)
        table += group
        group += [nodes.colspec(colwidth=width) for width in (1, 1)]
        head, body = nodes.thead(), nodes.tbody()
        group += [head, body]
        head += self._line("what", "measured")
        body += [self._line(row["row"], row["result"]) for row in all_rows()]
        return [table]

    @staticmethod
    def _line(*cells: str) -> nodes.row:
        line = nodes.row()
        for cell in cells:
            line += nodes.entry("", nodes.paragraph("", "", *formatted(cell)))
        return line


def formatted(cell: str) -> list[nodes.Node]:
    """The nodes of a benchmark's text: `code`, an --option, powers, x for times."""
    cell = re.sub(r"(?<=\d)x(?!\w)", "×", cell).replace(" ~ ", " ∝ ")
    found: list[nodes.Node] = []
    at = 0
    for match in CODE_OR_POWER.finditer(cell):
        found.append(nodes.Text(cell[at : match.start()]))
        code, option, power = match.groups()
        found.append(
            nodes.superscript("", power.replace("-", "−"))
            if power
            else nodes.literal("", code or option)
        )
        at = match.end()
    return [*found, nodes.Text(cell[at:])]


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_role("measured", measured)
    app.add_directive("measured-rows", MeasuredRows)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
