"""What the public sees first: version, address, workflows, locks. Fetches nothing."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
import yaml
from conftest import ROOT, load_tool

import tinygpt

tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer reads TOML")
published, notebooks = load_tool("published"), load_tool("notebooks")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
URL = "https://github.com/someone/a-course"  # for tests alone


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- One version, one address ---------------------------------------------------------


def test_the_version_stands_in_one_place() -> None:
    """In tinygpt/__init__.py; who must repeat it agrees, and the changelog knows it."""
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == tinygpt.__version__
    assert PROJECT["project"]["dynamic"] == ["version"]
    versions = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert versions[:2] == ["Unreleased", tinygpt.__version__]


def test_no_address_is_invented_and_none_forgotten() -> None:
    """`repository.url` of _config.yml is the one place; these repeat it, or are silent.

    When the course gets an address, this test names what else is to be set.
    """
    url = published.repository()
    told = {
        "pyproject.toml, project.urls.Repository": PROJECT["project"]
        .get("urls", {})
        .get("Repository", ""),
        "CITATION.cff, repository-code": yaml.safe_load(read("CITATION.cff")).get(
            "repository-code", ""
        ),
        "README.md, the badge of test.yml": "".join(
            re.findall(
                r"\((https://\S+)/actions/workflows/test\.yml\)", read("README.md")
            )
        ),
    }
    assert told == dict.fromkeys(told, url)
    for path in sorted((ROOT / "chapters").glob("*.ipynb")):
        notebook = nbformat.read(path, 4)
        ours = [c.source for c in notebook.cells if c.id == published.COLAB]
        assert ours == ([published.INSTALL.format(url=url)] if url else []), path.name


# --- Workflows ------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, str]]:
    """Every command of the workflows, with the file that it stands in."""
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values():
            for step in job["steps"]:
                yield path.name, step.get("run", "")


def test_workflows_have_no_logic_of_their_own() -> None:
    known = ("make ", "uv ", "gh release create ")
    assert all(not run or run.startswith(known) for _, run in commands())
    assert not [run for _, run in commands() if len(run.splitlines()) > 1]


def test_what_is_made_there_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    nightly = yaml.safe_load(read(".github/workflows/nightly.yml"))["jobs"]["make"]
    made = {m for _, run in commands() for m in re.findall(r"^make ([a-z]+)", run)}
    made |= {target.split()[0] for target in nightly["strategy"]["matrix"]["target"]}
    assert {"lint", "test", "book", "release", "fuzz", "bench", "links"} <= made
    assert made <= targets


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_a_workflow_may_do_little_and_runs_known_code(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    told = yaml.safe_load(text)
    assert told["permissions"] == {"contents": "read"}
    assert "concurrency" in told
    for job in told["jobs"].values():
        assert job["timeout-minutes"] <= 90
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    assert [
        u for u in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", u)
    ] == []


# --- Locks ----------------------------------------------------------------------------


def test_both_locks_hold_the_same_versions_from_the_public_index() -> None:
    lock = tomllib.loads(read("uv.lock"))
    versions: dict[str, set[str]] = {}
    for package in lock["package"]:
        versions.setdefault(package["name"], set()).add(package.get("version", ""))
        source = package["source"]
        assert source in ({"registry": "https://pypi.org/simple"}, {"editable": "."})
    assert set(re.findall(r"https?://([^/\"]+)", read("uv.lock"))) == {
        "files.pythonhosted.org",
        "pypi.org",
    }
    pinned: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", read("requirements.lock"), re.M
    ):
        pinned.setdefault(name, set()).add(version)
    assert pinned == {n: v for n, v in versions.items() if n != "tinygpt"}
    ruff = re.findall(r"ruff==([\d.]+)", read(".pre-commit-config.yaml"))
    assert set(ruff) == pinned["ruff"]


# --- What a published copy has --------------------------------------------------------


@pytest.mark.slow
def test_a_chapter_gets_its_cell_for_colab_and_loses_it(tmp_path: Path) -> None:
    path = tmp_path / "01_tokenization.ipynb"
    cells = [nbformat.v4.new_markdown_cell("# 01"), nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    notebooks.renew([path], only_stale=False)
    plain = path.read_text(encoding="utf-8")
    notebooks.renew([path], only_stale=True, url=URL)  # runs nothing again
    notebooks.check([path])
    title, colab, code = nbformat.read(path, 4).cells
    assert (title.cell_type, colab.id) == ("markdown", published.COLAB)
    assert f"%pip install --quiet git+{URL}" in colab.source
    assert "remove-cell" in colab.metadata.tags  # from the site's page
    assert code.outputs[0].data["text/plain"] == "2"
    notebooks.renew([path], only_stale=False, url=URL)
    assert len(nbformat.read(path, 4).cells) == 3
    notebooks.renew([path], only_stale=True)
    assert path.read_text(encoding="utf-8") == plain


def test_the_cell_for_colab_does_nothing_elsewhere() -> None:
    shell = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    done = shell.run_cell(published.INSTALL.format(url=URL))
    assert done.success
    assert done.result is None


def test_stale_outputs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "02_embeddings.ipynb"
    cells = [nbformat.v4.new_code_cell("1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    with pytest.raises(SystemExit, match=r"02_embeddings\.ipynb; `make book`"):
        notebooks.check([path])


def config(url: str) -> Any:
    options = {"repository_url": url, "launch_buttons": {"colab_url": "https://c"}}
    return SimpleNamespace(html_theme_options=options, html_baseurl="", ogp_site_url="")


def test_buttons_need_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SITE_ADDRESS", raising=False)
    published._set(None, without := config(""))
    published._set(None, with_one := config(URL))
    assert "launch_buttons" not in without.html_theme_options
    assert "launch_buttons" in with_one.html_theme_options
    for button in (
        "use_repository_button",
        "use_issues_button",
        "use_edit_page_button",
    ):
        assert without.html_theme_options[button] is False
        assert with_one.html_theme_options[button] is True
    assert with_one.html_baseurl == ""
    monkeypatch.setenv("SITE_ADDRESS", "https://site/")
    published._set(None, with_one)
    assert with_one.html_baseurl == with_one.ogp_site_url == "https://site/"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.html", '<script async src="https://host/a.js"></script>'),
        ("a.html", '<img alt="x" src="//host/a.png">'),
        ("a.html", '<link href="https://host/a.css" rel="stylesheet">'),
        ("a.html", '<link rel="preload" as="font" href="https://host/a.woff2">'),
        ("a.html", "<style>@import 'https://host/a.css';</style>"),
        ("a.css", "@font-face { src: url(https://host/a.woff2) }"),
    ],
)
def test_a_page_that_asks_another_host_stops_the_build(
    tmp_path: Path, name: str, text: str
) -> None:
    app = SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html"))
    (tmp_path / name).write_text(
        '<a href="https://host/">a link is asked for by the reader</a>'
        '<link rel="canonical" href="https://host/a.html">'
        '<img src="a.png"><script src="a.js"></script>',
        encoding="utf-8",
    )
    published._check(app, None)
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"ask other hosts:\n{name}: (https:)?//host"):
        published._check(app, None)
