"""What all tests share: checked tensor shapes, a browser, a fixed seed.

The import hook makes beartype check every jaxtyping annotation in `tinygpt`, so a
tensor of the wrong shape fails the test in which it first appears.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; tests that need it are skipped where it is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="a driver for browsers")
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium runs these tests")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=120_000
        )
        yield chromium
        chromium.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds serious or worse in a page of the browser."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe")
    return [
        f"{found['id']}: {found['nodes'][0]['html'][:200]}"
        for found in axe.Axe().run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
    ]


@pytest.fixture
def shared_dir() -> Path:
    """Reference files beside the checkout; absent on most machines."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder beside this checkout")
    return folder
