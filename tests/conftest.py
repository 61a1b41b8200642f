"""What all tests share: checked tensor shapes, the optional folder, a fixed seed.

The import hook makes beartype check every jaxtyping annotation in `tinygpt`, so a
tensor of the wrong shape fails the test in which it first appears.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from jaxtyping import install_import_hook

hook = install_import_hook("tinygpt", "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.fixture
def shared_dir() -> Path:
    """Reference files beside the checkout; absent on most machines."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside this checkout")
    return folder
