"""The table of bad inputs: each gets one sentence and exit code 2, and touches nothing.

The table is bad_inputs.tsv; a new case is a new line there.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from tiny_run import exit_code, words

from tinygpt.cli.arguments import (
    FinetuneOptions,
    Prepare,
    RewardOptions,
    Sampling,
    Tokenize,
    TrainOptions,
)
from tinygpt.cli.parsing import COMMANDS
from tinygpt.config import GPTConfig

TABLE = Path(__file__).with_name("bad_inputs.tsv")
LONG = "x" * 300


def rows() -> Iterator[tuple[str, str]]:
    """Each command with the pattern that its sentence matches."""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            command, _, pattern = line.partition("\t")
            yield command, pattern


def group(command: str) -> str:
    """The command that a row is about."""
    word = shlex.split(command)[0]
    return word if word in COMMANDS else "no command"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and files, good and bad, that the table names."""
    folder = tmp_path_factory.mktemp("bad")
    assert exit_code(words(folder, "first", steps=2)) == 0
    texts = {
        "empty.txt": " \n",
        "short.txt": "too short",
        "empty.tokens": "",
        "empty.jsonl": "",
        "deep.jsonl": "[" * 100_000 + "]" * 100_000,
        "array.jsonl": "[1, 2]\n",
        "norole.jsonl": '{"messages": [{"content": "Hello"}]}\n',
        "judge.jsonl": 9 * '{"messages": [{"role": "judge", "content": "No"}]}\n',
        "one.jsonl": '{"messages": [{"role": "user", "content": "Hello"}]}\n',
        "list.json": "[]",
        "deep.json": '{"a":' * 100_000 + "1" + "}" * 100_000,
        "typo.json": '{"step": 5}',
        "negative.json": '{"batch_size": -1}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    (folder / "binary.tokens").write_bytes(bytes(range(256)))
    (folder / "utf16.txt").write_text("a text", encoding="utf-16")
    (folder / "nul.txt").write_bytes(b"a text\0" * 100)
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(2_000_000_000)  # takes no room
    (folder / "nothing").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "badgpt").mkdir()
    (folder / "badgpt" / "config.json").write_text("{}", encoding="utf-8")
    _break_runs(folder / "runs")
    return folder


def _break_runs(runs: Path) -> None:
    """Copies of runs/first with something wrong in each."""
    for name in ("cut", "nostate", "norun", "listed"):
        shutil.copytree(runs / "first", runs / name)
    for name in ("best.safetensors", "last.safetensors"):
        path = runs / "cut" / name
        path.write_bytes(path.read_bytes()[:-200])
    (runs / "nostate" / "last.safetensors").unlink()
    (runs / "norun" / "run.json").write_text("{", encoding="utf-8")
    run = json.loads((runs / "first" / "run.json").read_text(encoding="utf-8"))
    run["model"] = [run["model"]]
    (runs / "listed" / "run.json").write_text(json.dumps(run), encoding="utf-8")
    os.utime(runs / "first" / "run.json", (2e9, 2e9))  # the latest


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({group(command) for command, _ in rows()}))
def test_bad_input_gets_one_sentence_and_code_2(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # put back at the end
    before, wrong = snapshot(folder), []
    for command, pattern in rows():
        if group(command) != name:
            continue
        argv = shlex.split(command.replace("{LONG}", LONG))
        try:
            code = exit_code(argv)
        except Exception as error:
            wrong.append(f"{command}: raised {error!r}")
            continue
        out, err = capsys.readouterr()
        if code != 2:
            wrong.append(f"{command}: exit code {code}")
        if not re.search(pattern.replace("{LONG}", LONG), err):
            wrong.append(f"{command}: no {pattern!r} in {err!r}")
        if not re.fullmatch(r"tinygpt: [^\n]+\n", err) or re.search(r"\. [A-Z]", err):
            wrong.append(f"{command}: not one sentence: {err!r}")
        if "Step:" in out or "Traceback" in err:
            wrong.append(f"{command}: began")
        if (after := snapshot(folder)) != before:
            wrong.append(
                f"{command}: touched {set(after.items()) ^ set(before.items())}"
            )
            before = after
    assert not wrong, "\n".join(wrong)


def test_the_table_covers_every_number_that_can_be_typed() -> None:
    def numbers(*kinds: type) -> set[str]:
        return {
            field.name.replace("_", "-")
            for kind in kinds
            for field in fields(kind)
            if field.type in (int, float, int | None, float | None)
        }

    def named(command: str) -> set[str]:
        return {
            word.removeprefix("--")
            for typed, _ in rows()
            for word in typed.split()
            if typed.startswith(command) and word.startswith("--")
        }

    assert len(list(rows())) >= 300
    assert numbers(GPTConfig, TrainOptions) <= named("train ")
    assert numbers(Sampling) <= named("generate ") & named("chat ")
    assert numbers(RewardOptions) - numbers(TrainOptions) <= named("reward ")
    own = numbers(FinetuneOptions) - numbers(TrainOptions)
    assert own <= named("finetune ")
    assert numbers(Tokenize) <= named("tokenize ")
    assert numbers(Prepare) <= named("data prepare ")
