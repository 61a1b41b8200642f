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

from tinygpt.formats.page import PARTS

pytest.importorskip("hatchling", reason="what builds the wheel")
pytest.importorskip("pip", reason="what installs it: uv venv --seed")
SECONDS = 120  # until a process that hangs is given up; far more than it needs

# The ten lines of the README, as far as they need no network.
SESSION = """
import sys
from pathlib import Path

import tinygpt

assert Path(tinygpt.__file__).is_relative_to(sys.prefix), tinygpt.__file__
assert "torch" not in sys.modules
assert set(tinygpt.__all__) <= set(dir(tinygpt))

small = {"d_model": 16, "n_heads": 2, "n_layers": 1, "eval_windows": 2}
llm = tinygpt.train("my.txt", steps=3, **small)
text = llm.generate("Once", max_new_tokens=9, seed=1)
assert text.startswith("Once") and len(text) > len("Once"), text
assert "".join(llm.stream("Once", max_new_tokens=9, seed=1)) == text
llm.save("my-model")
llm = tinygpt.load("my-model")
assert llm.generate("Once", max_new_tokens=9, seed=1) == text
assert 1 < llm.evaluate("my.txt").bits_per_byte < 9
chat = tinygpt.finetune("pocket-gpt2", "chats.jsonl", lora=True, epochs=0.1)
assert isinstance(chat.reply("Where is my parcel?", max_new_tokens=5), str)
assert llm.config == llm.model.config
assert llm.tokenizer.vocab_size == llm.config.vocab_size < 4096

import torch

wrong = tinygpt.check_answer("masking.causal", lambda n: torch.ones(n, n).bool())
right = tinygpt.check_answer("masking.causal", lambda n: torch.ones(n, n).bool().tril())
assert str(wrong).startswith("Not yet"), wrong
assert str(right).startswith("Right"), right
"""
TEXT = "Once the buyer asks why, and the seller listens. " * 200
CHAT = (
    '{"messages": [{"role": "user", "content": "Where is my parcel?"}, '
    '{"role": "assistant", "content": "It is on its way."}]}\n'
)


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
    venv.create(home, symlinks=os.name != "nt")
    programs = home / ("Scripts" if os.name == "nt" else "bin")
    paths = {"base": str(home), "platbase": str(home)}
    # Only the folder itself: of a .pth file in it, such as that of an editable install,
    # Python takes no notice.
    borrowed = {sysconfig.get_path(name) for name in ("purelib", "platlib")}
    site = Path(sysconfig.get_path("purelib", "venv", paths))
    (site / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", programs / "python", "install"]
    run(*pip, "--quiet", "--no-deps", "--no-index", "--no-compile", wheel, cwd=home)
    return programs


@pytest.mark.slow
def test_the_wheel_holds_the_data_and_the_mark_of_types(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = {p for p in (ROOT / "data").rglob("*") if p.is_file()}
    assert len(data) > 10
    assert names >= {
        f"tinygpt/_data/{p.relative_to(ROOT / 'data').as_posix()}" for p in data
    }
    assert names >= {f"tinygpt/_page/{part}" for part in PARTS}
    modules = (ROOT / "tinygpt").rglob("*.py")
    assert names >= {p.relative_to(ROOT).as_posix() for p in modules}
    assert "tinygpt/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "chapters"))]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a text and some conversations, away from the checkout."""
    (tmp_path / "my.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "chats.jsonl").write_text(20 * CHAT, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_a_session_in_python(programs: Path, here: Path) -> None:
    (here / "session.py").write_text(SESSION, encoding="utf-8")
    run(programs / "python", "session.py", cwd=here)


@pytest.mark.slow
def test_the_command_generates_and_helps(programs: Path, here: Path) -> None:
    tinygpt = programs / "tinygpt"
    assert "finetune" in run(tinygpt, "--help", cwd=here)
    words = ["--model", "pocket-gpt2", "--prompt", "The", "--max-new-tokens", "9"]
    said = run(tinygpt, "generate", *words, cwd=here)
    assert said.startswith("The")
    assert len(said) > len("The\n")
    run(tinygpt, "open", "tiny", "--no-browser", cwd=here)
    assert {p.name for p in (here / "pages" / "tiny").iterdir()} >= set(PARTS)
