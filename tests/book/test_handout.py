"""The hand-outs: no answers for students, all links whole, every cell as it was."""

import json
import re
import zipfile
from pathlib import Path, PurePosixPath

import nbformat
import pytest
from test_book import CHAPTERS, load_tool

tool = load_tool("handout")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The texts of both zip files, by the name of the archive and of the file."""
    folder = tmp_path_factory.mktemp("handout")
    found = {}
    for solved in (False, True):
        made = tool.handout(folder, solved=solved)
        with zipfile.ZipFile(made) as archive:
            assert archive.testzip() is None
            files = {n: archive.read(n).decode("utf-8") for n in archive.namelist()}
        found[made.stem] = files
    return found


def notebooks(files: dict[str, str]) -> dict[str, nbformat.NotebookNode]:
    return {
        PurePosixPath(name).stem: nbformat.reads(text, 4)
        for name, text in files.items()
        if name.endswith(".ipynb")
    }


@pytest.mark.slow
def test_students_get_the_code_and_no_answers(archives) -> None:
    students = notebooks(archives["tinygpt-students"])
    assert list(students) == [path.stem for path in CHAPTERS]
    for path in CHAPTERS:
        nbformat.validate(students[path.stem])
        cells = students[path.stem].cells
        whole = nbformat.read(path, 4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        kept = [cell for cell in whole if cell.cell_type == "code"]
        assert [cell.source for cell in code] == [cell.source for cell in kept]
        for cell, before in zip(code, kept, strict=True):
            asked = "check_answer(" in cell.source
            assert cell.outputs == ([] if asked else before.outputs)
        prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        all_prose = "\n".join(c.source for c in whole if c.cell_type == "markdown")
        assert not re.search(r"<summary>\s*(One s|S)olution|<summary>\s*Answer", prose)
        assert prose.count("<details>") == prose.count("</details>")
        assert all(cell.source.strip() for cell in cells)
        for kind in (r"^#.*", r"^\*\*Question.*", r"^- [A-D]\. .*"):  # all is asked
            asked_for = re.findall(kind, all_prose, re.MULTILINE)
            assert re.findall(kind, prose, re.MULTILINE) == asked_for


def test_the_teacher_gets_everything(archives) -> None:
    teacher = notebooks(archives["tinygpt-teacher"])
    for path in CHAPTERS:
        here, whole = teacher[path.stem].cells, nbformat.read(path, 4).cells
        assert len(here) == len(whole)
        for cell, before in zip(here, whole, strict=True):
            assert cell.source.count("<details>") == before.source.count("<details>")
            assert cell.get("outputs") == before.get("outputs")


@pytest.mark.parametrize("name", ["tinygpt-students", "tinygpt-teacher"])
def test_every_link_of_a_notebook_leads_somewhere(archives, name: str) -> None:
    files = archives[name]
    for path, notebook in notebooks(files).items():
        for cell in notebook.cells:
            if cell.cell_type != "markdown":
                continue
            for link in re.findall(r"\]\(([^)#\s]+)", cell.source):
                if re.match(r"[a-z]+:", link):
                    continue
                target = f"{name}/chapters/{link}".replace("chapters/../", "")
                assert target in files, f"{path} links {link}"


@pytest.mark.slow
def test_the_same_chapters_give_the_same_bytes(tmp_path: Path, capsys) -> None:
    one = tool.handout(tmp_path / "a", solved=False).read_bytes()
    assert tool.handout(tmp_path / "b", solved=False).read_bytes() == one


@pytest.mark.slow
def test_a_blank_notebook_runs_from_top_to_bottom(archives, tmp_path: Path) -> None:
    """The shortest one, by the program that stores the outputs of the chapters."""
    text = archives["tinygpt-students"]["tinygpt-students/chapters/04_attention.ipynb"]
    notebook = nbformat.reads(text, 4)
    load_tool("notebooks").run(notebook)
    checks = [
        json.dumps(cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code" and "check_answer(" in cell.source
    ]
    assert len(checks) >= 3
    assert all("there is no answer here yet" in output for output in checks)
