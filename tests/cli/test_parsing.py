"""parsing: defaults from presets, runs and files; runs found by name; completion."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from tiny_run import configs, exit_code, words

from tinygpt.cli.arguments import FinetuneOptions, PresetName, Train
from tinygpt.cli.main import main
from tinygpt.cli.parsing import COMMANDS, free_name, latest_run, parse, runs_in
from tinygpt.config import FinetuneConfig, TrainConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.run import find_run
from tinygpt.presets import PRESETS
from tinygpt.settings import convert


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of three presets' names and one of its own, oldest first."""
    home = tmp_path_factory.mktemp("parsing")
    for age, name in enumerate(["tiny-2", "tiny", "seed", "mine"]):
        main(words(home, name, steps=1, batch_size=7, out=home / "runs"))
        os.utime(home / "runs" / name / "run.json", (age, age))
    return home


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # put back at the end
    return home


def write_json(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


# --- Defaults ------------------------------------------------------------------------


def test_a_preset_gives_the_defaults() -> None:
    args = parse(["train", "--preset", "seed", "--batch-size", "7"])
    assert args.model == PRESETS["seed"].model
    assert (args.train.batch_size, args.train.lr) == (7, PRESETS["seed"].train.lr)
    assert parse(["train"]) == Train()
    assert convert(TrainConfig, parse(["train"]).train) == PRESETS["tiny"].train
    assert set(get_args(PresetName)) == set(PRESETS)
    assert parse(["finetune"]).train == FinetuneOptions()
    assert convert(FinetuneConfig, parse(["finetune"]).train) == FinetuneConfig()


def test_the_first_word_is_the_text() -> None:
    for command in ("train", "finetune"):
        args = parse([command, "--lr", "0.5", "my.txt", "--batch-size", "3"])
        assert (args.train.data, args.train.lr, args.train.batch_size) == (
            "my.txt",
            0.5,
            3,
        )
    assert parse(["eval", "my.txt", "--model", "m"]).text == "my.txt"


def test_adapters_may_be_given_several_layers() -> None:
    words = ["finetune", "my.jsonl", "--lora", "--lora-targets", "q", "v", "--lr", "1"]
    train = parse(words).train
    assert (train.data, train.lora_targets, train.lr) == ("my.jsonl", ("q", "v"), 1.0)


def test_resume_without_a_name_takes_the_latest_of_the_preset(here: Path) -> None:
    asked = [
        parse(["train", "--resume", *more])
        for more in ([], ["--preset", "tiny"], ["--preset", "seed"], ["--preset=gpt2"])
    ]
    assert [args.name for args in asked] == ["mine", "tiny", "seed", None]
    assert [args.train.steps for args in asked[:3]] == [1, 1, 1]
    assert asked[-1].model == PRESETS["gpt2"].model
    args = parse(["train", "--resume", "--name", "seed", "--lr", "1"])
    assert (args.name, args.train.lr, args.train.steps) == ("seed", 1.0, 1)
    assert parse(["train", "--resume", "--out", "no-such-folder"]).name is None
    assert parse(["finetune", "--resume"]).name is None  # these are no such runs
    with pytest.raises(UserError, match=r"run of `tinygpt train`.* train --resume"):
        parse(["finetune", "--resume", "--name", "mine"])


def test_finetune_resumes_the_latest_run_with_its_settings(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["finetune", "text.txt", "--model", "runs/mine", "--out", "tuned"]
    argv += ["--epochs", "0.1", "--device", "cpu", "--lr", "0.5"]
    for age, name in enumerate(["old", "new"]):
        main([*argv, "--name", name, "--seed", str(age)])
        os.utime(Path("tuned", name, "run.json"), (age, age))
    args = parse(["finetune", "--resume", "--out", "tuned", "--epochs", "0.2"])
    assert (args.name, args.train.seed, args.train.lr) == ("new", 1, 0.5)
    assert (args.train.data, args.train.epochs) == ("text.txt", 0.2)
    assert parse(["finetune", "--resume", "--out", "tuned", "--name", "old"]).train == (
        replace(args.train, seed=0, epochs=0.1)
    )
    with pytest.raises(UserError, match="run of `tinygpt finetune`"):
        parse(["train", "--resume", "--out", "tuned", "--name", "new"])
    assert parse(["train", "--resume", "--out", "tuned"]).name is None
    capsys.readouterr()


def test_a_file_of_settings_stands_between_preset_and_options(here: Path) -> None:
    file = write_json(here / "some.json", {"steps": 70, "d_model": 96, "lr": 0.5})
    args = parse(["train", "--config", file, "--lr", "0.25", "--preset", "pocket"])
    assert (args.train.steps, args.model.d_model, args.train.lr) == (70, 96, 0.25)
    assert args.model.n_layers == PRESETS["pocket"].model.n_layers
    file = write_json(here / "tune.json", {"model": "runs/mine", "lora": True})
    args = parse(["finetune", "--config", file])
    assert (args.train.model, args.train.lora) == ("runs/mine", True)


def test_a_run_s_own_file_gives_the_same_settings(here: Path) -> None:
    args = parse(["train", "--config", "runs/mine/run.json"])
    model, train = configs(here, steps=1, batch_size=7, optimizer="muon")
    again = asdict(convert(TrainConfig, args.train))
    assert again["batch_size"] == 7
    assert again["data"] == train.data
    assert args.model.d_model == model.d_model
    assert args.name is None  # the settings, not the run
    with pytest.raises(UserError, match="another kind of run"):
        parse(["finetune", "--config", "runs/mine/run.json"])


# --- Runs by name --------------------------------------------------------------------


def test_runs_are_found_in_the_order_of_their_age(here: Path) -> None:
    assert [run.name for run in runs_in(Path("runs"))] == [
        "tiny-2",
        "tiny",
        "seed",
        "mine",
    ]
    assert latest_run() == Path("runs/mine")
    assert runs_in(Path("nowhere")) == []
    names = [free_name(Path("runs"), name) for name in ("tiny", "seed", "new")]
    assert names == ["tiny-3", "seed-2", "new"]


def test_a_run_comes_before_a_shipped_model_of_its_name(here: Path) -> None:
    """`tinygpt train` calls its first run tiny, and tiny ships, too."""
    assert find_run("tiny") == Path("runs/tiny")
    assert find_run("mine", Path("other")) == "mine"
    assert find_run("story") == "story"
    Path("mine").mkdir()  # but a path is a path
    assert find_run("mine") == "mine"
    Path("mine").rmdir()


@pytest.mark.parametrize("command", ["generate", "chat", "eval", "export"])
def test_there_is_no_run_yet(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    out = ["--out", "there"] if command == "export" else []
    assert exit_code([command, *out]) == 2
    assert capsys.readouterr().err == (
        "tinygpt: there is no run in runs/ yet: train one with `tinygpt train`, or "
        "give a --model\n"
    )


# --- Completion ----------------------------------------------------------------------


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_settings(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(["--tyro-print-completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "d-model", "lora-rank", "max-new-tokens"):
        assert word in script
    path = tmp_path / "completion"
    assert exit_code(["--tyro-write-completion", shell, str(path)]) == 0
    assert path.read_text(encoding="utf-8").strip() == script.strip()
