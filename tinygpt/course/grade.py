"""Check the notebooks that students have filled in, all at once.

    python -m tinygpt.course.grade FOLDER > answers.csv

prints a table: a row for each student, a column for each exercise. A student is a
notebook in the folder (anna.ipynb), or a folder in it with any number of notebooks.
Of each notebook only the cells with `check_answer` run, after the imports, definitions
and assignments before them that the answer uses, so nothing is trained and nothing
drawn. An entry is

- `right`;
- `hint 2: ...`, the second likely mistake of that exercise, with the hint for it;
- `wrong: ...`, the first difference, for any other answer;
- `missing`: the cell is gone, or still as it was handed out;
- `error: ...`: what the answer raised, or that it did not end in time.

A student's code is foreign code. It runs on this machine with your rights, as it would
if you opened the notebook and ran it. Each notebook gets a process of its own, in an
empty folder, without a screen to write to; what hangs or crashes is ended, and the
others go on. That protects you from accidents and not from malice, so use an account
or a machine on which nothing can be lost. For the same reason this helps learners and
guards no exam: an answer that wants to can change what its own process reports.
"""

import argparse
import ast
import csv
import json
import multiprocessing
import os
import re
import symtable
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tinygpt.course.exercises import check_answer, exercises
from tinygpt.errors import UserError
from tinygpt.files import why

CHECK = re.compile(r"check_answer\(\s*[\"']([\w.]+)[\"']")
SECONDS = 20.0  # for one answer; none of the solutions takes one second
START_SECONDS = 300.0  # for Python and PyTorch to load, on a machine that is busy
MAX_TEXT = 200  # characters of an entry


def students(folder: Path) -> dict[str, list[Path]]:
    """The notebooks of each student, by the name of the file or of the folder.

    Raises:
        UserError: `folder` is no folder, or holds no notebook.
    """
    if not folder.is_dir():
        raise UserError(
            f"There is no folder {str(folder)!r}: name the one that holds "
            "your students' notebooks."
        )
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.ipynb")):
        inside = path.relative_to(folder)
        if not any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            found.setdefault(inside.with_suffix("").parts[0], []).append(path)
    if not found:
        raise UserError(f"There is no notebook (.ipynb) in {str(folder)!r}.")
    return found


def code_cells(path: Path) -> list[str]:
    """The source of each code cell, without the lines that only IPython knows.

    Raises:
        UserError: the file cannot be read, or is no notebook.
    """
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        sources = [
            "".join(cell["source"])
            for cell in notebook["cells"]
            if cell["cell_type"] == "code"
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = why(error) if isinstance(error, OSError) else "it is no notebook"
        raise UserError(f"{path.name} cannot be read: {reason}.") from None
    return [re.sub(r"^\s*[%!].*", "", source, flags=re.M) for source in sources]


def grade(path: Path, seconds: float = SECONDS) -> dict[str, str]:
    """What the table says of each exercise that the notebook asks about.

    Raises:
        UserError: the file cannot be read, or is no notebook.
    """
    cells = code_cells(path)
    found: dict[str, str] = {}
    asked = {name: "" for source in cells for name in CHECK.findall(source)}
    while waiting := [name for name in asked if name not in found]:
        found |= _in_a_process(cells, waiting, seconds)
    return found


def _in_a_process(cells: list[str], names: list[str], seconds: float) -> dict[str, str]:
    """The entries up to the first answer that hangs or crashes, and its own."""
    spawn = multiprocessing.get_context("spawn")  # a fork would copy our threads
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_answer, args=(cells, names, theirs), daemon=True)
    process.start()
    theirs.close()
    found: dict[str, str] = {}
    try:
        if ours.poll(START_SECONDS):
            ours.recv_bytes()  # it has started
        for name in names:
            found[name] = f"error: no end after {seconds:g} seconds"
            if not ours.poll(seconds):
                break
            found[name] = "error: the answer ended its process"
            found[name] = ours.recv_bytes(8 * MAX_TEXT).decode("utf-8", "replace")
    except (EOFError, OSError):  # the process has ended, or sent what it should not
        found = found or {names[0]: "error: the answer ended its process"}
    finally:
        process.kill()
        process.join()
        ours.close()
    return found


def _answer(cells: list[str], names: list[str], results: Connection) -> None:
    """The process of one notebook: check each answer, send the entry for it."""
    with Path(os.devnull).open("r+b") as nothing, tempfile.TemporaryDirectory() as home:
        for stream in range(3):  # whatever prints, prints into nothing
            os.dup2(nothing.fileno(), stream)
        os.chdir(home)
        torch.set_num_threads(1)  # several notebooks run beside each other
        list(exercises())  # loaded now, so that no answer has to wait for it
        results.send_bytes(b"")
        for name in names:
            text = " ".join(verdict(cells, name).split())
            short = text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."
            results.send_bytes(short.encode("utf-8", "replace"))
        os.chdir("/")  # a folder that somebody is in cannot be removed everywhere


def verdict(cells: list[str], name: str) -> str:
    """The entry for one exercise; runs the student's code in this process."""
    try:
        before, answer = _answer_of(cells, name)
        code = ast.Module([*_needed(before, _reads(answer)), answer], [])
        space: dict[str, object] = {"__name__": "__main__"}
        exec(compile(ast.fix_missing_locations(code), "answer", "exec"), space)
        found = check_answer(name, space["_"])
    except (Exception, SystemExit) as error:  # a student's code may raise anything
        return f"error: {type(error).__name__}: {error}"
    return found.kind if found.kind in PLAIN else f"{found.kind}: {found.text}"


PLAIN = ("right", "missing")


def _answer_of(cells: list[str], name: str) -> tuple[list[ast.stmt], ast.stmt]:
    """What stands before the last check of an exercise, and `_ = ` what it checks."""
    before: list[ast.stmt] = []
    found: tuple[list[ast.stmt], ast.stmt] | None = None
    for source in cells:
        here = CHECK.findall(source)
        try:
            statements = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            if name in here:
                raise
            continue  # not this exercise's cell
        for statement in statements:
            checks = dict(_checks(statement))
            if name in checks:
                named = ast.Name("_", ast.Store())
                found = list(before), ast.Assign([named], checks[name])
            elif not checks:
                before.append(statement)
    if found is None:
        raise SyntaxError("check_answer is called in a comment or a string only")
    return found


def _checks(statement: ast.stmt) -> Iterator[tuple[str, ast.expr]]:
    """The exercises that a statement checks, each with the answer it gives."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and len(node.args) == 2:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0]
            if called == "check_answer" and isinstance(first, ast.Constant):
                yield str(first.value), node.args[1]


def _needed(statements: list[ast.stmt], names: set[str]) -> list[ast.stmt]:
    """Those that bind one of the names, or a name that such a statement reads."""
    bound = [_binds(statement) for statement in statements]
    kept: set[int] = set()
    while more := {i for i, b in enumerate(bound) if b & names and i not in kept}:
        kept |= more
        names = names.union(*(_reads(statements[i]) for i in more))
    return [statements[i] for i in sorted(kept)]


def _table(statement: ast.stmt) -> symtable.SymbolTable:
    fixed = ast.fix_missing_locations(statement)
    return symtable.symtable(ast.unparse(fixed), "answer", "exec")


def _binds(statement: ast.stmt) -> set[str]:
    return {
        symbol.get_name()
        for symbol in _table(statement).get_symbols()
        if symbol.is_assigned() or symbol.is_imported()
    }


def _reads(statement: ast.stmt) -> set[str]:
    """The global names that a statement reads, its functions and classes included."""
    found, tables = set(), [_table(statement)]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            outside = symbol.is_global() or table.get_type() == "module"
            if symbol.is_referenced() and outside:
                found.add(symbol.get_name())
    return found


def table(folder: Path, seconds: float = SECONDS) -> Iterator[list[str]]:
    """The rows of the table, its header first; notebooks run beside each other.

    Raises:
        UserError: `folder` is no folder, or holds no notebook.
    """
    found = students(folder)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        graded = {
            name: [pool.submit(grade, path, seconds) for path in paths]
            for name, paths in found.items()
        }
    entries: dict[str, dict[str, str]] = {}
    notes: dict[str, list[str]] = {}
    for name, results in graded.items():
        entries[name], notes[name] = {}, []
        for result in results:
            try:
                new = result.result()
            except UserError as error:
                notes[name].append(str(error))
                continue
            held = {k for k, v in entries[name].items() if v == "right"}
            entries[name] |= {k: v for k, v in new.items() if k not in held}
    asked = {exercise for row in entries.values() for exercise in row}
    listed = [e.name for e in exercises()]
    chapters = {name.partition(".")[0] for name in asked}
    columns = [name for name in listed if name.partition(".")[0] in chapters]
    columns += sorted(asked.difference(columns))  # a name that nobody has
    yield ["name", *columns, "right", "note"]
    for name, row in entries.items():
        right = list(row.values()).count("right")
        shown = [row.get(column, "missing") for column in columns]
        yield [_cell(name), *shown, f"{right}", " ".join(notes[name])]


def _cell(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m tinygpt.course.grade",
        description="Check students' notebooks; print a table of names and exercises "
        "as CSV. Their code runs on this machine, with your rights.",
    )
    parser.add_argument("folder", type=Path, help="a notebook or a folder a student")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="for one answer (%(default)g)"
    )
    options = parser.parse_args(arguments)
    try:
        if not options.seconds > 0:
            raise UserError("--seconds must be more than 0.")
        csv.writer(sys.stdout, lineterminator="\n").writerows(
            table(options.folder, options.seconds)
        )
    except UserError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
