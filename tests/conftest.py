"""What all tests share: checked tensor shapes, a browser, a fixed seed, their order.

The import hook makes beartype check the jaxtyping annotations of what computes with
tensors, so one of the wrong shape fails the test in which it first appears. What runs
once a token or once a word is left out: the checks would take longer than the tests.
"""

import base64
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxtyping import install_import_hook

CHECKED = ["model", "training", "fast.linear_cross_entropy", "finetuning.policy"]
CHECKED += [f"finetuning.{name}" for name in ("chat_data", "lora", "rollouts")]
hook = install_import_hook([f"tinygpt.{name}" for name in CHECKED], "beartype.beartype")

import pytest  # noqa: E402
import tiktoken  # noqa: E402
import tiktoken.registry  # noqa: E402
import torch  # noqa: E402
from filelock import FileLock  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent

# Windows has none of these; what it has instead is not what these tests are about.
posix = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="signals, pipes and rights of POSIX"
)

# A worker takes file after file. The long ones begin first, or the last one would run
# alone while the other worker waits.
LONGEST = (
    "test_site.py",
    "11_rewards.ipynb",
    "08_finetuning.ipynb",
    "07_training.ipynb",
    "test_web.py",
    "test_resume.py",
    "test_make_it_yours.py",
    "test_playground.py",
    "test_train_page.py",
    "test_main.py",
    "test_huggingface.py",
    "test_finetuning_run.py",
    "00_one_minute.ipynb",
    "10_inside.ipynb",
    "02_embeddings.ipynb",
    "05_masking.ipynb",
)
# What a child process needs in its environment for its lines to be counted, too.
COUNTED: dict[str, str] = {}


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    """Let only those child processes count their lines that are given `COUNTED`.

    Counting makes their start half as long again, and few of them run a line that the
    tests do not run themselves.
    """
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS_")]:
        COUNTED[name] = os.environ.pop(name)


def load_tool(name: str) -> ModuleType:
    """A script of book/, which is no package."""
    if str(ROOT / "book") not in sys.path:
        sys.path.append(str(ROOT / "book"))  # they import each other
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, each in its own order; what needs a browser is slow."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    for item in items:
        if {"browser", "site"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


def has_loopback() -> bool:
    """Whether two processes of this machine can talk at all."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(1337)


@pytest.fixture(autouse=True)
def close_figures() -> Iterator[None]:
    """No figure outlives its test: pyplot warns of the twenty-first."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`once(name, make)`: the folder that `make(folder)` filled once for all workers.

    The first to ask makes it and the others wait; a failure is everybody's.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own in it

    def make_once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with FileLock(shared / f"{name}.lock"):
            if not folder.exists():
                folder.mkdir()
                make(folder)
                done.touch()
        assert done.exists(), f"{name} could not be made: see the first failure"
        return folder

    return make_once


@pytest.fixture(scope="session")
def site(once: Callable[..., Path]) -> Path:
    """The built site, from the stored outputs, every warning an error; read it only.

    Its pages find the model that they start first, pocket-gpt2.
    """
    pytest.importorskip("jupyter_book", reason="the packages that build the site")
    from tinygpt.formats.huggingface import load_gpt2
    from tinygpt.formats.web import export_web

    def build(folder: Path) -> None:
        # Without the collector, which finds little in this short life, a fifth faster.
        code = "import gc; gc.disable(); from jupyter_book.cli.main import main; main()"
        command = [sys.executable, "-c", code, "build", str(ROOT), "--path-output"]
        command += [str(folder), "-n", "-W", "--keep-going"]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, (built.stdout + built.stderr)[-4000:]
        models = folder / "_build" / "html" / "_static" / "models"
        export_web(*load_gpt2("pocket-gpt2"), models / "pocket-gpt2")

    return once("site", build) / "_build" / "html"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window; tests that need it are skipped where it is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="a driver for browsers")
    names = ("chromium-headless-shell", "chromium", "chromium-browser")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium runs these tests")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--disable-gpu"],
            timeout=120_000,
        )
        yield chromium
        chromium.close()


# A page has a few colours, which axe-core would parse anew for each of its words.
PARSE_A_COLOUR_ONCE = """;(() => {
  const color = axe.commons.color.Color.prototype;
  const parse = color.parseString, known = new Map();
  color.parseString = function (text) {
    if (!known.has(text)) {
      parse.call(this, text);
      known.set(text, [this.r, this.g, this.b, this.alpha]);
    }
    [this.r, this.g, this.b, this.alpha] = known.get(text);
    return this;
  };
})()"""


def violations(
    page: Any,
    parts: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    without: Sequence[str] = (),
) -> list[str]:
    """What axe-core finds serious or worse in a page, or in those parts of it.

    Looked for are all its rules, or `only` those named, or all `without` these.
    """
    axe = pytest.importorskip("axe_playwright_python.base", reason="axe-core")
    # Not `preload`: a page from a file may not read its style sheets.
    options: dict[str, Any] = {"resultTypes": ["violations"], "preload": False}
    if only:
        options["runOnly"] = {"type": "rule", "values": list(only)}
    if without:
        options["rules"] = {rule: {"enabled": False} for rule in without}
    page.wait_for_function(  # a colour that fades in is not yet the one to judge
        "document.getAnimations().every((one) => one.playState !== 'running' "
        "|| one.effect.getComputedTiming().endTime === Infinity)"
    )
    page.evaluate(axe.AXE_SCRIPT + PARSE_A_COLOUR_ONCE)
    there = [[part] for part in parts if page.locator(part).count()]
    where = {"include": there} if parts else {"include": [["html"]]}
    results = page.evaluate("([w, options]) => axe.run(w, options)", [where, options])
    return [
        f"{found['id']}: {found['nodes'][0]['html'][:200]}"
        for found in results["violations"]
        if found["impact"] in ("serious", "critical")
    ]


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Excerpts of OpenAI's vocabularies, which tiktoken then gives by their names.

    Nothing is downloaded: the whole files are megabytes. An excerpt has the pattern and
    the special tokens, all single bytes, and every token within the words of its text,
    each with its own id; so the words of this text get the ids that the whole
    vocabulary gives them.
    """
    path = ROOT / "tests" / "text" / "openai_excerpt.json"
    excerpt = json.loads(path.read_text(encoding="utf-8"))
    for name in ("gpt2", "cl100k_base"):
        told = excerpt[name]
        ids = map(int, told["single_bytes"].split())
        ranks = {bytes([byte]): rank for byte, rank in enumerate(ids)}
        ranks |= {base64.b64decode(token): i for token, i in told["tokens"].items()}
        encoding = tiktoken.Encoding(
            name,
            pat_str=told["pattern"],
            mergeable_ranks=ranks,
            special_tokens=told["special_tokens"],
        )
        monkeypatch.setitem(tiktoken.registry.ENCODINGS, name, encoding)
    return excerpt


@pytest.fixture(autouse=True, scope="session")
def no_pictures() -> Iterator[None]:
    """Runs get no losses.png, which takes longer than they do (see `test_figure`)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinygpt.training.figure.draw_losses", lambda run: None)
        yield
