"""figure: losses.png shows the log and the baselines, and costs no run."""

import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from tiny_run import configs

from tinygpt.training import figure
from tinygpt.training.figure import FIGURE, curves, draw_losses
from tinygpt.training.run import Run, pretrain

draw = draw_losses


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that is over."""
    home = tmp_path_factory.mktemp("figure")
    made = pretrain(home / "run", *configs(home))
    list(made.reports())
    return made


def size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG whose parts are whole."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        part = data[place + 4 : place + 8 + length]
        crc = data[place + 8 + length : place + 12 + length]
        assert zlib.crc32(part) == int.from_bytes(crc, "big")
        place += 12 + length
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_a_run_gets_its_picture_without_a_screen(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # not to be loaded
    assert draw(run) is None
    assert size(run.path / FIGURE) == (960, 600)


def test_what_is_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(figure, "_png", lambda *parts: drawn.append(parts) or b"")
    assert draw(run) is None
    ((lines, marks, unit),) = drawn
    log = run.folder.read_log()
    assert lines == {
        "training": [(r["step"], r["training_loss"]) for r in log],
        "validation": [(r["step"], r["validation_loss"]) for r in log],
    }
    assert unit == "loss (nats per token)"
    assert marks.keys() == {"uniform", "unigram", "bigram"}
    # The baselines of `tinygpt eval`, in another unit.
    loss = run.data.evaluate(run.model)
    bits = run.data.baselines()
    per_bit = len(run.data.val) * marks["unigram"] / bits["unigram"]
    for name, value in marks.items():
        assert len(run.data.val) * value / bits[name] == pytest.approx(per_bit)
    assert marks["bigram"] < marks["unigram"] < marks["uniform"]
    assert loss.nats_per_token == pytest.approx(min(y for _, y in lines["validation"]))


def test_a_reward_is_drawn_in_place_of_losses() -> None:
    log = [
        {"step": 0, "training_loss": 0.0, "validation_loss": 3.0, "reward": 0.2},
        {"step": 5, "training_loss": 0.1, "validation_loss": 3.1, "reward": 0.4},
    ]
    assert curves(log) == ({"validation prompts": [(0, 0.2), (5, 0.4)]}, "reward")


def broken(log: object) -> None:
    raise RuntimeError("no log")


def test_what_goes_wrong_costs_nothing(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path / FIGURE).unlink(missing_ok=True)
    before = sorted(p.name for p in run.path.iterdir())
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib.figure", None)  # cannot be imported
        said = draw(run)
    assert said is not None
    assert said.startswith(f"{FIGURE} could not be drawn (import of matplotlib.figure")
    with monkeypatch.context() as patch:
        patch.setattr(figure, "curves", broken)
        said = draw(run)
    assert said == f"{FIGURE} could not be drawn (no log); log.jsonl has the numbers"
    (run.path / FIGURE).mkdir()
    assert "it is a folder" in str(draw(run))
    (run.path / FIGURE).rmdir()
    assert sorted(p.name for p in run.path.iterdir()) == before
