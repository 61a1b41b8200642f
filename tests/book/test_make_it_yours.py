"""The larger exercise of each chapter: what it offers, and that its solution runs."""

import contextlib
import io
import re
from pathlib import Path

import pytest
from test_book import CHECKED, prose

PARTS = re.compile(
    r"^### Make it yours: (?P<title>.+)\n\n\*30 to 60 minutes\.\* (?P<task>.+)\n\n"
    r"\*\*A good result\*\* (?P<good>.+)\n\n"
    r"(?P<hints>(?:<details>\n<summary>Hint \d</summary>\n\n.+\n\n</details>\n\n)+)"
    r"<details>\n<summary>One solution</summary>\n\n```python\n(?P<code>(?:.*\n)+?)```"
    r"\n\nIt prints:\n\n```text\n(?P<printed>(?:.*\n)+?)```\n\n.+\n\n</details>\n\n"
    r"## Quiz$",
    re.MULTILINE,
)
NUMBER = re.compile(r"(?<!\w)[+-]?\d+(?:\.\d+)?")
each_chapter = pytest.mark.parametrize("path", CHECKED, ids=lambda p: p.stem)


def parts(path: Path) -> dict[str, str]:
    """The pieces of the chapter's larger exercise, its last one."""
    (found,) = PARTS.finditer(prose(path))
    return found.groupdict()


@each_chapter
def test_a_chapter_ends_its_exercises_with_a_larger_one(path: Path) -> None:
    found = parts(path)
    numbers = re.findall(r"<summary>Hint (\d)", found["hints"])
    assert numbers in (["1", "2"], ["1", "2", "3"])
    assert 40 < len(found["task"].split()) < 130
    assert max(map(len, found["code"].splitlines())) <= 88


@pytest.mark.slow
@each_chapter
def test_its_solution_prints_what_the_chapter_says(path: Path) -> None:
    """As it stands; numbers may differ as processors do, and sampled words entirely."""
    found = parts(path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found["code"], path.stem, "exec"), {})
    lines = (found["printed"].splitlines(), printed.getvalue().splitlines())
    for wanted, got in zip(*lines, strict=True):
        for want, have in zip(NUMBER.findall(wanted), NUMBER.findall(got), strict=True):
            near = 0.05 if "." in want else 1
            assert float(have) == pytest.approx(float(want), rel=0.1, abs=near), got
        if NUMBER.search(wanted):
            assert NUMBER.sub("#", got) == NUMBER.sub("#", wanted)
