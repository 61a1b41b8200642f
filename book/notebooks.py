"""Make, run and check the chapters' notebooks: the only way their outputs are stored.

    python book/notebooks.py renew [--stale] [chapters/04_attention.ipynb ...]
    python book/notebooks.py from_percent SOURCE chapters/04_attention.ipynb
    python book/notebooks.py to_percent chapters/04_attention.ipynb > SOURCE

`renew` runs each notebook from top to bottom in a temporary folder and stores what it
showed, without times and with fixed metadata, so that a diff shows what changed.
With `--stale` it runs only those whose code, or the files of tinygpt behind it, have
changed since (a digest in the notebook's metadata). A percent source is the notebook
as plain text, handy to edit: cells begin with `# %%` or `# %% [markdown]`, and the
first lines of a code cell may say `#| alt:`, `#| caption:`, `#| name:`, `#| tags:`.

What it leaves out: comparing outputs, which is nbval's work (`make test`).
"""

import argparse
import ast
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
OPTIONS = ("alt", "caption", "name", "tags")
CELL_TIMEOUT = 900  # seconds: training takes its time on a busy machine


# --- Percent source <-> notebook ----------------------------------------------------


def cell_metadata(options: dict[str, str]) -> dict[str, Any]:
    """MyST-NB's metadata for the options of a code cell."""
    metadata: dict[str, Any] = {}
    if tags := options.get("tags"):
        metadata["tags"] = [tag.strip() for tag in tags.split(",")]
    figure = {key: options[key] for key in ("caption", "name") if key in options}
    mystnb = {"image": {"alt": options["alt"]}} if "alt" in options else {}
    if figure:
        mystnb["figure"] = figure
    return metadata | ({"mystnb": mystnb} if mystnb else {})


def cell_options(metadata: dict[str, Any]) -> dict[str, str]:
    """The inverse of `cell_metadata`."""
    mystnb = metadata.get("mystnb", {})
    options = {"alt": mystnb.get("image", {}).get("alt")}
    options |= {"tags": ", ".join(metadata.get("tags", []))}
    options |= mystnb.get("figure", {})
    return {key: options[key] for key in OPTIONS if options.get(key)}


def from_percent(text: str) -> NotebookNode:
    """The notebook of a percent source; a cell's id is made from its content."""
    notebook = nbformat.v4.new_notebook(metadata=METADATA)
    seen: set[str] = set()
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        if head.strip() == "[markdown]":
            cell = nbformat.v4.new_markdown_cell(body.strip())
        elif not head.strip():
            found = re.match(r"\n*((?:#\|.*\n)*)", body)
            lines = found[1].splitlines() if found else []
            options = dict(line[2:].strip().split(": ", 1) for line in lines)
            if unknown := set(options) - set(OPTIONS):
                sys.exit(f"unknown cell options {sorted(unknown)}; known: {OPTIONS}")
            source = body[found.end() :].strip() if found else body.strip()
            cell = nbformat.v4.new_code_cell(source, metadata=cell_metadata(options))
        else:
            sys.exit(f"cannot read '# %%{head}': write '# %%' or '# %% [markdown]'")
        digest = hashlib.sha256(cell.source.encode("utf-8")).hexdigest()
        cell.id = next(
            name for n in range(len(text)) if (name := digest[n : n + 8]) not in seen
        )
        seen.add(cell.id)
        notebook.cells.append(cell)
    return notebook


def to_percent(notebook: NotebookNode) -> str:
    """The percent source of a notebook."""
    parts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(f"# %% [markdown]\n{cell.source}\n")
        else:
            options = cell_options(cell.metadata)
            lines = "".join(f"#| {key}: {options[key]}\n" for key in options)
            parts.append(f"# %%\n{lines}{cell.source}\n")
    return "\n".join(parts)


# --- Running ------------------------------------------------------------------------


def behind(name: str, source: str) -> Iterator[Path]:
    """The files of tinygpt and data/ that the code of a chapter rests on."""
    module = name.split("_", 1)[-1]
    waiting = re.findall(r"tinygpt(?:\.\w+)+", source)
    waiting += [
        "tinygpt",
        "tinygpt.course.exercises",
        f"tinygpt.course.exercises.{module}",
    ]
    seen: set[Path] = set()
    while waiting:
        stem = ROOT / waiting.pop().replace(".", "/")
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file() and path not in seen:
                seen.add(path)
                for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(node, ast.ImportFrom) and node.module:
                        waiting.append(node.module)
    yield from sorted(seen)
    yield from sorted(p for p in (ROOT / "data").rglob("*") if p.is_file())


def digest(path: Path, notebook: NotebookNode) -> str:
    """What the outputs depend on, in 16 hexadecimal digits."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    total = hashlib.sha256(json.dumps(code).encode("utf-8"))
    for file in behind(path.stem, "\n".join(code)):
        total.update(file.relative_to(ROOT).as_posix().encode("utf-8"))
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def run(notebook: NotebookNode) -> None:
    """Execute with one thread in a temporary folder; drop what changes by itself."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=CELL_TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = merged(cell.outputs)


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Neighbouring pieces of one stream as one: how a kernel cuts them is chance."""
    result: list[NotebookNode] = []
    for output in outputs:
        last = result[-1] if result else None
        if last and output.get("name") and output.get("name") == last.get("name"):
            last.text += output.text
        else:
            result.append(output)
    return result


def renew(paths: list[Path], only_stale: bool) -> None:
    """Run the notebooks and store their outputs; exits with 1 if a cell fails."""
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        if only_stale:
            stored = notebook.metadata.get("tinygpt", {}).get("inputs")
            if stored == digest(path, notebook):
                continue
        print(f"running {path.name} ...", flush=True)
        try:
            run(notebook)
        except Exception as error:  # whatever a chapter raises: name the chapter
            sys.exit(f"{path.name} failed:\n{error}")
        notebook.metadata["tinygpt"] = {"inputs": digest(path, notebook)}
        nbformat.write(notebook, path)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("renew", help="run notebooks and store their outputs")
    sub.add_argument("notebooks", nargs="*", type=Path)
    sub.add_argument("--stale", action="store_true", help="only those that need it")
    sub = commands.add_parser("from_percent", help="make a notebook of a text file")
    sub.add_argument("source", type=Path)
    sub.add_argument("notebook", type=Path)
    sub = commands.add_parser("to_percent", help="print a notebook as a text file")
    sub.add_argument("notebook", type=Path)
    args = parser.parse_args()
    if args.command == "renew":
        every = sorted((ROOT / "chapters").glob("*.ipynb"))
        renew(args.notebooks or every, args.stale)
    elif args.command == "from_percent":
        notebook = from_percent(args.source.read_text(encoding="utf-8"))
        nbformat.write(notebook, args.notebook)
    else:
        print(to_percent(nbformat.read(args.notebook, as_version=4)), end="")


if __name__ == "__main__":
    main()
