"""Make the hand-outs of the course: two zip files of the chapters' notebooks.

    python book/handout.py [--to FOLDER]

`tinygpt-students.zip` has no solutions and no answers to the quizzes; its exercises are
blank, and each says so when it runs. `tinygpt-teacher.zip` has everything. Both carry
what the chapters link to, the pages and pictures, so that their links work wherever
they are unpacked. To run, the notebooks need the package (see their README).

What it leaves out: checking what comes back (`python -m tinygpt.course.grade`).
"""

import argparse
import re
import sys
import zipfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from offered import link_offers

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "book" / "_build" / "html"
ANSWER = re.compile(
    r"\n*<details>\s*<summary>(?:Solution|One solution|Answer)\b.*?</details>\n*",
    re.DOTALL,
)
CODE_LINK = re.compile(r"\[([^][]*)\]\(\.\./tinygpt/[^)]*\)")  # the package has it
MOMENT = (2026, 1, 1, 0, 0, 0)  # the same bytes for the same chapters, at any time
README = """\
# TinyGPT: the hand-out{kind}

The chapters of the course as notebooks, in the folder `chapters`. They need Python 3.10
or newer, the package and JupyterLab: `make lab`, in the folder of the course, installs
the last two. Afterwards `.venv/bin/jupyter lab HERE` opens the folder of this file, if
you write its path for HERE. No chapter needs another to have run before.
{more}"""
STUDENTS = """
To answer an exercise, write in place of the dots (or of `None`) and run the cell. It
says whether the answer is right, or gives a hint. Keep the line with `check_answer`,
and hand in the notebook under your name.
"""
TEACHER = """
This is the teacher's copy, with all solutions and answers. What students hand in is
checked by `python -m tinygpt.course.grade FOLDER`, which runs their code on the machine
it is started on.
"""


def without_answers(notebook: NotebookNode) -> NotebookNode:
    """The same notebook without solutions, quiz answers and outputs of exercises."""
    cells = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = ANSWER.sub("\n\n", cell.source).strip("\n")
        elif "check_answer(" in cell.source:
            cell.outputs, cell.execution_count = [], None
        if cell.source:
            cells.append(cell)
    notebook.cells = cells
    return notebook


def handout(folder: Path, *, solved: bool) -> Path:
    """Write one of the two zip files; gives its path."""
    name = "tinygpt-teacher" if solved else "tinygpt-students"
    kind, more = (" with solutions", TEACHER) if solved else ("", STUDENTS)
    files = {"README.md": README.format(kind=kind, more=more).encode("utf-8")}
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if not solved:
            notebook = without_answers(notebook)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = CODE_LINK.sub(r"\1", cell.source)
        text = nbformat.writes(notebook) + "\n"
        files[f"chapters/{path.name}"] = text.encode("utf-8")
        for link in re.findall(r"\]\(\.\./((?:book|resources)/[^)#\s]+)", text):
            files[link] = (ROOT / link).read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}.zip"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content in sorted(files.items()):
            entry = zipfile.ZipInfo(f"{name}/{inside}", MOMENT)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return made


def main() -> None:
    """Read the command line, write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--to", type=Path, default=SITE / "handout", help="a folder")
    folder = parser.parse_args().to
    try:
        for solved in (False, True):
            made = handout(folder, solved=solved)
            print(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")
        link_offers(SITE)
    except OSError as error:
        sys.exit(f"The hand-out cannot be written: {error}")


if __name__ == "__main__":
    main()
