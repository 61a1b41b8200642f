"""Run the chapters' notebooks: the only way their outputs are stored.

    python book/notebooks.py [--stale | --check] [chapters/04_attention.ipynb ...]

Runs each notebook from top to bottom in a temporary folder and stores what it showed,
without times and with fixed metadata, so that a diff shows what changed; then puts
numbers of the runs, and code of the package, into the prose of all (see `quoted`). With
`--stale` it runs only those whose code, or the files of tinygpt behind it, have changed
since (a digest in the notebook's metadata); with `--check` it runs none, but fails if
there are such. Where the course has an address, it also puts the cell for Colab in.

To edit a notebook as plain text, use jupytext's percent format, which keeps the options
of a cell (alt text, caption, tags) as metadata behind its `# %%`:

    jupytext --to py:percent chapters/04_attention.ipynb --output SOURCE.py
    jupytext --to ipynb --update --output chapters/04_attention.ipynb SOURCE.py

What it leaves out: comparing outputs, which is nbval's work (`make test`).
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from published import COLAB, repository, with_colab, without_colab
from quoted import fill

ROOT = Path(__file__).resolve().parent.parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
CELL_TIMEOUT = 900  # seconds: training takes its time on a busy machine


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Every `from MODULE import NAME` of a file, wherever it is."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def behind(name: str, source: str) -> Iterator[Path]:
    """The files of tinygpt and data/ that the code of a chapter rests on."""
    front = ROOT / "tinygpt" / "__init__.py"  # loads only those names that are used
    offered = {name: module for module, name in imports(front)}
    used = re.findall(r"tinygpt(?:\.\w+)+", source)
    waiting = ["tinygpt.course.exercises." + name.split("_", 1)[-1], *used]
    waiting += [offered.get(word.split(".")[1], "") for word in used]
    seen = {front}
    while waiting:
        stem = ROOT / waiting.pop().replace(".", "/")
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file() and path not in seen:
                seen.add(path)
                waiting += [module for module, _ in imports(path)]
    yield from sorted(seen)
    yield from sorted(p for p in (ROOT / "data").rglob("*") if p.is_file())


def digest(path: Path, notebook: NotebookNode) -> str:
    """What the outputs depend on, in 16 hexadecimal digits."""
    cells = [cell for cell in notebook.cells if cell.get("id") != COLAB]
    code = [cell.source for cell in cells if cell.cell_type == "code"]
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
            coalesce_streams=True,  # how a kernel cuts a stream into pieces is chance
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":  # a progress bar leaves spaces where it was
            cell.outputs = [o for o in cell.outputs if o.get("text", "x").strip()]


def is_stale(path: Path, notebook: NotebookNode) -> bool:
    """Whether the outputs are those of other code."""
    stored = notebook.metadata.get("tinygpt", {}).get("inputs")
    return bool(stored != digest(path, notebook))


def renew(paths: list[Path], only_stale: bool, url: str = "") -> None:
    """Run the notebooks and store their outputs; exits with 1 if a cell fails.

    With the `url` of a repository, each gets a cell that installs from there in Colab.
    """
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        had = without_colab(notebook)
        stale = not only_stale or is_stale(path, notebook)
        if stale:
            print(f"running {path.name} ...", flush=True)
            try:
                run(notebook)
            except Exception as error:  # whatever a chapter raises: name the chapter
                sys.exit(f"{path.name} failed:\n{error}")
            notebook.metadata["tinygpt"] = {"inputs": digest(path, notebook)}
        if url:
            with_colab(notebook, url)
        if stale or had or url:
            nbformat.write(notebook, path)


def check(paths: list[Path]) -> None:
    """Exit with 1 and the names of the stale notebooks, if there are any."""
    read = {path: nbformat.read(path, as_version=4) for path in paths}
    stale = [path.name for path, notebook in read.items() if is_stale(path, notebook)]
    if stale:
        sys.exit(f"outputs of other code: {', '.join(stale)}; `make book` renews them")


def fill_all() -> None:
    """Renew what the prose of all chapters quotes, since one may quote another."""
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        before = copy.deepcopy(notebook)
        try:
            fill(notebook)
        except LookupError as error:
            sys.exit(f"{path.name}: {error}")
        if notebook != before:
            nbformat.write(notebook, path)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path)
    parser.add_argument("--stale", action="store_true", help="only those that need it")
    parser.add_argument("--check", action="store_true", help="fail if any needs it")
    args = parser.parse_args()
    notebooks = args.notebooks or sorted((ROOT / "chapters").glob("*.ipynb"))
    if args.check:
        check(notebooks)
    else:
        renew(notebooks, args.stale, repository())
        fill_all()


if __name__ == "__main__":
    main()
