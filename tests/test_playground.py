"""The playground in Chromium: from a file, under a strict policy, with a small model.

Skipped with a message where Chromium or its driver is missing. What it leaves out: what
the model computes (`test_web`), and the page around the playground (`test_site`).
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tinygpt.config import GPTConfig
from tinygpt.gpt import GPT
from tinygpt.tokenizer import Tokenizer
from tinygpt.web import export_web

sync_api = pytest.importorskip("playwright.sync_api", reason="a driver for browsers")
expect = sync_api.expect
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip(
        "no Chromium here: apt-get install chromium runs these tests",
        allow_module_level=True,
    )

STATIC = Path(__file__).resolve().parent.parent / "book" / "_static"
FILES = ("tinygpt.js", "playground.js", "playground.css")
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Playground</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
  script-src file: blob:; style-src file:; worker-src blob:">
<link rel="stylesheet" href="playground.css"><main><h1>Playground</h1>
<div class="tinygpt-playground" data-model="small" data-prompt="abc"></div></main>
<script src="playground.js" defer></script></html>"""
CONTEXT = 16
PATIENCE = 60_000  # milliseconds; a busy machine is slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name in FILES:
        shutil.copy(STATIC / name, folder)
    (folder / "page.html").write_text(PAGE, encoding="utf-8")
    torch.manual_seed(3)
    sizes = {"vocab_size": 256, "context_length": CONTEXT, "d_model": 12, "n_heads": 3}
    model = GPT(GPTConfig(**sizes, n_layers=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    ranks = {bytes([b]): b for b in range(256)}
    export_web(model, Tokenizer("bytes", ranks), folder / "small")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, folder: Path) -> Iterator[Any]:
    expect.set_options(timeout=PATIENCE)
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((folder / "page.html").as_uri())
    yield page
    assert [c for c in complaints if "ERR_FILE_NOT_FOUND" not in c] == []
    page.close()


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).click()


def start(page: Any) -> None:
    press(page, "Start")
    expect(page.locator(".bars button")).to_have_count(12)


def text(page: Any) -> str:
    return str(page.locator(".text mark").text_content())


def written(page: Any, n: int) -> str:
    """The text after `n` tokens were written on from the prompt."""
    expect(page.locator(".tokens .new")).to_have_count(n)
    return text(page)


def test_nothing_is_fetched_before_the_start(page: Any) -> None:
    def loaded() -> set[str]:
        entries = page.locator("script").evaluate_all("all => all.map(s => s.src)")
        return {Path(entry).name for entry in entries}

    assert loaded() == {"playground.js"}
    assert sum((STATIC / name).stat().st_size for name in FILES[1:]) < 30_000
    expect(page.get_by_label("prompt")).to_be_hidden()
    start(page)
    expect(page.locator(".status")).to_contain_text(
        "2 blocks, 3 heads, a context of 16"
    )
    expect(page.locator(".count")).to_have_text("3 tokens")
    expect(page.locator(".tokens li")).to_have_text(["a97", "b98", "c99"])


def test_one_seed_writes_one_text(page: Any) -> None:
    start(page)
    texts = []
    for _ in range(2):
        for n in range(1, 4):
            press(page, "One token")
            written(page, n)
        texts.append(text(page))
        press(page, "Back to the prompt")
        written(page, 0)
    page.get_by_label("seed").fill("99")
    for n in range(1, 4):
        press(page, "One token")
        written(page, n)
    assert texts[0] == texts[1] != text(page)


def test_writing_on_passes_the_context_and_tells_its_speed(page: Any) -> None:
    start(page)
    press(page, "Write on")
    status = page.locator(".status")
    expect(status).to_have_text(re.compile(r"^Wrote 200 tokens, [1-9]\d* tokens per"))
    expect(status).to_have_attribute("aria-live", "polite")
    written(page, 200)
    expect(page.locator(".count")).to_contain_text(
        "203 tokens; the model sees the last"
    )
    expect(page.get_by_role("button", name="Write on")).to_be_visible()


def test_a_reader_chooses_a_token_by_keyboard(page: Any) -> None:
    start(page)
    page.get_by_label("temperature").fill("0")
    expect(page.locator(".bars button")).to_have_count(1)  # all on the likeliest
    page.get_by_label("temperature").fill("1")
    expect(page.locator(".bars button")).to_have_count(12)
    page.get_by_label("top-k").fill("5")
    expect(page.locator(".bars button")).to_have_count(5)
    chosen = page.locator(".bars button").nth(4)
    id = chosen.get_attribute("data-id")
    chosen.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".tokens .new small")).to_have_text([id])
    expect(page.locator(".status")).to_contain_text("Wrote “")


@pytest.mark.parametrize(
    ("prompt", "count", "first"),
    [
        ("", "0 tokens", None),
        ("x" * 100_000, "100,000 tokens, the last 300 shown; the model sees", "x120"),
        ("\x07\u202ea", "5 tokens", "␇7"),
        ("\nש", "3 tokens", "⏎10"),
    ],
)
def test_strange_prompts(page: Any, prompt: str, count: str, first: str | None) -> None:
    start(page)
    page.get_by_label("prompt").fill(prompt)
    expect(page.locator(".count")).to_contain_text(count)
    if first is None:
        expect(page.locator(".tokens li")).to_have_count(0)
    else:
        expect(page.locator(".tokens li").first).to_have_text(first)
    press(page, "One token")
    expect(page.locator(".tokens .new")).to_have_count(1)
    assert page.locator("html").evaluate("page => page.scrollWidth") <= 390


def test_a_readers_own_file(page: Any, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "small" / "model.js").read_bytes()
    upload, status = page.locator("input[type=file]"), page.locator(".status")
    for name, content, sentence in (
        ("foreign.js", b"alert(1)", "This is no model file"),
        ("short.js", whole[: len(whole) // 2], "is cut off"),
    ):
        (tmp_path / name).write_bytes(content)
        upload.set_input_files(tmp_path / name)
        expect(status).to_contain_text(sentence)
        expect(page.get_by_label("prompt")).to_be_hidden()
    upload.set_input_files(folder / "small" / "model.js")
    expect(page.locator(".bars button")).to_have_count(12)
    upload.set_input_files(tmp_path / "short.js")  # the model that is here stays
    expect(status).to_contain_text("is cut off")
    press(page, "One token")
    written(page, 1)


def test_a_missing_or_damaged_model_gets_a_sentence(page: Any, folder: Path) -> None:
    status = page.locator(".status")
    (folder / "small").rename(folder / "away")
    try:
        press(page, "Start")
        expect(status).to_contain_text("small/model.js is not beside this page")
    finally:
        (folder / "away").rename(folder / "small")
    start(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_checker_of_accessibility_finds_nothing(
    browser: Any, folder: Path, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe")
    page = browser.new_page(color_scheme=scheme, bypass_csp=True)  # axe is a script
    page.goto((folder / "page.html").as_uri())
    for act in (lambda page: None, start, lambda page: press(page, "Write on")):
        act(page)
        expect(page.locator(".status")).not_to_have_text(re.compile("^(Load|Writ)ing"))
        found = axe.Axe().run(page).response["violations"]
        assert [v["id"] for v in found] == []
    page.close()
