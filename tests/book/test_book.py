"""The chapters and pages as files: complete, clean, and true to the package.

Running the chapters and comparing their outputs is nbval's work; the built site is
looked at in `test_site`.
"""

import ast
import doctest
import importlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import pytest
import yaml
from conftest import load_tool

import tinygpt
from tinygpt.course.exercises import exercises

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
PAGES = sorted((ROOT / "book").glob("[!R]*.md"))  # no README
# What each chapter is about, in order; it may import these and all before them.
MODULES = {
    "00_one_minute": set(),
    "01_tokenization": {"text.tokenizer"},
    "02_embeddings": {
        "model.embeddings",
        "formats.huggingface",  # for a table that has learned; see chapter 08
    },
    "03_positional": {"model.positional"},
    "04_attention": {"model.attention"},
    "05_masking": {"model.masking"},
    "06_blocks": {"model.block", "model.gpt"},
    "07_training": {
        "training.loss",
        "training.evaluation",
        "training.trainer",
        "training.checkpoint",
    },
    "08_finetuning": {
        "finetuning.chat",
        "finetuning.chat_data",
        "finetuning.lora",
        "finetuning.run",
    },
    "09_generation": {"model.kv_cache", "generation.generate"},
    "10_inside": set(),
    "11_rewards": {
        "finetuning.rewards",
        "finetuning.policy",
        "finetuning.rollouts",
        "finetuning.policy_run",
    },
}
# What it may use besides: parts of its own room, and what is explained later.
BESIDES = {
    "00_one_minute": {"model.attention"},  # a look inside, before it is explained
    "01_tokenization": {
        "text.bpe",
        "text.bpe_training",
        "text.corpora",
        "text.documents",
    },
    "04_attention": {"model.gpt"},  # for an untrained twin of the trained model
    "07_training": {
        "files",
        "generation.generate",
        "training.tensor_file",
        "training.text_data",
        "training.muon",
        "training.optimizers",
        "training.schedule",
    },
    "09_generation": {
        "generation.sampling",
        "generation.streaming",
        "fast.quantized",
    },
}
ALWAYS = {
    "config",
    "course.model_map",
    "course.notebook",
    "course.plotting",
    "errors",
    "presets",
    "reward_config",
    "text.dataset",  # every chapter works on the real text, and here it is read
}
LAST = ["Exercises", "Quiz", "Summary", "References"]  # how a chapter ends
CHECKED = [path for path in CHAPTERS if path.stem[:2] != "00"]  # whose answers are
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)


notebooks = load_tool("notebooks")
quoted = load_tool("quoted")


def cells(path: Path, kind: str) -> list[Any]:
    """The cells of a kind; what Colab gets besides is `test_public`'s."""
    read = nbformat.read(path, 4).cells
    return [c for c in read if c.cell_type == kind and c.get("id") != "colab"]


def code(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path, "code"))


def prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in cells(path, "markdown"))


# --- All chapters ------------------------------------------------------------------


def test_the_table_of_contents_is_complete() -> None:
    text = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    toc = yaml.safe_load(text)
    listed = [toc["root"]]
    listed += [entry["file"] for part in toc["parts"] for entry in part["chapters"]]
    there = [p.relative_to(ROOT).with_suffix("").as_posix() for p in CHAPTERS + PAGES]
    assert sorted(listed) == sorted(there)
    chapters = [name for name in listed if name.startswith("chapters/")]
    assert chapters == sorted(chapters)


@each_chapter
def test_every_chapter_has_its_modules_tests_and_exercises(path: Path) -> None:
    for module in MODULES[path.stem]:
        room, name = module.split(".")
        assert (ROOT / "tinygpt" / room / f"{name}.py").is_file()
        assert list((ROOT / "tests" / room).glob(f"test_*{name}.py"))
    name = path.stem.split("_", 1)[1]
    if path in CHECKED:
        assert (ROOT / "tinygpt" / "course" / "exercises" / f"{name}.py").is_file()


@each_chapter
def test_how_a_chapter_begins_and_ends(path: Path) -> None:
    text = prose(path)
    titles = re.findall(r"^# .*", text, re.MULTILINE)
    assert len(titles) == 1
    assert titles[0].startswith(f"# {path.stem[:2]} ")
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings[-len(LAST) :] == LAST
    here = CHAPTERS.index(path)
    for other in CHAPTERS[max(0, here - 1) : here] + CHAPTERS[here + 1 : here + 2]:
        assert f"({other.name})" in text, f"no link to {other.name}"


def markup(text: str) -> list[str]:
    """What only MyST would understand, and comments that would hide a line."""
    text = re.sub(r"^```python\n.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    left = r"(?<!`)\{[\w:+-]+\}`[^`\n]+`|^:::|^```+\{|^\([\w-]+\)=|^%|^\+\+\+"
    left += r"|^\|.*<!--[^>\n]*[^\\]\|"  # in a table, a bare bar begins the next cell
    return re.findall(left + r"|^[-*\d. ]*<!-- [nm]:", text, re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        "as {term}`logits` show",
        "see {cite:t}`vaswani2017attention`",
        "a {py:func}`name` here",
        ":::{note}\ntext\n:::",
        "```{figure} x.png\n```",
        "(a-target)=\n# Title",
        "% a comment",
        "+++",
        "<!-- n:weight -->0.77<!-- / --> begins a line",
        "- <!-- m:growth/b -->0.77<!-- / --> begins an entry",
        "| loss | <!-- m:growth/b|.2f -->0.77<!-- / --> |",
    ],
)
def test_what_only_myst_understands_is_found(text: str) -> None:
    assert markup(text)


def test_code_and_numbers_within_a_line_are_plain() -> None:
    assert not markup("`{term}` and `f'{x}'`: <!-- n:weight -->0.77<!-- / -->, $x_{t}$")
    assert not markup("```python\n% timeit\n+++\n```")
    assert not markup("| loss | <!-- m:growth/b\\|.2f -->0.77<!-- / --> |")
    assert not markup("Its loss <!-- m:growth/b|.2f -->0.77<!-- / --> fell.")


@each_chapter
def test_the_prose_is_plain_markdown(path: Path) -> None:
    """A notebook opens in JupyterLab and on GitHub, which know nothing of MyST."""
    text = prose(path)
    assert markup(text) == []
    lines = text.splitlines()
    assert text.count("<details>") == text.count("</details>")
    for before, after in itertools.pairwise(lines):
        if before.startswith(("</summary>", "<summary>")) or after == "</details>":
            assert "" in (before, after), "Markdown in a fold needs an empty line"


@each_chapter
def test_what_stays_visible_is_short(path: Path) -> None:
    for cell in cells(path, "code"):
        if "hide-input" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 15, cell.source


@each_chapter
def test_numbers_and_code_in_the_prose_are_those_of_the_run(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    before = [cell.source for cell in notebook.cells]
    quoted.fill(notebook)
    assert [cell.source for cell in notebook.cells] == before
    used = set(re.findall(r"<!-- (?:n|answer):(\w+) -->", prose(path)))
    assert used == set(quoted.numbers(notebook)), "a number is stored in vain"
    assert "<!-- code:" not in quoted.CODE.sub("", prose(path))
    assert "<!-- n:" not in quoted.NUMBER.sub("", prose(path))
    assert "<!-- m:" not in quoted.MEASURED.sub("", prose(path))


def with_a_number(text: str) -> Any:
    """A notebook with this text, and a cell that stored a number."""
    data = {"application/papermill.record/text/plain": "0.77"}
    metadata = {"scrapbook": {"name": "weight"}}
    output = nbformat.v4.new_output("display_data", data, metadata=metadata)
    cell = nbformat.v4.new_code_cell(outputs=[output])
    return nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell(text)])


def test_quotes_are_renewed_wherever_they_come_from() -> None:
    elsewhere = quoted.numbers(nbformat.read(CHAPTERS[1], 4))
    bits = elsewhere["tokenization_uniform"]
    law = "growth/scaling/by_tokens/b|.3f"
    old = (
        "Its <!-- n:weight -->1<!-- / --> and <!-- n:weight --><!-- / -->,\n"
        "of <!-- n:01_tokenization/tokenization_uniform -->1<!-- / -->,\n"
        f"by <!-- m:{law} -->1<!-- / -->.\n"
        "<!-- code:model.masking.causal_mask -->\n```python\nold\n```\n<!-- / -->\n"
    )
    notebook = with_a_number(old)
    quoted.fill(notebook)
    here, there, benchmark, *_, code = notebook.cells[1].source.split("\n", 4)
    assert (
        here
        == "Its <!-- n:weight -->0.77<!-- / --> and <!-- n:weight -->0.77<!-- / -->,"
    )
    assert f"-->{bits}<!--" in there
    assert f"-->{quoted.look_up(law)}<!--" in benchmark
    assert "def causal_mask" in code
    assert "old" not in code
    once = notebook.cells[1].source
    quoted.fill(notebook)
    assert notebook.cells[1].source == once


@pytest.mark.parametrize(
    "quote",
    [
        "n:height",
        "n:01_tokenization/weight",
        "n:13_nothing/weight",
        "m:growth/no_such_key",
    ],
)
def test_a_quote_of_nothing_is_refused(quote: str) -> None:
    with pytest.raises(LookupError):
        quoted.fill(with_a_number(f"Its <!-- {quote} -->1<!-- / -->."))


@each_chapter
def test_imports_follow_the_order_of_chapters(path: Path) -> None:
    allowed = set(ALWAYS)
    for stem, modules in MODULES.items():
        allowed |= modules | BESIDES.get(stem, set()) if stem <= path.stem else set()
    for node in ast.walk(ast.parse(code(path))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tiny"):
            module = node.module.removeprefix("tinygpt").removeprefix(".")
            assert module in allowed, f"{path.stem} imports {node.module}"


@each_chapter
def test_nothing_of_tinygpt_is_defined_again(path: Path) -> None:
    defined = {
        node.name
        for node in ast.walk(ast.parse(code(path)))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }
    for module in ALWAYS.union(*MODULES.values(), *BESIDES.values()):
        public = vars(importlib.import_module(f"tinygpt.{module}"))
        mine = {n for n, v in public.items() if callable(v) and n[0] != "_"}
        assert not defined & mine


@each_chapter
def test_stored_outputs_are_whole(path: Path) -> None:
    counts = [cell.execution_count for cell in cells(path, "code")]
    assert counts == list(range(1, len(counts) + 1))
    for cell in cells(path, "code"):
        assert cell.source.strip()
        for output in cell.outputs:
            assert output.output_type != "error"
            assert "object at 0x" not in str(output)
            assert "<Axes" not in str(output)


@each_chapter
def test_no_network_no_paths(path: Path) -> None:
    banned = (
        r"sys\.path|os\.environ|pyplot|\bplt\.|requests|urllib|http|socket"
        r"|subprocess|[\"'](/|~|[A-Z]:\\)|^[!%]"
    )
    assert not re.findall(banned, code(path), re.MULTILINE)
    outputs = str([cell.outputs for cell in cells(path, "code")])
    assert not re.findall(r"/home/|/root/|/tmp/|/Users/|site-packages", outputs)


@each_chapter
def test_every_figure_has_alt_text(path: Path) -> None:
    for cell in cells(path, "code"):
        pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
        assert len(pictures) <= 1, "one figure per cell, so that each has its own text"
        if pictures:
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt) > 30, cell.source
            assert not re.match(r"an? (figure|image|picture|plot) ", alt.lower())


@each_chapter
def test_no_cell_escapes_comparison_without_a_reason(path: Path) -> None:
    for cell in cells(path, "code"):
        tags = set(cell.metadata.get("tags", []))
        assert "nbval-skip" not in tags
        assert "raises-exception" not in tags
        if "nbval-ignore-output" in tags:
            assert cell.source.startswith("# "), "say why in the first line"


@pytest.mark.slow
@pytest.mark.parametrize("path", CHECKED, ids=lambda p: p.stem)
def test_every_exercise_has_a_check_and_a_solution_that_passes(path: Path) -> None:
    text = prose(path)
    name = path.stem.split("_", 1)[1]
    number = int(path.stem[:2])
    asked = re.findall(r"^### Exercise (\d+)\.(\d+): \S", text, re.MULTILINE)
    calls = r'tinygpt\.check_answer\(\s*"([\w.]+)",\s*(\w+)'
    checks = dict(re.findall(calls, code(path)))
    assert 3 <= len(asked) <= 5
    assert asked == [(str(number), str(i + 1)) for i in range(len(checks))]
    assert set(checks) == {e.name for e in exercises() if e.name.startswith(name + ".")}

    mpl.use("Agg")
    tree = ast.parse(code(path))
    imports = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    solutions = re.findall(
        r"<summary>Solution</summary>\n\n```python\n(.*?)```", text, re.DOTALL
    )
    for source, (check, answer) in zip(solutions, checks.items(), strict=True):
        space: dict[str, Any] = {}
        exec("\n".join(map(ast.unparse, imports)), space)
        exec(source, space)
        verdict = tinygpt.check_answer(check, space[answer])
        assert verdict, f"{check}: {verdict}"


# --- Pages -------------------------------------------------------------------------


def test_every_term_is_in_the_glossary_once_and_in_order() -> None:
    text = (ROOT / "book" / "glossary.md").read_text(encoding="utf-8")
    pytest.importorskip("sphinx", reason="the packages that build the site")
    terms = load_tool("enrich").glossary_terms(text)
    assert terms == sorted(set(terms), key=str.lower)


@pytest.mark.parametrize("page", ["two_tools", "backpropagation"])
def test_the_code_on_a_page_prints_what_the_page_says(page: str) -> None:
    text = (ROOT / "book" / f"{page}.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    example = doctest.DocTestParser().get_doctest(code, {}, page, None, None)
    assert len(example.examples) > 5
    assert doctest.DocTestRunner().run(example).failed == 0


def dotted(path: Path) -> str:
    """The name by which Python imports a file of the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def test_every_module_is_in_the_api_reference_once() -> None:
    listed = re.findall(
        r"^\.\. automodule:: (\S+)$",
        "".join(page.read_text(encoding="utf-8") for page in PAGES),
        re.MULTILINE,
    )
    there = {dotted(path) for path in (ROOT / "tinygpt").rglob("*.py")}
    hidden = {"tinygpt.__main__"}  # one line that calls the command
    hidden |= {m for m in there if m.startswith("tinygpt.course.exercises.")}  # answers
    assert sorted(listed) == sorted(there - hidden)


ROOMS = [path.parent.name for path in sorted((ROOT / "tinygpt").glob("*/__init__.py"))]


def test_the_reference_has_a_page_for_each_room() -> None:
    for room in ROOMS:
        text = (ROOT / "book" / f"api_{room}.md").read_text(encoding="utf-8")
        headings = re.findall(r"^## `(.*)`$", text, re.MULTILINE)
        listed = re.findall(r"automodule:: (\S+)", text)
        assert listed == [f"tinygpt.{room}", *headings]
        assert all(name.startswith(f"tinygpt.{room}.") for name in headings)


def test_the_readme_lists_the_rooms_and_their_modules() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|.*\|.*\|$", text, re.MULTILINE)
    assert sorted(room for room, _ in rows) == ROOMS
    for room, cell in rows:
        folder = ROOT / "tinygpt" / room
        there = {p.stem for p in folder.glob("*.py")} - {"__init__"}
        there |= {p.parent.name for p in folder.glob("*/__init__.py")}
        assert set(re.findall(r"`(\w+)`", cell)) == there, room
    files = {p.name for p in (ROOT / "tinygpt").glob("*.py")} - {"__main__.py"}
    assert set(re.findall(r"^\| `(\w+\.py)` \|", text, re.MULTILINE)) == files


def test_every_module_can_be_read_in_one_sitting() -> None:
    for path in (ROOT / "tinygpt").rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path


def test_formulas_and_scripts_come_with_the_site() -> None:
    static = ROOT / "book" / "_static"
    assert (static / "mathjax" / "tex-mml-chtml.js").is_file()
    assert (static / "mathjax" / "LICENSE").is_file()
    fonts = static / "mathjax" / "output" / "chtml" / "fonts" / "woff-v2"
    assert len(list(fonts.glob("*.woff"))) > 20
    for page in PAGES:
        assert "<script" not in page.read_text(encoding="utf-8")


def close(stored: Any, fresh: Any) -> bool:
    """Equal, but numbers may differ by two roundings and another CPU."""
    if isinstance(fresh, dict):
        return stored.keys() == fresh.keys() and all(
            close(stored[name], fresh[name]) for name in fresh
        )
    if isinstance(fresh, list | tuple):
        return len(stored) == len(fresh) and all(map(close, stored, fresh))
    tolerant = isinstance(fresh, float)
    return stored == (pytest.approx(fresh, abs=0.021) if tolerant else fresh)


@pytest.mark.parametrize("name", ["attention", "sampling", "neighbours", "merges"])
def test_the_widgets_show_what_the_trained_models_say(name: str) -> None:
    for file, fresh in load_tool("widget_data").widget_data().items():
        if file.startswith(name):
            path = ROOT / "book" / "_static" / "widgets" / f"{file}.js"
            text = path.read_text(encoding="utf-8").partition("=")[2]
            assert close(json.loads(text.rstrip(";\n")), fresh), file


# --- The same model in two languages -----------------------------------------------

NAMED_OTHERWISE = {  # what the two do in other steps, or in opposite directions
    "model.positional.RotaryPositions.forward": "RotaryPositions.turn",
    "model.gpt.GPT.forward": "GPT.nextLogits",
    "formats.web.characters": "makeFloats",
    "formats.web.pairs": "readRows",
}


def camel_case(name: str) -> str:
    return re.sub(r"_(\w)", lambda letter: letter[1].upper(), name)


def test_every_function_shown_exists_in_both_languages() -> None:
    pytest.importorskip("sphinx", reason="the packages that build the site")
    tool = load_tool("two_languages")
    text = (ROOT / "book" / "two_languages.md").read_text(encoding="utf-8")
    shown = re.findall(r"^:::\{two-languages\} (.*)$", text, re.MULTILINE)
    pairs = [tuple(map(str.split, pair.split("|"))) for pair in shown]
    assert len(pairs) > 15
    for python, javascript in pairs:
        for name in python:
            (node,) = ast.parse(quoted.python_source(name)).body
            assert node.name == name.split(".")[-1]
        for name in javascript:
            source = tool.javascript_source(name)
            assert name.split(".")[-1] in source
            assert source.count("{") == source.count("}")
            assert source.endswith("\n}")
    twins = {python[-1]: javascript[-1] for python, javascript in pairs if python}
    for python, javascript in twins.items():
        same = camel_case(python.split(".", 2)[2])
        assert javascript == NAMED_OTHERWISE.get(python, same)

    scripts = "".join((tool.STATIC / name).read_text("utf-8") for name in tool.SCRIPTS)
    sections = re.findall(r"^  // --- ([\w/]+)\.py", scripts, re.MULTILINE)
    assert all((ROOT / "tinygpt" / f"{module}.py").is_file() for module in sections)
    order = [sections.index("/".join(name.split(".")[:2])) for name in twins]
    assert order == sorted(order), "the page, the script and this list go the same way"


def test_python_is_shown_without_what_only_a_user_of_the_package_needs() -> None:
    pytest.importorskip("sphinx", reason="the packages that build the site")
    tool = load_tool("two_languages")
    source = '''def f(x: int) -> int:
    """Half of it.

    Raises:
        ValueError: it is odd.
    """
    require(
        x % 2 == 0,
        "odd",
    )
    self.require_room(x)
    half = x // 2

    return half'''
    assert (
        tool.brief(source)
        == '''def f(x: int) -> int:
    """Half of it."""
    half = x // 2

    return half'''
    )
    assert tool.brief(tool.brief(source)) == tool.brief(source)


@pytest.mark.parametrize(
    "name", ["model", "model.block", "model.block.Nothing", "nothing.at_all"]
)
def test_a_name_that_nothing_has_stops_the_build(name: str) -> None:
    pytest.importorskip("sphinx", reason="the packages that build the site")
    tool = load_tool("two_languages")
    for source in (quoted.python_source, tool.javascript_source):
        with pytest.raises(LookupError, match=r"has no"):
            source(name)


# --- What the build adds ----------------------------------------------------------


def test_a_citation_leads_to_an_entry() -> None:
    text = (ROOT / "book" / "bibliography.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)", text, re.MULTILINE)
    assert headings == sorted(set(headings), key=str.lower)
    entries = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }
    pages = [prose(path) for path in CHAPTERS]
    pages += [path.read_text(encoding="utf-8") for path in PAGES]
    cited = set(re.findall(r"bibliography\.md#([\w-]+)", "\n".join(pages)))
    assert cited <= entries


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two queries and a key.", ["query", "key"]),
        ("GELU is not gelu, Keys are keys.", ["GELU", "key", "key"]),
        ("A layer norm is no layer.", ["layer norm"]),
        ("A monkey, key-value", []),
    ],
)
def test_terms_are_found_in_their_spellings(text: str, found: list[str]) -> None:
    pytest.importorskip("sphinx", reason="the packages that build the site")
    terms = load_tool("enrich").Terms(["GELU", "key", "layer norm", "query"])
    assert [term for _, _, term in terms.find(text)] == found


def home_of_symbols() -> dict[str, str]:
    """The chapter that introduces each capital and Greek letter of the notation."""
    text = (ROOT / "book" / "notation.md").read_text(encoding="utf-8")
    found: dict[str, str] = {}
    for cell, chapter in re.findall(r"^\| (.*?) \|.*\[(\d\d)\]", text, re.MULTILINE):
        for symbol in re.findall(SYMBOL, " ".join(re.findall(r"\$(.*?)\$", cell))):
            found[symbol] = min(chapter, found.get(symbol, chapter))
    return found


SYMBOL = r"\\(?:omega|mu|sigma|tau|alpha)(?![a-z])|(?<![A-Za-z\\])[A-Z](?![A-Za-z])"


@each_chapter
def test_no_symbol_comes_before_the_chapter_that_introduces_it(path: Path) -> None:
    home = home_of_symbols()
    assert {"V", "C", "H", "D", "\\omega"} <= set(home)
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", prose(path), re.DOTALL)
    used = set(re.findall(SYMBOL, " ".join(formulas)))
    assert sorted(s for s in used if home.get(s, "00") > path.stem[:2]) == []


# --- The notebook tool -------------------------------------------------------------


def notebook_of(*sources: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    return nbformat.v4.new_notebook(cells=cells, metadata=notebooks.METADATA)


@each_chapter
def test_a_chapter_can_be_edited_as_plain_text(path: Path) -> None:
    jupytext = pytest.importorskip("jupytext", reason="the packages for the notebooks")
    notebook = nbformat.read(path, 4)
    again = jupytext.reads(jupytext.writes(notebook, "py:percent"), "py:percent")
    for before, after in zip(notebook.cells, again.cells, strict=True):
        for key in ("cell_type", "source", "metadata"):
            assert before[key] == after[key]


@pytest.mark.slow
def test_renew_stores_outputs_and_runs_only_what_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "01_tokenization.ipynb"
    nbformat.write(notebook_of("print(1)\nprint(2)\n3"), path)
    notebooks.renew([path], only_stale=True)
    first = path.read_text(encoding="utf-8")
    cell = nbformat.read(path, 4).cells[0]
    assert cell.execution_count == 1
    assert cell.outputs[0].text == "1\n2\n"
    assert cell.outputs[1].data["text/plain"] == "3"
    assert "execution" not in cell.metadata
    path.write_text(first.replace('"3"', '"4"', 1), encoding="utf-8")
    notebooks.renew([path], only_stale=True)  # still fresh, so the 4 stays
    assert '"4"' in path.read_text(encoding="utf-8")
    notebooks.renew([path], only_stale=False)
    assert path.read_text(encoding="utf-8") == first


@pytest.mark.slow
def test_a_failing_chapter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "01_tokenization.ipynb"
    nbformat.write(notebook_of("1 / 0"), path)
    with pytest.raises(SystemExit, match=r"01_tokenization.ipynb failed"):
        notebooks.renew([path], only_stale=False)


def test_outputs_depend_on_the_modules_behind_a_chapter() -> None:
    source = "import tinygpt\nfrom tinygpt.model.gpt import GPT\n"

    def names(source: str) -> set[str]:
        paths = notebooks.behind("06_blocks", source)
        return {p.relative_to(ROOT).as_posix() for p in paths}

    files = names(source)
    assert {
        "tinygpt/model/gpt.py",
        "tinygpt/model/attention.py",
        "tinygpt/course/exercises/blocks.py",
        "data/README.md",
    } <= files
    assert "tinygpt/training/trainer.py" not in files
    assert "tinygpt/course/exercises/__init__.py" in names(
        source + 'tinygpt.check_answer("blocks.count", 1)'
    )
