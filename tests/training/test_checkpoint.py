"""checkpoint: what a run folder holds, and that no file in it is trusted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import VOCAB_SIZE, assert_same_tensors, configs, write_text

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.files import shipped
from tinygpt.finetuning.run import load_run
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.tokenizer import Tokenizer, get_tokenizer
from tinygpt.training.checkpoint import RunFolder, list_runs
from tinygpt.training.run import Run, pretrain
from tinygpt.training.tensor_file import load_state_dict, load_tensors

FILES = {
    "run.json",
    "tokenizer.tiktoken",
    "tokenizer.json",
    "best.safetensors",
    "last.safetensors",
    "log.jsonl",
    "model-ckpt.pt",
    ".lock",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Run]:
    """A run that came to its end, and what ran."""
    home = tmp_path_factory.mktemp("finished")
    run = pretrain(home / "run", *configs(home))
    for _ in run.reports():
        pass
    return home / "run", run


@pytest.fixture
def copy(finished: tuple[Path, Run], tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(finished[0], tmp_path / "run")


def everything(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- What is in the folder ---------------------------------------------------------


def test_a_finished_run_holds_what_the_header_says(finished: tuple[Path, Run]) -> None:
    path, run = finished
    assert {p.name for p in path.iterdir()} == FILES
    assert RunFolder(path).configs() == (run.model.config, run.config)
    log = RunFolder(path).read_log()
    assert [line["step"] for line in log] == [0, 10, 20, 30, 40]
    assert [line["whole_split"] for line in log] == [False] * 4 + [True]

    tensors, metadata = load_tensors(path / "best.safetensors")
    assert metadata == log[metadata["step"] // 10]
    plain = torch.load(path / "model-ckpt.pt", weights_only=True)
    model = GPT(run.model.config)
    model.load_state_dict(plain, strict=True)
    assert_same_tensors(dict(model.named_parameters()), tensors)
    assert_same_tensors(load_state_dict(path / "model-ckpt.pt"), plain)
    loaded, tokenizer, noted = RunFolder(path).load_model()
    assert_same_tensors(dict(loaded.named_parameters()), tensors)
    assert not loaded.training
    assert noted == metadata
    assert tokenizer.vocab_size == VOCAB_SIZE
    # In the end the trained model itself holds the best weights.
    assert_same_tensors(dict(run.model.named_parameters()), tensors)


def test_run_json_records_what_auto_came_to_mean(finished: tuple[Path, Run]) -> None:
    path, run = finished
    record = RunFolder(path).settings()["record"]
    assert record["tokens"] == len(run.data.train)
    assert record["threads"] == run.trainer.threads
    assert (record["device"], record["dtype"]) == ("cpu", "float32")


def test_a_list_of_runs(copy: Path, finished: tuple[Path, Run]) -> None:
    spoilt = shutil.copytree(copy, copy.parent / "spoilt")
    (spoilt / "run.json").write_text("{", encoding="utf-8")
    (copy.parent / "no run").mkdir()
    first, second = sorted(list_runs(copy.parent), key=lambda run: run.path)
    assert (first.path, second.path) == (copy, spoilt)
    assert "is not a JSON file" in second.problem
    log = RunFolder(copy).read_log()
    assert first.bits_per_byte == min(line["bits_per_byte"] for line in log)
    assert (first.steps, first.problem) == (40, "")
    assert first.parameters == finished[1].model.n_parameters()
    assert first.data.endswith("text.txt")
    assert first.date.startswith("20")
    assert second.data == second.date == ""
    assert (second.parameters, second.steps, second.bits_per_byte) == (0, 0, None)
    assert list_runs(copy / "nothing here") == []


def test_a_run_without_a_log_has_no_steps_yet(copy: Path) -> None:
    (copy / "log.jsonl").unlink()
    (run,) = list_runs(copy.parent)
    assert (run.steps, run.bits_per_byte, run.problem) == (0, None, "")


def test_lines_of_steps_done_again_are_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_log() == []
    for step, loss in [(0, 5.0), (10, 4.0), (20, 3.0), (10, 3.9)]:
        folder.log({"step": step, "loss": loss})
    assert folder.read_log() == [{"step": 0, "loss": 5.0}, {"step": 10, "loss": 3.9}]


def test_a_model_that_no_run_trained(tmp_path: Path) -> None:
    _, vocabulary = write_text(tmp_path)
    model = GPT(GPTConfig(VOCAB_SIZE, 8, 12, 2, 1)).eval()
    RunFolder(tmp_path / "new").save_model(model, Tokenizer.load(vocabulary))
    again, tokenizer, metadata = RunFolder(tmp_path / "new").load_model()
    assert_same_tensors(again.state_dict(), model.state_dict())
    assert (tokenizer.vocab_size, metadata) == (VOCAB_SIZE, {})


def test_the_weights_as_torch_alone_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = GPT(GPTConfig(VOCAB_SIZE, 8, 12, 2, 1)), tmp_path / "model-ckpt.pt"
    RunFolder(tmp_path).save_plain(model, writes=False)  # another rank
    assert not path.exists()
    RunFolder(tmp_path).save_plain(model)
    before = path.read_bytes()
    assert_same_tensors(torch.load(path, weights_only=True), model.state_dict())

    def full(state: object, part: Path) -> None:
        part.write_bytes(b"half")
        raise RuntimeError("unexpected pos 64 vs 0\nand where in C++")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"cannot write .*\(unexpected pos 64 vs 0\)"):
        RunFolder(tmp_path).save_plain(model)
    assert path.read_bytes() == before


# --- Whose folder it is ------------------------------------------------------------


def test_a_new_run_touches_no_folder_that_holds_something(copy: Path) -> None:
    stranger = copy.parent / "stranger"
    stranger.mkdir()
    (stranger / "tokenizer.json").write_text("{}", encoding="utf-8")
    before = everything(copy.parent)
    with pytest.raises(UserError, match="exists: continue it with --resume"):
        RunFolder(copy).require_new()
    with pytest.raises(UserError, match=r"not empty \(it holds tokenizer.json\)"):
        RunFolder(stranger).require_new()
    assert everything(copy.parent) == before
    RunFolder(copy.parent / "absent").require_new()
    (copy.parent / "empty").mkdir()
    RunFolder(copy.parent / "empty").require_new()


def test_what_a_run_left_that_was_killed_early_may_be_used(copy: Path) -> None:
    (copy / "run.json").unlink()
    (copy / ".best.safetensors.part").write_bytes(b"half")
    RunFolder(copy).require_new()
    (copy / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"it holds thesis\.txt"):
        RunFolder(copy).require_new()


def test_nothing_to_resume_from(copy: Path) -> None:
    RunFolder(copy).require_resumable()
    (copy / "last.safetensors").unlink()
    before = everything(copy)
    with pytest.raises(UserError, match=r"it has no last\.safetensors"):
        RunFolder(copy).require_resumable()
    with pytest.raises(UserError, match=r"there is no run in .* to resume"):
        RunFolder(copy / "nowhere").require_resumable()
    assert everything(copy) == before
    with pytest.raises(UserError, match=r"it has no last\.safetensors"):
        RunFolder(shipped("tiny/run.json").parent).require_resumable()


@pytest.mark.slow
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with (
        folder.locked(),
        pytest.raises(UserError, match="another process is training the run"),
        RunFolder(tmp_path / "run").locked(),
    ):
        pass
    killed = (
        "import os; from tinygpt.training.checkpoint import RunFolder;"
        f"lock = RunFolder({str(tmp_path / 'run')!r}).locked(); lock.__enter__();"
        "print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", killed], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process"), folder.locked():
            pass
        process.kill()
    with folder.locked():
        pass


def test_a_run_keeps_the_vocabularys_pattern_and_special_tokens(tmp_path: Path) -> None:
    course = get_tokenizer("course-4k")
    RunFolder(tmp_path / "run").save_tokenizer(course)
    assert Tokenizer.load(tmp_path / "run" / "tokenizer.tiktoken") == course


def test_folders_that_are_made_and_those_that_cannot_be(tmp_path: Path) -> None:
    _, vocabulary = write_text(tmp_path)
    tokenizer = Tokenizer.load(vocabulary)
    RunFolder(tmp_path / "a" / "b").save_tokenizer(tokenizer)
    RunFolder(tmp_path / "a" / "b").save_tokenizer(tokenizer)
    assert (tmp_path / "a" / "b" / "tokenizer.tiktoken").exists()
    with RunFolder(tmp_path / "c" / "d").locked():
        assert (tmp_path / "c" / "d").is_dir()
    for name in ("a\0b", vocabulary.name):
        folder = RunFolder(tmp_path / name)
        with pytest.raises(UserError, match="cannot write to"), folder.locked():
            pass
        with pytest.raises(UserError, match="cannot write to"):
            folder.save_tokenizer(tokenizer)
    with pytest.raises(UserError, match="cannot write to"):
        RunFolder(vocabulary).require_new()


# --- Files that cannot be used -----------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    """Change settings in a run.json; None removes one."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(settings.get(name), dict):
            value = settings[name] | value
        settings[name] = value
    kept = {name: value for name, value in settings.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not a JSON file"),
        ('{"format": "tinygpt ru', "is not a JSON file"),
        ("[]", "holds a list"),
        ("{}", "is not in the format"),
        ('{"format": "another 9"}', "is not in the format"),
        ('{"a":' * 50_000, "nested too deep"),
        (" " * (1 << 20) + "{}", "such a file has"),
    ],
)
def test_a_description_that_is_none(content: str, words: str, copy: Path) -> None:
    (copy / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_run(copy)


HUGE = 2**31
LORA = {"model": "pocket-gpt2", "lora": True}
BY_HAND: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "lacks settings"),
    ({"train": 7}, "lacks settings"),
    ({"model": [1]}, "lacks settings"),
    ({"finetune": {}}, "lacks settings"),
    ({"record": []}, "lacks settings"),
    ({"model": {"colour": "red"}}, "unknown GPTConfig settings"),
    ({"model": {"n_heads": 5}}, "not divisible"),
    ({"model": {"d_model": 16}}, "best.safetensors"),
    ({"model": {"vocab_size": 300}}, "has 283 entries instead of 300"),
    ({"model": {"vocab_size": HUGE}}, "entries instead of"),
    ({"model": {"n_layers": HUGE}}, "describes 2147483648 layers"),
    ({"model": {"d_model": HUGE}}, "run"),
    ({"model": {"context_length": HUGE}}, "no machine can attend"),
    ({"model": {"context_length": HUGE, "positions": "rotary"}}, "attend"),
    ({"model": {"context_length": 2**20}}, r"but the model wants \[1048576, 12\]"),
    ({"model": {"d_ff": HUGE}}, "but the model wants"),
    ({"model": {"d_ff": 2**62}}, "run"),
    ({"train": None, "finetune": LORA | {"lora_rank": 10**9}}, "best.safetensors"),
    ({"train": None, "finetune": LORA | {"model": "no"}}, "cannot be loaded"),
    ({"train": None, "finetune": LORA | {"model": "a\0b"}}, "cannot be loaded"),
    ({"train": None, "finetune": LORA | {"model": "x" * 300}}, "cannot be loaded"),
]


@pytest.mark.parametrize(("changes", "words"), BY_HAND)
@pytest.mark.timeout(20)
def test_settings_made_by_hand(changes: dict[str, Any], words: str, copy: Path) -> None:
    edit(copy / "run.json", **changes)
    with pytest.raises(UserError, match=words):
        load_run(copy)


WRONG_TYPES: list[tuple[dict[str, Any], str]] = [
    ({"model": {"d_model": "12"}}, "must be a whole number"),
    ({"model": {"d_model": [12]}}, "must be a whole number"),
    ({"model": {"dropout": "nan"}}, "must be a finite number"),
    ({"model": {"positions": ["rotary"]}}, "positions must be one of"),
    ({"model": {"init": {}}}, "init must be one of"),
    ({"train": {"steps": {}}}, "must be a whole number"),
    ({"train": None, "finetune": LORA | {"model": 7}}, "model must be a text"),
]


@pytest.mark.slow
def test_values_of_another_type(copy: Path) -> None:
    """In a process of its own, where beartype does not check them first."""
    child = (
        "import json, sys; from tinygpt.finetuning.run import load_run;"
        "from tinygpt.errors import UserError\n"
        "for path in sys.argv[1:]:\n"
        "    try: load_run(path)\n"
        "    except UserError as error: print(error)"
    )
    folders = []
    for i, (changes, _) in enumerate(WRONG_TYPES):
        folders.append(shutil.copytree(copy, copy.parent / f"{i}"))
        edit(folders[-1] / "run.json", **changes)
    said = subprocess.run(
        [sys.executable, "-c", child, *folders],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = said.stdout.splitlines()
    assert len(lines) == len(WRONG_TYPES)
    for line, (_, words) in zip(lines, WRONG_TYPES, strict=True):
        assert words in line


def test_infinity_is_no_setting(copy: Path) -> None:
    edit(copy / "run.json", model={"dropout": float("inf")})
    with pytest.raises(UserError, match="Infinity is not a finite number"):
        load_run(copy)


def test_adapters_that_are_their_own_base(copy: Path, tmp_path: Path) -> None:
    edit(copy / "run.json", train=None, finetune=LORA | {"model": str(copy)})
    with pytest.raises(UserError, match="it would be its own base"):
        load_run(copy)
    other = shutil.copytree(copy, tmp_path / "other")
    edit(copy / "run.json", finetune={"model": str(other)})
    with pytest.raises(UserError, match="it would be its own base"):
        load_run(other)


def test_a_run_with_another_vocabulary(copy: Path, tmp_path: Path) -> None:
    text, _ = write_text(tmp_path)
    other = train_bpe(text.read_text(encoding="utf-8"), VOCAB_SIZE - 4)
    other.save(copy / "tokenizer.tiktoken")
    with pytest.raises(UserError, match="it was cut off or replaced"):
        load_run(copy)


@pytest.mark.parametrize(
    "sidecar",
    [
        "[]",
        "{",
        '{"name": "a", "pattern": "(", "special_tokens": {}}',
        '{"name": "a", "pattern": "\\\\S+", "special_tokens": {"<|end|>": Infinity}}',
        '{"name": "a", "pattern": "\\\\S+", "special_tokens": {"<|end|>": 1e30}}',
        '{"name": "a", "pattern": "\\\\S+", "special_tokens": [1]}',
    ],
)
def test_a_vocabulary_made_by_hand(sidecar: str, copy: Path) -> None:
    (copy / "tokenizer.json").write_text(sidecar, encoding="utf-8")
    with pytest.raises(UserError):
        load_run(copy)


@pytest.mark.parametrize("name", ["best.safetensors", "tokenizer.tiktoken"])
def test_a_run_that_lacks_a_file(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=rf"there is no file .*{name}"):
        load_run(copy)
    (copy / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} is a folder"):
        load_run(copy)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run in .*train one"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not a run folder: it has no run.json"):
        RunFolder(tmp_path).configs()
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UserError, match=r"cannot read .*symbolic links"):
        load_run(loop)


@pytest.mark.parametrize(
    "content",
    [b'{"step": 0}\n{"st', b"\xff\xfe\x00", b"[]", b'{"step": "0"}', b"[" * 99_999],
)
def test_a_log_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"log\.jsonl is not a log"):
        RunFolder(tmp_path).log({"step": 1})
    assert (tmp_path / "log.jsonl").read_bytes() == content
