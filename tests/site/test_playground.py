"""The playground in Chromium: from a file, under a strict policy, with small models.

Skipped with a message where Chromium or its driver is missing. What it leaves out: what
the model computes (`test_web`), and the page around the playground (`test_site`).
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, violations

from tinygpt.config import GPTConfig
from tinygpt.formats.huggingface import load_gpt2
from tinygpt.formats.web import LARGEST, export_web
from tinygpt.model.gpt import GPT
from tinygpt.text.tokenizer import Tokenizer

sync_api = pytest.importorskip("playwright.sync_api", reason="a driver for browsers")
expect = sync_api.expect

STATIC = ROOT / "book" / "_static"
DOOR = ("playground.js", "playground.css")
ROOM = (
    "tinygpt_wasm.js",
    "tinygpt_simd.js",
    "tinygpt_web.js",
    "tinygpt.js",
    "playground_worker.js",
    "playground_inside.js",
    "playground_parts.js",
)
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Playground</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
  script-src file: blob: 'wasm-unsafe-eval'; style-src file:; worker-src blob:">
<main><h1>Playground</h1>
<div class="tinygpt-playground" %s>Here a model runs.</div></main>
<script src="playground.js" defer></script></html>"""
BOXES = {
    "all": 'data-model="small" data-prompt="abc" data-own=""',
    "chat": 'data-model="small talker" data-part="chat"',
    "tokens": 'data-model="small" data-part="tokens" data-prompt="a b"',
    "pocket": 'data-part="next"',
}
CONTEXT, LAYERS, HEADS = 16, 2, 3
END = "<|endoftext|>"
PATIENCE = 60_000  # milliseconds; a busy machine is slow
PHONE = 360


def make_model(vocab_size: int, context_length: int = CONTEXT) -> GPT:
    """A model whose logits lie far apart; its weights are float16's."""
    torch.manual_seed(3)
    sizes = {"d_model": 12, "n_heads": HEADS, "n_layers": LAYERS}
    sizes |= {"vocab_size": vocab_size, "context_length": context_length}
    model = GPT(GPTConfig(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter).mul(0.2).half())
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name in DOOR + ROOM:
        shutil.copy(STATIC / name, folder)
    for name, attributes in BOXES.items():
        page = folder / f"{name}.html"
        page.write_text(PAGE % attributes, encoding="utf-8")
    ranks = {bytes([b]): b for b in range(256)}
    small = Tokenizer("bytes", ranks)
    talker = Tokenizer("bytes", ranks, special_tokens={END: 256})
    export_web(make_model(256), small, folder / "models" / "small", "float16")
    export_web(make_model(257, 64), talker, folder / "models" / "talker", "float16")
    export_web(*load_gpt2("pocket-gpt2"), folder / "models" / "pocket-gpt2")
    return folder


@pytest.fixture
def visit(browser: Any, folder: Path) -> Iterator[Any]:
    """Open a page of `BOXES`; it must not complain of anything."""
    expect.set_options(timeout=PATIENCE)
    pages, complaints = [], []

    def open_page(name: str, listen: bool = True, **window: Any) -> Any:
        window = {"viewport": {"width": PHONE, "height": 740}} | window
        page = browser.new_page(**window)
        page.set_default_timeout(PATIENCE)
        if listen:
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((folder / f"{name}.html").as_uri())
        pages.append(page)
        return page

    yield open_page
    assert [c for c in complaints if "ERR_FILE_NOT_FOUND" not in c] == []
    for page in pages:
        page.close()


@pytest.fixture
def page(visit: Any) -> Any:
    return visit("all")


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).click()


def start(page: Any) -> None:
    press(page, "Start small")
    expect(page.locator(".bars button")).to_have_count(12)


def unfold(page: Any, title: str) -> Any:
    """Open a part by keyboard; the part."""
    page.locator("summary", has_text=title).focus()
    page.keyboard.press("Enter")
    part = page.locator("details[open]").last
    expect(part.locator("output").first).not_to_be_empty()
    return part


def text(page: Any) -> str:
    return str(page.locator(".text mark").text_content())


def written(page: Any, n: int) -> str:
    """The text after `n` tokens were written on from the prompt."""
    expect(page.locator(".tokens .new")).to_have_count(n)
    return text(page)


def percents(words: str) -> list[float]:
    """The shares in a text, in the order of their appearance."""
    return [float(share) / 100 for share in re.findall(r"([\d.]+) %", words)]


# --- The door -----------------------------------------------------------------------


def test_nothing_is_fetched_before_the_start(page: Any) -> None:
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(Path(request.url).name))
    page.reload()
    assert set(fetched) == {"all.html", *DOOR}
    assert sum((STATIC / name).stat().st_size for name in DOOR) < 30_000
    expect(page.get_by_label("prompt")).to_have_count(0)
    start(page)
    assert set(fetched) >= {*ROOM, "model.js"}
    expect(page.locator(".status")).to_contain_text(
        "small is here: 2 blocks, 3 heads, a context of 16"
    )
    expect(page.locator(".count")).to_have_text("3 tokens")
    expect(page.locator(".tokens li")).to_have_text(["a97", "b98", "c99"])


def test_without_scripts_a_sentence_stands_there(browser: Any, folder: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((folder / "all.html").as_uri())
    expect(page.locator(".tinygpt-playground")).to_have_text("Here a model runs.")
    page.close()


def test_a_chapter_may_ask_for_one_part(visit: Any) -> None:
    page = visit("tokens")
    expect(page.locator(".title")).to_have_text("Try it: your text as tokens")
    press(page, "Start small")
    page.get_by_label("prompt").fill("Ü")
    expect(page.locator(".tokens li")).to_have_text(["�195", "�156"])
    expect(page.locator("details, .bars, canvas, input[type=file]")).to_have_count(0)


# --- The next token -----------------------------------------------------------------


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


# Frames while something happens: how long the page took between two of them.
GAPS = """async ([act, enough]) => {
  const gaps = [], button = () => [...document.querySelectorAll("button")]
    .find((node) => /Write on|Stop/.test(node.textContent));
  if (act) button().click();
  let last = await new Promise(requestAnimationFrame);
  while (gaps.length < enough && (!act || button().textContent === "Stop")) {
    const now = await new Promise(requestAnimationFrame);
    gaps.push(now - last);
    last = now;
  }
  return gaps.sort((a, b) => a - b);
}"""


def test_the_page_draws_frames_while_the_model_writes(visit: Any) -> None:
    page = visit("pocket")
    press(page, "Start pocket-gpt2")
    expect(page.locator(".bars button")).to_have_count(12)
    tries = []
    for _ in range(5):  # a busy machine delays frames, too: compare, and try again
        idle, writing = (page.evaluate(GAPS, [act, 60]) for act in (False, True))
        assert len(writing) >= 10
        middle, late = len(writing) // 2, int(0.9 * len(writing))
        tries.append((idle[30], writing[middle], idle[-1], writing[late]))
        if tries[-1][1] <= 1.5 * tries[-1][0] and tries[-1][3] <= tries[-1][2] + 50:
            return
        expect(page.get_by_role("button", name="Write on")).to_be_visible()
    pytest.fail(f"frames (ms, idle and writing: median, late): {tries}")


# --- Looking inside -----------------------------------------------------------------


@torch.no_grad()
def streams(ids: list[int]) -> list[torch.Tensor]:
    """What enters the first block of the small model, and what leaves each."""
    model = make_model(256)
    x = [model.embed(torch.tensor([ids]), torch.arange(len(ids)))]
    for block in model.blocks:
        x.append(block(x[-1], is_causal=True))
    return x


def test_attention_is_read_by_keyboard_and_mouse(page: Any) -> None:
    start(page)
    part = unfold(page, "who listens to whom")
    said = part.locator("output").first
    expect(said).to_contain_text("Layer 1, head 1: “c” listens most to “")
    heads = part.get_by_role("radio")
    expect(heads).to_have_count(LAYERS * HEADS)
    heads.first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(said).to_contain_text("Layer 2, head 2: “c”")
    expect(heads.nth(4)).to_have_accessible_name("layer 2, head 2")

    model, before = make_model(256), streams([97, 98, 99])[1]
    q, k, _ = model.blocks[1].attention.heads(model.blocks[1].norm1(before))
    scores = (q @ k.transpose(-2, -1))[0, 1] / q.size(-1) ** 0.5  # [T, T] of head 2
    shares = percents(" ".join(part.locator(".heard small").all_text_contents()))
    assert shares == pytest.approx(scores[2].softmax(-1).tolist(), abs=6e-4)

    row = part.get_by_label("the token that listens")
    row.focus()
    page.keyboard.press("ArrowLeft")
    expect(said).to_contain_text("“b” listens most")
    expect(row).to_have_attribute("aria-valuetext", "b (2)")
    expect(part.locator(".heard small").last).to_have_text("–")  # the future
    square = part.locator(".map canvas").bounding_box()
    page.mouse.move(square["x"] + 5, square["y"] + 5)
    expect(said).to_contain_text("“a” listens most to “a” 100.0 %.")

    part.get_by_label("mask").uncheck()
    masked = part.locator("output").last
    expect(masked).to_contain_text("Its next token")
    expect(part.locator(".heard small").last).not_to_have_text("–")
    part.get_by_label("mask").check()
    expect(masked).to_be_empty()


def test_the_lens_reads_every_block(page: Any) -> None:
    start(page)
    part = unfold(page, "The logit lens")
    model, x = make_model(256), streams([97, 98, 99])
    rows = part.locator("tbody tr")
    expect(rows).to_have_count(LAYERS + 1)
    for place in (2, 1):
        expect(part.locator("output")).to_contain_text(f"After “{'abc'[place]}”")
        for row, stream in zip(rows.all(), x, strict=True):
            with torch.no_grad():
                chances = model.head(model.norm(stream))[0, place].softmax(-1)
            best = chances.topk(3).values.tolist()
            assert percents(row.inner_text()) == pytest.approx(best, abs=6e-4)
        part.get_by_label("read at token").focus()
        page.keyboard.press("ArrowLeft")


def test_parts_are_switched_off_and_on(page: Any) -> None:
    start(page)
    part = unfold(page, "Switch parts off")
    said, first = part.locator("output"), part.locator(".both li").first
    expect(said).to_have_text("All parts are at work. Switch some off.")
    same = first.inner_text()
    assert percents(same)[0] == percents(same)[1]
    part.get_by_label("leave out head 2 of block 1").check()
    expect(said).to_contain_text("Left out: head 2 of block 1.")
    for n in (1, 2):
        part.get_by_label(f"leave out block {n}").focus()
        page.keyboard.press("Space")
    expect(said).to_contain_text("Left out: block 1, block 2.")
    expect(part.get_by_label("leave out head 2 of block 1")).to_be_disabled()
    model, x = make_model(256), streams([97, 98, 99])
    with torch.no_grad():  # no block at all: the embedding itself is read
        now = model.head(model.norm(x[0]))[0, 2].softmax(-1).max().item()
    shown = percents(" ".join(part.locator(".both").all_inner_texts()))
    assert max(shown[1::2]) == pytest.approx(now, abs=6e-4)
    press(page, "All parts back")
    expect(said).to_have_text("All parts are at work. Switch some off.")
    press(page, "One token")  # an open part follows the text
    expect(first).not_to_have_text(same)


# --- The chat -----------------------------------------------------------------------


def test_a_chat_goes_to_and_fro(visit: Any) -> None:
    page = visit("chat")
    press(page, "Start talker")
    said, log = page.get_by_label("your message"), page.locator(".log p")
    said.fill("Hello")
    page.keyboard.press("Enter")
    expect(log).to_have_count(2)
    expect(page.locator(".log")).to_have_attribute("aria-busy", "false")
    expect(log.first).to_have_text("YouHello")
    answer = log.nth(1).inner_text()
    said.fill("x" * 100_000)
    page.keyboard.press("Enter")
    expect(page.locator(".status")).to_contain_text("say it in fewer words")
    expect(log.nth(3)).to_contain_text("(no answer)")
    said.fill("   ")
    page.keyboard.press("Enter")
    expect(log).to_have_count(4)
    press(page, "New conversation")
    expect(log).to_have_count(0)
    said.fill("Hello")
    press(page, "Send")
    expect(page.locator(".log")).to_have_attribute("aria-busy", "false")
    assert log.nth(1).inner_text() == answer  # the same seed, the same words
    press(page, "Start small")
    expect(page.locator(".status")).to_contain_text("no end mark")


# --- Strange input ------------------------------------------------------------------


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
    for title in ("who listens to whom", "The logit lens", "Switch parts off"):
        unfold(page, title)
    page.get_by_label("prompt").fill(prompt)
    expect(page.locator(".count")).to_contain_text(count)
    chips = page.locator(".tokens:not(.heard)")
    if first is None:
        expect(chips.locator("li")).to_have_count(0)
    else:
        expect(chips.locator("li").first).to_have_text(first)
    press(page, "One token")
    expect(chips.locator(".new")).to_have_count(1)
    assert page.locator("html").evaluate("page => page.scrollWidth") <= PHONE


def test_a_readers_own_file(page: Any, folder: Path, tmp_path: Path) -> None:
    model = folder / "models" / "small" / "model.js"
    whole = model.read_bytes()
    upload, status = page.locator("input[type=file]"), page.locator(".status")
    (tmp_path / "large.js").touch()
    os.truncate(tmp_path / "large.js", LARGEST + 1)  # a hole: it takes no room
    (tmp_path / "foreign.js").write_bytes(b"alert(1)")
    (tmp_path / "short.js").write_bytes(whole[: len(whole) // 2])
    for name, sentence in (
        ("foreign", "This is no model file"),
        ("short", "is cut off"),
        ("large", "134 MB, more than a page can hold"),
    ):
        upload.set_input_files(tmp_path / f"{name}.js")
        expect(status).to_contain_text(sentence)
        expect(page.get_by_label("prompt")).to_be_hidden()
    upload.set_input_files(model)
    expect(page.locator(".bars button")).to_have_count(12)
    upload.set_input_files(tmp_path / "short.js")  # the model that is here stays
    expect(status).to_contain_text("is cut off")
    press(page, "One token")
    written(page, 1)


def test_a_missing_or_damaged_model_gets_a_sentence(page: Any, folder: Path) -> None:
    status, small = page.locator(".status"), folder / "models" / "small"
    small.rename(folder / "away")
    try:
        press(page, "Start")
        expect(status).to_contain_text("small/model.js is not beside this page")
        small.mkdir()
        (small / "model.js").write_text("1", encoding="utf-8")
        press(page, "Start")
        expect(status).to_contain_text("is cut off or no model file")
        shutil.rmtree(small)
    finally:
        (folder / "away").rename(small)
    start(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_checker_of_accessibility_finds_nothing(visit: Any, scheme: str) -> None:
    # axe is a script that asks for files: the policy is off, and nobody listens.
    look: dict[str, Any] = {"color_scheme": scheme, "bypass_csp": True, "listen": False}
    page, chat = visit("all", **look), visit("chat", **look)
    start(page)
    for title in ("who listens to whom", "The logit lens", "Switch parts off"):
        unfold(page, title)
    press(page, "One token")
    written(page, 1)
    press(chat, "Start talker")
    press(chat, "Where is my parcel?")
    expect(chat.locator(".log")).to_have_attribute("aria-busy", "false")
    assert violations(page) == []
    assert violations(chat) == []
