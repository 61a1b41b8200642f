"""The page that trains, in Chromium: from a file, under a strict policy, short runs.

Skipped with a message where Chromium or its driver is missing. What it leaves out: the
arithmetic of training (`test_web_training`), and the page around it (`test_site`).
"""

import json
import math
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, load_tool, violations
from test_quiz import LISTEN

import tinygpt

sync_api = pytest.importorskip("playwright.sync_api", reason="a driver for browsers")
expect = sync_api.expect

STATIC = ROOT / "book" / "_static"
BEFORE = ("train.js", "train.css", "playground.css")
ON_PAGES = ("accessibility.js", "door.js")  # of the site
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Train</title>
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';
  script-src file: blob: 'wasm-unsafe-eval'; style-src file:; worker-src blob:">
<main><h1>Train your own</h1>
<div class="tinygpt-train" data-text="own">Here a model trains.</div></main>
<script src="train.js" defer></script></html>"""
PATIENCE = 120_000  # milliseconds; a busy machine is slow
SMALL = {"width": 32, "blocks": 1, "heads a block": 2, "context, in tokens": 32}
TEXT = (ROOT / "data" / "stories.txt").read_text(encoding="utf-8")[:60_000]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for path in [*STATIC.glob("t*.js"), *STATIC.glob("*.css")]:
        shutil.copy(path, folder)
    (folder / "page.html").write_text(PAGE, encoding="utf-8")
    return folder


@pytest.fixture
def visit(browser: Any, folder: Path) -> Iterator[Any]:
    """Open the page in a browser of its own; it must not complain of anything."""
    expect.set_options(timeout=PATIENCE)
    contexts, complaints = [], []

    def open_page(**window: Any) -> Any:
        context = browser.new_context(viewport={"width": 360, "height": 740}, **window)
        context.set_default_timeout(PATIENCE)
        context.route(re.compile("^(?!file:|data:|blob:)"), lambda route: route.abort())
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((folder / "page.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name).click()


def status(page: Any) -> Any:
    return page.locator(".status")


def write(page: Any, text: str) -> None:
    """Put a text into the box at once; Chromium types many lines for minutes."""
    page.get_by_label("paste a text").evaluate(
        """(box, text) => {
            box.value = text;
            box.dispatchEvent(new Event("input"));
        }""",
        text,
    )


def prepare(page: Any, minutes: float, text: str = TEXT, **sizes: int) -> None:
    write(page, text)
    page.get_by_label("minutes").fill(str(minutes))
    page.get_by_text("Sizes").click()
    for name, value in (SMALL | sizes).items():
        page.get_by_label(name, exact=True).fill(str(value))


def losses(page: Any) -> tuple[float, float]:
    """The validation loss that the run ended with, and the bigram's."""
    expect(status(page)).to_contain_text("Done after")
    said = str(status(page).text_content())
    ours, bigram = re.findall(r"(\d+\.\d\d)", said)
    return float(ours), float(bigram)


# --- The door -----------------------------------------------------------------------


def test_nothing_is_fetched_before_the_start(visit: Any) -> None:
    page = visit()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(Path(request.url).name))
    page.reload()
    assert set(fetched) == {"page.html", *BEFORE}
    scripts = ["train.js", *ON_PAGES]
    assert sum((STATIC / name).stat().st_size for name in scripts) < 30_000
    page.get_by_label("minutes").fill("11")
    press(page, "Train")
    expect(status(page)).to_have_text("Choose a time of up to 10 minutes.")
    expect(page.get_by_role("button", name="Train")).to_be_enabled()


@pytest.mark.parametrize("chapter", ["00_one_minute", "07_training"])
def test_a_chapter_trains_a_small_one_when_asked(
    visit: Any, folder: Path, chapter: str
) -> None:
    """The chapter's own trainer, for seconds in place of a minute."""
    text = (ROOT / "chapters" / f"{chapter}.ipynb").read_text(encoding="utf-8")
    asked = [
        found
        for cell in json.loads(text)["cells"]
        for found in re.findall(
            r'<div class="tinygpt-train".*?</div>', "".join(cell["source"]), re.DOTALL
        )
    ]
    assert len(asked) == 1 and 'data-minutes="1"' in asked[0]
    own = PAGE.partition('<div class="tinygpt-train"')[2].partition("</main>")[0]
    quick = asked[0].replace('data-minutes="1"', 'data-minutes="0.05"')
    html = PAGE.replace(f'<div class="tinygpt-train"{own}', quick)
    html = html.replace("train.js", "door.js")
    (folder / "chapter.html").write_text(html, encoding="utf-8")
    shutil.copy(STATIC / "door.js", folder)
    load_tool("texts").write(folder / "texts")
    page = visit()
    fetched: list[str] = []
    page.on("request", lambda request: fetched.append(Path(request.url).name))
    page.goto((folder / "chapter.html").as_uri())
    train = page.get_by_role("button", name="Train")
    expect(train).to_be_visible()
    assert set(fetched) == {"chapter.html", "door.js", *BEFORE}
    assert page.get_by_label("minutes").count() == 0
    train.click()
    losses(page)
    name = re.findall('data-text="(.*?)"', quick)[0]
    assert f"{name}.js" in fetched
    expect(page.locator(".curve svg")).to_be_visible()
    assert page.locator("canvas").count() == 0  # chapter 00 knows no heads yet


def test_without_scripts_a_sentence_stands_there(browser: Any, folder: Path) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto((folder / "page.html").as_uri())
    expect(page.locator(".tinygpt-train")).to_have_text("Here a model trains.")
    page.close()


def paste(page: Any, text: str) -> None:
    page.get_by_label("paste a text").evaluate(
        """(box, text) => {
            const event = new ClipboardEvent("paste",
                { clipboardData: new DataTransfer() });
            event.clipboardData.setData("text", text);
            box.dispatchEvent(event);
        }""",
        text,
    )


def test_bad_texts_and_sizes_get_a_sentence(visit: Any, tmp_path: Path) -> None:
    page = visit()
    for text, sentence in (
        ("", "The text is empty: give one"),
        ("a", "The text has 1 byte, and a model needs at least 20,000"),
        (" \n" * 20_000, "The text is only white space"),
        ("ab" * 15_000, "The text is too short: of its"),
    ):
        write(page, text)
        expect(status(page)).to_be_empty()  # nothing is known of this one
        press(page, "Train")
        expect(status(page)).to_contain_text(sentence)
        expect(page.get_by_role("button", name="Train")).to_be_enabled()
    write(page, "é" * 600)
    expect(page.locator(".count").first).to_have_text("1.2 KB of at least 20.")
    write(page, "é" * 10_000)
    expect(page.locator(".count").first).to_have_text("20.0 KB.")
    paste(page, "word " * 1_100_000)
    expect(page.locator(".count").first).to_contain_text("Pasted 5,500,000 characters")
    press(page, "Train")
    expect(status(page)).to_contain_text(
        "The text has 5.5 MB, and a page learns from 5"
    )
    path = tmp_path / "a.txt"
    for content, sentence in (
        (bytes(range(256)) * 200, "This is not UTF-8 text"),
        (b"a\0" * 20_000, "it has a zero byte"),
        (b"a" * 5_000_001, "The file has 5.0 MB, and a page learns from 5 MB at most"),
    ):
        path = path.with_stem(path.stem + "a")
        path.write_bytes(content)
        page.get_by_label("or a file").set_input_files(path)
        press(page, "Train")
        expect(status(page)).to_contain_text(sentence)
    path = tmp_path / "b.txt"
    path.write_text(TEXT)
    page.get_by_label("or a file").set_input_files(path)
    os.utime(path, (1, 1))  # changed since
    press(page, "Train")
    expect(status(page)).to_contain_text("The file has changed or gone since")
    prepare(page, 1, **{"width": 30, "heads a block": 4})
    press(page, "Train")
    expect(status(page)).to_contain_text("30 numbers do not divide into 4 heads")


# --- A run --------------------------------------------------------------------------


def test_a_run_by_keyboard_from_the_start_to_python(visit: Any, tmp_path: Path) -> None:
    page = visit(accept_downloads=True)
    prepare(page, 0.2)
    train = page.get_by_role("button", name="Train")
    train.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")  # a second start is no second run
    expect(status(page)).to_contain_text("parameters, width 32, 1 block of 2 heads")
    assert len(page.workers) == 1
    expect(train).to_be_disabled()
    expect(page.locator(".curve path.training")).to_be_attached()
    expect(page.get_by_text("tokens a second")).to_be_visible()

    pause = page.get_by_role("button", name="Pause")
    pause.focus()
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("Paused.")
    line = page.locator(".count").last.text_content()
    page.wait_for_timeout(600)
    assert page.locator(".count").last.text_content() == line
    page.get_by_role("button", name="Go on").press("Enter")

    ours, bigram = losses(page)
    fresh = math.log2(512) * 0.42  # a token of such a vocabulary has 2.4 bytes or so
    assert 1 < ours < fresh - 0.7
    assert 1 < bigram < fresh
    first = page.locator(".samples li").first
    page.get_by_text("What it wrote before").click()
    expect(first).to_contain_text("step ")
    assert len(page.locator(".map canvas").all()) == 2

    moment = page.get_by_label("moment")
    moment.focus()
    expect(page.locator(".lens li")).to_have_count(1)
    late = page.locator(".history .text").text_content()
    page.keyboard.press("Home")
    expect(page.locator(".history .text")).not_to_have_text(str(late))
    assert moment.get_attribute("aria-valuetext") == "step 0"
    page.get_by_label("prompt").fill("")
    page.get_by_label("prompt").press("Tab")
    expect(page.locator(".history output")).to_contain_text("The prompt is empty")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    with page.expect_download() as waited:
        press(page, "Download for Python")
    run = tmp_path / "run"
    with zipfile.ZipFile(waited.value.path()) as packed:
        packed.extractall(run)
    llm = tinygpt.load(run)
    ids = llm.tokenizer.encode("Once upon a time there was a little dog.")[:24]
    theirs = page.evaluate(
        """async ([files, ids]) => {
            const entries = Object.entries(files).map(([name, bytes]) =>
                [name, Uint8Array.from(bytes)]);
            const { model } = TinyGPTTrain.importRun(Object.fromEntries(entries));
            return Array.from(model.forward(ids));
        }""",
        [{p.name: list(p.read_bytes()) for p in run.iterdir()}, ids],
    )
    with torch.no_grad():
        mine = llm.model(torch.tensor([ids])).flatten()
    torch.testing.assert_close(mine, torch.tensor(theirs), rtol=0, atol=1e-4)

    with page.expect_download() as waited:
        press(page, "Download model.js")
    page.get_by_text("Open a model").click()
    page.get_by_label("its files").set_input_files(
        {
            "name": "model.js",
            "mimeType": "",
            "buffer": Path(waited.value.path()).read_bytes(),
        }
    )
    expect(status(page)).to_contain_text("model.js is open: width 32, 1 block, 512")
    expect(page.locator(".lens li")).to_have_count(1)
    expect(page.get_by_text("Inside the opened model")).to_be_visible()
    expect(page.get_by_text("Through time")).to_be_hidden()  # it has one moment only
    expect(page.get_by_label("goes on with the opened model")).to_be_checked()


def test_a_reload_loses_nothing_that_was_kept(visit: Any) -> None:
    page = visit()
    prepare(page, 0.15)
    press(page, "Train")
    expect(page.get_by_text("tokens a second")).to_be_visible()
    press(page, "Pause")
    expect(status(page)).to_have_text("Paused.")
    page.wait_for_timeout(500)
    page.reload()
    again = page.get_by_role("button", name=re.compile("Go on with the run on your"))
    step = int(re.findall(r"step (\d+)", str(again.text_content()))[0])
    assert step > 0
    other = page.context.new_page()  # where another run takes its place meanwhile
    other.goto(page.url)
    prepare(other, 0.02)
    again.click()
    expect(status(page)).to_contain_text("Training a model on your text")
    expect(again).to_be_hidden()  # it is this one
    press(page, "Pause")
    press(other, "Train")
    losses(other)
    page.get_by_role("button", name="Go on", exact=True).click()
    ours, bigram = losses(page)
    assert int(re.findall(r"after (\d+)", str(status(page).text_content()))[0]) > step
    page.reload()
    press(page, "Show the run on your text")
    assert losses(page) == (ours, bigram)
    assert page.get_by_label("moment").get_attribute("max") != "0"
    page.reload()
    expect(page.get_by_role("button", name="Show the run")).to_be_visible()
    prepare(page, 0.02)
    page.get_by_label("keep the run").uncheck()
    press(page, "Train")
    losses(page)
    other = page.get_by_role("button", name="Show the run on your text")  # still kept
    expect(other).to_be_visible()
    press(page, "Forget the kept run")
    expect(status(page)).to_contain_text("has forgotten the run")
    expect(other).to_be_hidden()
    page.reload()
    expect(page.get_by_role("button", name="Train")).to_be_visible()
    expect(page.get_by_role("button", name="the run on")).to_have_count(0)


def test_there_is_no_pause_before_there_is_a_run(visit: Any) -> None:
    page = visit()
    page.evaluate(
        """() => {
            globalThis.seen = [];
            new MutationObserver(() => {
                const [, , pause] = document.querySelectorAll(".acts button");
                const [, line] = document.querySelectorAll(".count");
                seen.push([document.querySelector(".status").textContent,
                    [pause?.disabled, line?.textContent]]);
            }).observe(document.querySelector(".tinygpt-train"),
                { subtree: true, childList: true, characterData: true });
        }"""
    )
    prepare(page, 0.02)
    press(page, "Train")
    losses(page)
    states = dict(page.evaluate("seen"))
    for words in (
        "Measuring how fast this browser computes …",
        "Reading the validation",
    ):
        (state,) = [state for said, state in states.items() if said.startswith(words)]
        assert state == [True, ""]  # and it is said in one place only
    (running,) = [
        state for said, state in states.items() if said.startswith("Training")
    ]
    assert running[0] is False


# What a page hides: it is in the background, and draws nothing.
HIDE = """(is) => {
    for (const [name, value] of [["hidden", is],
        ["visibilityState", is ? "hidden" : "visible"]]) {
        Object.defineProperty(document, name, { value, configurable: true });
    }
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def in_worker(code: str) -> str:
    """A script that lets each worker of a page begin with `code`."""
    return f"""globalThis.Blob = class extends Blob {{
        constructor(parts, kind) {{ super([{json.dumps(code)}, ...parts], kind); }}
    }};"""


def longest_task(trace: Path) -> float:
    """Milliseconds that the page's own thread computed in the longest of its tasks.

    Not those on the clock: a busy machine lets a thread wait in the midst of its work.
    """
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    pages = {e["pid"] for e in events if e["name"] == "FireAnimationFrame"}
    names = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in events
        if e["name"] == "thread_name"
    }
    return max(
        e["tdur"] / 1000
        for e in events
        if e["name"] == "ThreadControllerImpl::RunTask" and "tdur" in e
        if e["pid"] in pages and names[e["pid"], e["tid"]] == "CrRendererMain"
    )


def built_size(names: set[str]) -> int:
    """Bytes of the scripts as the site has them, with those of every page."""
    lean = load_tool("lean").lean
    sources = [(STATIC / name).read_text("utf-8") for name in names | set(ON_PAGES)]
    return sum(len(lean(source).encode()) for source in sources)


def test_in_the_background_it_trains_on_and_the_page_is_never_busy(
    visit: Any, browser: Any, tmp_path: Path
) -> None:
    page = visit()
    silent = in_worker("indexedDB.open = () => ({});")  # it never answers
    page.add_init_script(LISTEN + silent)
    fetched: set[str] = set()
    page.on("request", lambda request: fetched.add(Path(request.url).name))
    page.reload()
    prepare(page, 0.12)
    trace = tmp_path / "trace.json"
    parts = ["toplevel", "devtools.timeline"]
    browser.start_tracing(page=page, path=trace, categories=parts)
    page.get_by_role("button", name="Train").dblclick()
    expect(page.locator(".curve path.training")).to_be_attached()
    assert len(page.workers) == 1
    press(page, "Pause")
    expect(status(page)).to_have_text("Paused.")
    press(page, "Go on")
    page.evaluate(HIDE, True)
    page.wait_for_timeout(300)  # a drawing that had been asked for
    drawn = page.locator(".curve").inner_html()
    line = str(page.locator(".count").last.text_content())
    expect(page.locator(".count").last).not_to_have_text(line)
    losses(page)
    assert page.locator(".curve").inner_html() == drawn
    page.evaluate(HIDE, False)
    label = re.findall('aria-label="(.*?)"', drawn)[0]
    expect(page.locator(".curve svg")).not_to_have_attribute("aria-label", label)
    browser.stop_tracing()
    assert 0 < longest_task(trace) < 50
    heard = page.evaluate("heard")
    assert len(heard) < 16
    assert not any("tokens a second" in words for words in heard)
    # What a run needs, and not what opens and saves files; and of that no comments.
    own = fetched & {path.name for path in STATIC.glob("*.js")}
    assert not own & {"tinygpt_files.js", "tinygpt_web.js", "tinygpt_simd.js"}
    assert built_size(own) < 112_000
    with page.expect_download():
        press(page, "Download for Python")
    own = fetched & {path.name for path in STATIC.glob("*.js")}
    assert own & {"tinygpt_files.js", "tinygpt_web.js"} == {"tinygpt_files.js"}
    assert built_size(own) < 120_000


def test_a_full_disk_is_said_and_the_run_goes_on(visit: Any) -> None:
    page = visit(accept_downloads=True)
    page.context.new_cdp_session(page).send(
        "Storage.overrideQuotaForOrigin", {"origin": "file:///", "quotaSize": 10_000}
    )
    prepare(page, 0.05)
    press(page, "Train")
    losses(page)
    expect(
        page.get_by_text("has no room left for the run, and training")
    ).to_be_visible()
    with page.expect_download():
        press(page, "Download model.js")
    page.reload()
    expect(page.get_by_role("button", name="Train")).to_be_visible()
    expect(page.get_by_role("button", name="the run on")).to_have_count(0)


def test_a_broken_run_and_a_browser_that_keeps_nothing(visit: Any) -> None:
    page = visit()
    refused = "Object.defineProperty(globalThis, 'indexedDB', { value: undefined });"
    page.add_init_script(refused + in_worker(refused))
    page.reload()
    prepare(page, 0.08, width=24)
    page.get_by_text("Break it").click()
    page.get_by_label("targets not shifted").check()
    press(page, "Train")
    expect(status(page)).to_contain_text("Training a broken model on your text")
    expect(page.get_by_text("This browser does not keep the run (")).to_be_visible()
    ours, bigram = losses(page)
    assert ours < bigram  # it only repeats what it has read
    expect(status(page)).to_contain_text("but this one could see the answers")
    assert page.evaluate("tinygptTrainParts.visible('\\n ')") == "⏎␣"
    # The grey curve: never a run with a fault.
    page.get_by_label("minutes").fill("0.02")
    earlier = page.locator(".key .before")
    for is_broken, is_shown in ((False, False), (True, True), (True, True)):
        page.get_by_label("targets not shifted").set_checked(is_broken)
        press(page, "Train")
        losses(page)
        expect(earlier).to_be_visible(visible=is_shown)
