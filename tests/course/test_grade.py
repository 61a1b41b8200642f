"""Students' notebooks: right, wrong, broken, endless; one never stops another."""

import csv
import io
import json
import multiprocessing
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from conftest import ROOT

from tinygpt.course import grade
from tinygpt.course.exercises import exercises
from tinygpt.errors import UserError

CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))[1:]  # 00 has no checks
SOLUTION = re.compile(r"<summary>Solution</summary>\n\n```python\n(.*?)```", re.DOTALL)
COUNT = 'tinygpt.check_answer("masking.count", count)'


def filled_in(chapter: Path) -> dict[str, Any]:
    """A chapter in which a student has put the solutions in place of the dots."""
    notebook = json.loads(chapter.read_text(encoding="utf-8"))
    waiting: list[dict[str, Any]] = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and grade.CHECK.search(source):
            waiting.append(cell)
        elif found := SOLUTION.search(source):
            exercise = waiting.pop(0)
            check = re.search(r"tinygpt\.check_answer.*", "".join(exercise["source"]))
            exercise["source"] = f"{found[1]}\n{check[0]}"
    assert not waiting
    return notebook


def notebook_of(*sources: str) -> str:
    cells = [{"cell_type": "code", "source": source} for source in sources]
    return json.dumps({"cells": cells, "nbformat": 4})


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda p: p.stem)
def test_every_solution_is_right_and_every_blank_is_missing(
    chapter: Path, tmp_path: Path
) -> None:
    mpl.use("Agg")  # as in the chapter, some imports load it
    path = tmp_path / "anna.ipynb"
    path.write_text(json.dumps(filled_in(chapter)), encoding="utf-8")
    filled, blank = grade.code_cells(path), grade.code_cells(chapter)
    room = chapter.stem.split("_", 1)[1]
    names = [e.name for e in exercises() if e.name.startswith(room + ".")]
    assert len(names) >= 3
    assert {name: grade.verdict(filled, name) for name in names} == dict.fromkeys(
        names, "right"
    )
    assert {name: grade.verdict(blank, name) for name in names} == dict.fromkeys(
        names, "missing"
    )


@pytest.mark.parametrize(
    ("cells", "entry"),
    [
        (["count = 78", COUNT], "right"),
        (["half = 12 * 13", "def f():\n    return half // 2", f"count = f()\n{COUNT}"],
         "right"),
        (["count = 78", "1 / 0", "count == 79", COUNT], "right"),  # not what it needs
        (["def f(", f"count = 78\nok = {COUNT}\nassert ok"], "right"),
        ([f"count = 3\n{COUNT}", f"count = 78\n{COUNT}"], "right"),  # tried again
        (["for i in range(79):\n    count = i", COUNT], "right"),
        ([f"count = 3\n{COUNT}"], "wrong: 78 was expected, not 3."),
        ([f"count = 144\n{COUNT}"], "hint 1: "),
        ([f"count = None\n{COUNT}"], "missing"),
        ([COUNT], "error: NameError: name 'count' is not defined"),
        ([f"count = (\n{COUNT}"], "error: SyntaxError: "),
        ([f"# {COUNT}"], "error: SyntaxError: check_answer is called in a comment"),
        ([f"import sys\ncount = sys.exit(3)\n{COUNT}"], "error: SystemExit: 3"),
        (['tinygpt.check_answer("masking.nothing", 1)'], "error: UserError: There is"),
    ],
)  # fmt: skip
def test_what_an_entry_says(cells: list[str], entry: str) -> None:
    name = "masking.nothing" if "nothing" in cells[0] else "masking.count"
    found = grade.verdict(cells, name)
    assert found == entry if entry in grade.PLAIN else found.startswith(entry)


def test_an_answer_that_raises_is_an_error() -> None:
    cells = ['tinygpt.check_answer("masking.causal", lambda n: 1 / 0)']
    found = grade.verdict(cells, "masking.causal")
    assert found.startswith("error: your answer stops with ZeroDivisionError")


def test_the_process_of_a_notebook_prints_nothing_and_sends_its_entries(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, so that its lines are counted."""
    monkeypatch.setattr(grade.os, "dup2", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grade, "verdict", lambda _, name: name + " x\n" * 999)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    grade._answer([], ["a", "b"], theirs)
    sent = [ours.recv_bytes().decode() for _ in range(3)]
    assert sent[0] == ""
    assert [len(text) for text in sent[1:]] == [grade.MAX_TEXT] * 2
    assert sent[1].startswith("a x x") and sent[1].endswith("...")
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_what_hangs_or_crashes_stops_nobody(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    causal = 'import torch\n{}\ntinygpt.check_answer("masking.causal", f)'
    padding = 'import os\nf = os._exit\ntinygpt.check_answer("masking.padding", f(7))'
    f = causal.format("def f(n):\n    return torch.ones(n, n, dtype=bool).tril()")
    right = f"count = 78\n{COUNT}"
    for name, text in {
        "anna": notebook_of(f"%time\nprint('x' * 9_000_000)\n{f}", f"!ls\n{right}"),
        "ben": notebook_of(
            causal.format("def f(n):\n    while True: pass"), padding, right
        ),
        "eve": '{"cells": 3}',
    }.items():
        (tmp_path / f"{name}.ipynb").write_text(text, encoding="utf-8")
    grade.main([str(tmp_path), "--seconds", "4"])
    out, err = capfd.readouterr()
    assert err == ""
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0].keys() >= {"masking.apply", "right", "note"}
    anna, ben, eve = rows
    names = ("masking.causal", "masking.padding", "masking.count", "right")
    assert [anna[name] for name in names] == ["right", "missing", "right", "2"]
    assert [ben[name] for name in names] == [
        "error: no end after 4 seconds",
        "error: the answer ended its process",
        "right",
        "1",
    ]
    assert [eve[name] for name in names] == [*["missing"] * 3, "0"]
    assert eve["note"] == "eve.ipynb cannot be read: it is no notebook."


def test_a_student_is_a_file_or_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "=anna.ipynb",
        "ben/05.ipynb",
        "ben/again.ipynb",
        "ben/.ipynb_checkpoints/05.ipynb",
        "__MACOSX/._05.ipynb",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    said = {
        "=anna": {"masking.count": "hint 1: no", "masking.mine": "error: x"},
        "05": {"masking.count": "right"},
        "again": {"masking.count": "missing", "masking.causal": "right"},
    }
    monkeypatch.setattr(grade, "grade", lambda path, _: said[path.stem])
    header, anna, ben = grade.table(tmp_path)
    assert header[0] == "name"
    assert header[-3:] == ["masking.mine", "right", "note"]
    assert "tokenization.merge" not in header  # nobody was asked
    assert anna[0] == "'=anna"  # a spreadsheet would take it for a formula
    rows = [dict(zip(header, row, strict=True)) for row in (anna, ben)]
    assert [row["masking.count"] for row in rows] == ["hint 1: no", "right"]
    assert [row["right"] for row in rows] == ["0", "2"]  # right once is right


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere"], "There is no folder 'nowhere': name the one that holds"),
        (["."], "There is no notebook (.ipynb) in '.'."),
        ([".", "--seconds", "0"], "--seconds must be more than 0."),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        grade.main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(sentence)


def test_a_notebook_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.ipynb cannot be read: No such file"):
        grade.grade(tmp_path / "gone.ipynb")
