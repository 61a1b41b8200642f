"""export and open: a model for other programs, its card, and a page of its own."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, violations
from tiny_chat import write_chats
from tiny_run import exit_code, words

from tinygpt.cli import publish
from tinygpt.cli.main import main
from tinygpt.formats.page import PARTS
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.history import history


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, one that was fine-tuned from it on chats, and one of adapters on both."""
    home = tmp_path_factory.mktemp("publish")
    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    patch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    main([*words(home, "a b", context_length=64, eval_windows=2), "--quiet"])
    (home / "runs" / "a b" / "losses.png").write_bytes(b"a picture")
    chats = write_chats(home)
    argv = ["finetune", chats, "--device", "cpu", "--epochs", "0.1", "--quiet"]
    main([*argv, "--model", "a b", "--name", "tuned"])
    main([*argv, "--model", "tuned", "--name", "adapted", "--lora"])
    patch.undo()
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return home


# --- Cards ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_history_goes_back_to_the_first_run(here: Path) -> None:
    stages = history(here / "runs" / "adapted")
    assert [s.kind for s in stages] == ["train", "finetune", "finetune"]
    assert [s.base for s in stages] == [None, "a b", "tuned"]
    assert [s.data for s in stages] == ["text.txt", "chats.jsonl", "chats.jsonl"]
    log = RunFolder(here / "runs" / "a b").read_log()
    best = min(log, key=lambda line: line["selection_loss"])
    assert (stages[0].steps, stages[0].bits_per_byte) == (
        best["step"],
        best["bits_per_byte"],
    )
    shutil.copytree(here / "runs" / "tuned", here / "alone")
    config = here / "alone" / "run.json"
    raw = json.loads(config.read_text(encoding="utf-8"))
    raw["finetune"]["model"] = "/nowhere/gpt2"
    config.write_text(json.dumps(raw), encoding="utf-8")
    (alone,) = history(here / "alone")
    assert alone.base == "gpt2"
    raw["finetune"]["model"] = str(here / "alone")  # a circle ends
    config.write_text(json.dumps(raw), encoding="utf-8")
    assert len(history(here / "alone")) == 32


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card, read as the Hub's own library does."""
    hub = pytest.importorskip("huggingface_hub", reason="what reads cards")
    card = hub.ModelCard.load(folder / "README.md")
    return card.data.to_dict(), card.text


@pytest.mark.slow
def test_the_card_of_an_export_is_one_that_the_hub_reads(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["export", "--model", "a b", "--out", "web", "--format", "web"])
    data, text = card_of(here / "web")
    (stage,) = history(here / "runs" / "a b")
    assert data["pipeline_tag"] == "text-generation"
    found = {
        m["type"]: m["value"] for m in data["model-index"][0]["results"][0]["metrics"]
    }
    assert found["bits_per_byte"] == round(stage.bits_per_byte or 0, 4)
    assert data["model-index"][0]["name"] == "a b"
    assert "text.txt" in text
    assert f"{stage.steps} steps" in text
    assert f"{stage.bits_per_byte:.4f} bits per byte" in text
    assert "## Limits" in text
    assert "](losses.png)" in text
    assert (here / "web" / "losses.png").read_bytes() == b"a picture"
    assert str(here) not in (here / "web" / "README.md").read_text(encoding="utf-8")


def test_a_card_that_somebody_edited_stays(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "--out", "twice", "--format", "web", "--model"]
    main([*argv, "a b"])
    main([*argv, "adapted"])
    card = here / "twice" / "README.md"
    assert "\n- fine-tuned on chats.jsonl" in card.read_text(encoding="utf-8")
    assert "edited" not in capsys.readouterr().out
    mine = card.read_text(encoding="utf-8").replace("## Limits", "## What it cannot do")
    card.write_text(mine, encoding="utf-8")
    main([*argv, "a b"])
    assert card.read_text(encoding="utf-8") == mine
    assert "README.md was edited by somebody" in capsys.readouterr().out


def test_a_model_that_ships_keeps_its_card(here: Path) -> None:
    main(["export", "--model", "pocket-gpt2", "--out", "pocket"])
    own = (ROOT / "data" / "pocket-gpt2" / "README.md").read_text(encoding="utf-8")
    assert (here / "pocket" / "README.md").read_text(encoding="utf-8").startswith(own)
    data, _ = card_of(here / "pocket")
    assert data["license"] == "cc0-1.0"


def test_a_wrong_name_to_push_to_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "--model", "a b", "--out", "unpushed", "--push", "mine"]
    assert exit_code(argv) == 2
    assert "USER/NAME" in capsys.readouterr().err
    assert not (here / "unpushed").exists()


# --- Pages ---------------------------------------------------------------------------


def test_what_a_page_is_made_of() -> None:
    """Every script that playground.js asks for."""
    source = (ROOT / "book" / "_static" / "playground.js").read_text(encoding="utf-8")
    room = re.search(r"const ROOM = \[(.*?)\]", source, re.DOTALL)
    assert room
    named = {f"{name}.js" for name in re.findall(r'"(\w+)"', room[1])}
    assert named | {"playground.js", "playground.css"} == set(PARTS)


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Opens a page from its file, without a network; it must not complain."""
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, offline=True, color_scheme="dark"
    )
    context.set_default_timeout(60_000)
    complaints: list[str] = []

    def open_page(path: Path) -> Any:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.resolve().as_uri())
        return page

    open_page.complaints = complaints
    yield open_page
    context.close()


def test_a_model_trained_just_now_runs_in_its_page(
    here: Path, visit: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "resources" / "loss_curve.png", "runs/a b/losses.png")
    main(["open", "a b", "--no-browser"])
    assert capsys.readouterr().out == (
        "runs/a b/page/index.html: open it in a browser.\n"
    )
    page = visit(here / "runs" / "a b" / "page" / "index.html")
    page.locator(".bars button").first.wait_for()  # it starts by itself
    record = RunFolder(here / "runs" / "a b").settings()["record"]
    assert page.locator("textarea").input_value() == record["opening"]
    page.get_by_role("button", name="One token").click()
    page.get_by_text("Wrote “").wait_for()
    assert page.locator("h1").inner_text() == "a b"
    assert "trained on text.txt" in page.locator("main > p").first.inner_text()
    assert page.evaluate("document.images[0].naturalWidth") > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert visit.complaints == []  # axe makes some of its own
    assert violations(page) == []


def test_a_fine_tuned_model_answers_in_its_page(here: Path, visit: Any) -> None:
    main(["open", "adapted", "--no-browser", "--out", "talk"])
    page = visit(here / "talk" / "index.html")
    questions = page.locator(".acts button", has_text=re.compile("order"))
    questions.first.click()
    page.locator(".log p").nth(1).wait_for()
    assert re.match("Where is order 1?\\d", page.locator(".log .you bdi").inner_text())
    page.get_by_role("button", name="Start adapted").nth(1).click()
    page.locator(".bars button").first.wait_for()
    assert visit.complaints == []  # axe makes some of its own
    assert violations(page) == []


def test_open_shows_the_page_and_replaces_an_older_one(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Path] = []
    monkeypatch.setattr(publish, "show_file", lambda path: shown.append(path) or True)
    main(["open", "tiny"])
    main(["open", "story"])
    main(["open", "story"])
    main(["open", "--out", "latest"])
    assert shown == [
        Path("pages/tiny/index.html"),
        Path("pages/story/index.html"),
        Path("pages/story/index.html"),
        Path("latest/index.html"),
    ]
    assert "is open in the browser" in capsys.readouterr().out
    # The questions of the chats are no longer there.
    (here / "chats.jsonl").rename("gone.jsonl")
    main(["open", "tuned", "--out", "no questions", "--no-browser"])
    (here / "gone.jsonl").rename("chats.jsonl")
    page = (here / "no questions" / "index.html").read_text(encoding="utf-8")
    assert 'data-questions=""' in page
    # Another's page is left alone.
    (here / "other").mkdir()
    (here / "other" / "index.html").write_text("<p>mine", encoding="utf-8")
    assert exit_code(["open", "tiny", "--out", "other"]) == 2
    assert "is another page" in capsys.readouterr().err
    assert [p.name for p in (here / "other").iterdir()] == ["index.html"]


def test_a_model_too_large_for_a_page_gets_a_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinygpt.formats.web.LARGEST", 1000)
    assert exit_code(["open", "a b", "--out", "large"]) == 2
    err = capsys.readouterr().err
    assert "choose a smaller one" in err
    assert err.count("\n") == 1
    assert not (here / "large").exists()
