"""runs: the list of runs, and models named in every way by --model."""

import re
import shutil
from pathlib import Path

import pytest
from tiny_run import exit_code, words

from tinygpt.cli.main import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with one run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    main(words(tmp_path, "first", steps=10))
    return tmp_path


def test_runs_lists_text_size_steps_bits_and_date(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("runs/first", "runs/spoilt")
    Path("runs/spoilt/run.json").write_text("{", encoding="utf-8")
    Path("runs/not-a-run").mkdir()
    capsys.readouterr()
    main(["runs"])
    head, *rows = capsys.readouterr().out.splitlines()
    assert re.split(r"  +", head) == [
        "name",
        "text",
        "parameters",
        "steps",
        "bits per byte",
        "date",
    ]
    (first,) = (row for row in rows if row.startswith("first "))
    assert re.fullmatch(
        r"first +\S+text\.txt +[\d,]+ +10 +\d\.\d{4} +\d{4}-\d\d-\d\d \d\d:\d\d", first
    )
    (spoilt,) = (row for row in rows if row.startswith("spoilt "))
    assert "run.json" in spoilt
    assert len(rows) == 2
    main(["runs", "--out", str(here / "runs")])
    assert first in capsys.readouterr().out.splitlines()


@pytest.mark.slow
def test_a_model_is_named_alike_everywhere(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = set()
    capsys.readouterr()
    for name in ("first", "runs/first", str(here / "runs/first")):
        main(["generate", "--model", name, "--prompt", "the", "--seed", "1"])
        said.add(capsys.readouterr().out)
    main(["generate", "--prompt", "the", "--seed", "1"])  # the latest
    said.add(capsys.readouterr().out)
    assert len(said) == 1
    main(["eval", "--model", "first"])
    assert "runs/first" in capsys.readouterr().out
    main(["export", "--model", "first", "--out", "page", "--format", "web"])
    argv = ["finetune", "text.txt", "--model", "first", "--epochs", "0.1"]
    main([*argv, "--device", "cpu", "--name", "tuned", "--lora"])
    main(["generate", "--model", "tuned", "--prompt", "the", "--seed", "1"])
    capsys.readouterr()


def test_a_run_comes_before_what_ships_under_its_name(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/first").rename("runs/pocket-gpt2")
    argv = ["generate", "--prompt", "the", "--seed", "1", "--max-new-tokens", "9"]
    said = []
    capsys.readouterr()
    for name in ("pocket-gpt2", "runs/pocket-gpt2"):
        main([*argv, "--model", name])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]


def test_four_examples_that_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    examples = [
        line.split("  tinygpt ")[1]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("  tinygpt ")
    ]
    assert len(examples) == 4
    for example in examples:
        words = example.replace('"', "").split()
        assert exit_code([*words, "--no-such-option"]) == 2
        assert capsys.readouterr().err.startswith(
            "tinygpt: Unrecognized options: --no-such-option"
        )
