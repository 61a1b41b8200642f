"""What a run tells: for people, for programs, for narrow terminals, and not at all."""

import json
import sys
from pathlib import Path

import pytest
from tiny_chat import write_chats
from tiny_run import exit_code, words

from tinygpt.cli import console
from tinygpt.cli import runs as commands
from tinygpt.cli.main import main
from tinygpt.training.checkpoint import RunFolder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    return tmp_path


def test_json_prints_the_lines_of_the_log(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words(here, "first", prompt="the"), "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    said = [json.loads(line) for line in out.splitlines()]
    assert said == RunFolder(here / "runs" / "first").read_log()
    assert [line["step"] for line in said] == [0, 10, 20, 30, 40]
    argv = ["finetune", write_chats(here), "--model", "first", "--name", "tuned"]
    main([*argv, "--device", "cpu", "--epochs", "0.1", "--window", "8", "--json"])
    out, err = capsys.readouterr()
    assert err == ""
    said = [json.loads(line) for line in out.splitlines()]
    assert said == RunFolder(here / "runs" / "tuned").read_log()


def test_quiet_prints_nothing_but_what_goes_wrong(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words(here, "first", prompt="the"), "--quiet"])
    assert capsys.readouterr() == ("", "")
    assert exit_code([*words(here, "first"), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "the run" in err
    assert exit_code([*words(here, "other"), "--quiet", "--json"]) == 2
    assert "choose one" in capsys.readouterr().err
    assert not (here / "runs" / "other").exists()


@pytest.mark.slow
def test_no_line_is_drawn_over_another_where_no_terminal_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--plain"]):
        main([*words(here, f"n{len(more)}"), *more])
        out, err = capsys.readouterr()
        assert "\r" not in out + err
        assert "\x1b" not in out + err


def test_a_narrow_terminal_breaks_lines_between_words(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "columns", lambda stream: 40)
    monkeypatch.setattr(sys, "argv", ["tinygpt"])
    main(words(here, "first"))
    lines = capsys.readouterr().out.splitlines()
    long = [line for line in lines if len(line) > 40 and " " in line.strip()]
    assert long == []
    assert sum("Validation" in line for line in lines) == 5


def test_the_picture_is_shown_or_named(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[Path] = []
    monkeypatch.setattr(commands, "show_file", lambda path: shown.append(path))
    main([*words(here, "first", out="runs"), "--plot"])
    assert shown == [Path("runs/first/losses.png")]
    assert "\nThe losses: runs/first/losses.png\n" in capsys.readouterr().out


def test_a_picture_that_fails_costs_no_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tinygpt.training.figure.draw_losses", lambda run: "No ink")
    main(words(here, "first", prompt="the"))
    out, err = capsys.readouterr()
    assert err == "tinygpt: No ink\n"
    assert "A sample:" in out
    assert RunFolder(here / "runs" / "first").load_model()
