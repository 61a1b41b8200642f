"""The wheel, installed into an environment of its own, does what a clone does.

The environment borrows the packages of the one that runs the tests, so that nothing is
downloaded; tinygpt itself comes from the wheel, and the checkout is not on its path.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("hatchling", reason="what builds the wheel")
SECONDS = 120  # until a process that hangs is given up; far more than it needs

SESSION = """
import sys
from pathlib import Path

import tinygpt

assert Path(tinygpt.__file__).is_relative_to(sys.prefix), tinygpt.__file__
assert "torch" not in sys.modules

import torch

from tinygpt.course.exercises import check_answer
from tinygpt.finetuning.run import load_model
from tinygpt.generation.generate import generate

model, tokenizer = load_model("pocket-gpt2")
ids = torch.tensor([tokenizer.encode("The seller")])
tokens = [int(token) for token in generate(model, ids, 5, seed=1)]
assert len(tokens) == 5
wrong = check_answer("masking.causal", lambda n: torch.ones(n, n).bool())
right = check_answer("masking.causal", lambda n: torch.ones(n, n).bool().tril())
assert str(wrong).startswith("Not yet"), wrong
assert str(right).startswith("Right"), right
"""


def run(*words: str | Path, cwd: Path) -> str:
    """Standard output of a process that knows nothing of the checkout."""
    kept = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        words,
        cwd=cwd,
        env=kept | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    run(*build, cwd=ROOT)
    (path,) = folder.glob("tinygpt-*.whl")
    return path


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `python` and `tinygpt` in a fresh environment."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, symlinks=True)
    programs = home / "bin"
    paths = {"base": str(home), "platbase": str(home)}
    # Only the folder itself: of a .pth file in it, such as that of an editable install,
    # Python takes no notice.
    borrowed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install"]
    run(*pip, "--quiet", "--no-deps", "--no-index", "--no-compile", wheel, cwd=home)
    return programs


def test_the_wheel_holds_the_data_and_the_mark_of_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = {p for p in (ROOT / "data").rglob("*") if p.is_file()}
    assert len(data) > 10
    assert names >= {
        f"tinygpt/_data/{p.relative_to(ROOT / 'data').as_posix()}" for p in data
    }
    modules = (ROOT / "tinygpt").rglob("*.py")
    assert names >= {p.relative_to(ROOT).as_posix() for p in modules}
    assert "tinygpt/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "chapters"))]


def test_a_session_in_python(programs: Path, tmp_path: Path) -> None:
    (tmp_path / "session.py").write_text(SESSION, encoding="utf-8")
    run(programs / "python", "session.py", cwd=tmp_path)


def test_the_command_trains_and_generates(programs: Path, tmp_path: Path) -> None:
    text = "The buyer asks why, and the seller listens. " * 200
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    tinygpt = programs / "tinygpt"
    assert "generate" in run(tinygpt, "--help", cwd=tmp_path)
    train = ["train", "text.txt", "--steps", "3", "--name", "first"]
    small = ["--d-model", "16", "--n-layers", "1", "--eval-windows", "2"]
    assert "Step: 3 " in run(tinygpt, *train, *small, cwd=tmp_path)
    words = ["--prompt", "The", "--max-new-tokens", "9", "--seed", "1"]
    said = run(tinygpt, "generate", *words, cwd=tmp_path)
    assert said.startswith("The")
    assert len(said) > len("The\n")
