"""The picture of the package is that of today's code; each folder says what it is."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("tomllib", reason="Python 3.11 or newer reads TOML")
SCRIPT = ROOT / "resources" / "architecture.py"
DRAW = """
import sys
sys.path.insert(0, sys.argv[1])
import architecture
sys.stdout.buffer.write(architecture.draw().encode())
"""


@pytest.mark.slow
def test_the_picture_is_what_the_code_does() -> None:
    """In a process of its own: coverage and the checks of shapes watch calls, too."""
    drawn = subprocess.run(
        [sys.executable, "-c", DRAW, str(SCRIPT.parent)],
        capture_output=True,
        check=False,
        cwd=ROOT,  # where tinygpt is
    )
    assert drawn.returncode == 0, drawn.stderr.decode()
    stored = SCRIPT.with_suffix(".svg").read_bytes()
    assert drawn.stdout == stored, "run python resources/architecture.py"


def rooms() -> list[Path]:
    """The folders of the course and of the package; what is in a folder of theirs
    belongs to it.
    """
    top = [ROOT / name for name in ("book", "benchmarks", "chapters", "data")]
    top += [ROOT / "resources", ROOT / "tests", ROOT / "tinygpt"]
    inner = [p.parent for p in (ROOT / "tinygpt").glob("*/*.py")]
    return [*top, *sorted(set(inner))]


@pytest.mark.parametrize("folder", rooms(), ids=lambda p: p.name)
def test_a_folder_says_what_is_in_it(folder: Path) -> None:
    readme, code = folder / "README.md", folder / "__init__.py"
    said = (readme if readme.exists() else code).read_text(encoding="utf-8")
    if not readme.exists():
        said = said.split('"""')[1]
    lines = [line for line in said.splitlines() if line.strip()]
    assert len(lines) >= 2
    assert len(said) > 150
