"""checkpoint: a run folder is whole at every moment, and no file in it is trusted."""

import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny_run import VOCAB_SIZE, assert_same_tensors, configs, write_text

from tinygpt.config import FinetuneConfig, GPTConfig
from tinygpt.errors import UserError
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training import checkpoint
from tinygpt.training.checkpoint import (
    RunFolder,
    fill,
    load_run,
    load_state_dict,
    load_tensors,
    save_tensors,
    trained,
)
from tinygpt.training.run import Pretraining, open_run, prepare, train_in

TENSORS = {"a.weight": torch.arange(15.0).view(3, 5), "b": torch.tensor(7)}
FILES = {
    "run.json",
    "small.tiktoken",
    "tokenizer.tiktoken",
    "best.safetensors",
    "last.safetensors",
    "log.jsonl",
    "model-ckpt.pt",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pretraining]:
    """A run that came to its end, and what ran."""
    home = tmp_path_factory.mktemp("finished")
    run = prepare(*configs(home))
    folder = RunFolder(home / "run")
    for _ in train_in(folder, run, resume=False):
        pass
    return folder.path, run


@pytest.fixture
def copy(finished: tuple[Path, Pretraining], tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(finished[0], tmp_path / "run")


# --- Whole or absent ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_a_full_disk_leaves_the_old_state(
    finished: tuple[Path, Pretraining],
    copy: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = (copy / name).read_bytes()

    def full(tensors: object, part: Path, header: object) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    folder, trainer = RunFolder(copy), finished[1].trainer
    save, what = {
        "last.safetensors": (folder.save_last, trainer.state()),
        "best.safetensors": (folder.save_best, (trained(trainer.model), {})),
    }[name]
    with pytest.raises(UserError, match=r"No space left on device.*or make room"):
        save(*what)
    assert (copy / name).read_bytes() == before
    assert not list(copy.glob(".*"))


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    run = prepare(*configs(tmp_path))
    folder = RunFolder(tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"cannot write to .*choose another folder"):
        next(train_in(folder, run, resume=False))


# --- What is in the folder ---------------------------------------------------------


def test_tensors_and_facts_come_back(tmp_path: Path) -> None:
    path, facts = tmp_path / "x.safetensors", {"step": 3, "best": float("inf")}
    save_tensors(path, TENSORS | {"turned": TENSORS["a.weight"].T}, facts)
    tensors, again = load_tensors(path)
    assert_same_tensors(tensors, TENSORS | {"turned": TENSORS["a.weight"].T})
    assert again == facts


def test_a_finished_run_holds_what_the_header_says(
    finished: tuple[Path, Pretraining],
) -> None:
    path, run = finished
    names = {p.name for p in path.iterdir()}
    assert FILES - {"small.tiktoken"} <= names
    assert names <= FILES | {"tokenizer.json"}
    assert RunFolder(path).configs() == (run.model.config, run.trainer.config)
    log = RunFolder(path).read_log()
    assert [line["step"] for line in log] == [0, 10, 20, 30, 40]
    assert [line["whole_split"] for line in log] == [False] * 4 + [True]

    tensors, facts = load_tensors(path / "best.safetensors")
    assert facts == log[facts["step"] // 10]
    plain = torch.load(path / "model-ckpt.pt", weights_only=True)
    model = GPT(run.model.config)
    model.load_state_dict(plain, strict=True)
    assert_same_tensors(dict(model.named_parameters()), tensors)
    assert_same_tensors(load_state_dict(path / "model-ckpt.pt"), plain)
    loaded, tokenizer, noted = load_run(path)
    assert_same_tensors(dict(loaded.named_parameters()), tensors)
    assert not loaded.training
    assert noted == facts
    assert tokenizer.vocab_size == VOCAB_SIZE
    # In the end the trained model itself holds the best weights.
    assert_same_tensors(dict(run.model.named_parameters()), tensors)


def test_a_new_start_clears_the_old_run(copy: Path, tmp_path: Path) -> None:
    model, train = configs(tmp_path)
    small = GPTConfig(**{**vars(model), "vocab_size": VOCAB_SIZE})
    tokenizer = Tokenizer.load(train.tokenizer)
    config = FinetuneConfig(lora=True, data=train.data)
    RunFolder(copy).start(small, config, tokenizer)
    names = {p.name for p in copy.iterdir()} - {"tokenizer.json"}
    assert names == {"run.json", "tokenizer.tiktoken"}
    assert RunFolder(copy).configs() == (small, config)


def test_lines_of_steps_done_again_are_replaced(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.read_log() == []
    for step, loss in [(0, 5.0), (10, 4.0), (20, 3.0), (10, 3.9)]:
        folder.log({"step": step, "loss": loss})
    assert folder.read_log() == [{"step": 0, "loss": 5.0}, {"step": 10, "loss": 3.9}]


def test_states_are_saved_at_looks_a_checkpoint_interval_apart(tmp_path: Path) -> None:
    run = prepare(*configs(tmp_path, steps=45, checkpoint_interval=15))
    folder = RunFolder(tmp_path / "run")
    saved = [
        (look.step, folder.load_last()[1]["step"])
        for look in train_in(folder, run, resume=False)
    ]
    assert saved == [(0, 0), (10, 0), (20, 20), (30, 20), (40, 40), (45, 45)]


# --- Going on ----------------------------------------------------------------------


def go_on(path: Path, home: Path, **other: Any) -> Iterator[Any]:
    """Resume the run in `path` with its own settings."""
    model, train = RunFolder(path).configs()
    train = replace(train, **other)
    folder, tokenizer = open_run(path, model, train, resume=True)
    return train_in(folder, prepare(model, train, None, tokenizer), resume=True)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_run_that_goes_on_ends_as_one_that_was_not_stopped(
    stop: int, finished: tuple[Path, Pretraining], tmp_path: Path
) -> None:
    path = tmp_path / "run"
    looks = train_in(RunFolder(path), prepare(*configs(tmp_path)), resume=True)
    for _ in range(stop + 1):
        next(looks)
    looks.close()
    assert not (path / "model-ckpt.pt").exists()
    (tmp_path / "small.tiktoken").unlink()  # the run brings its own vocabulary
    for _ in go_on(path, tmp_path):
        pass
    for name in ("last.safetensors", "best.safetensors"):
        mine, theirs = load_tensors(path / name), load_tensors(finished[0] / name)
        assert_same_tensors(mine[0], theirs[0])
    keys = ("step", "training_loss", "validation_loss", "bits_per_byte")
    logs = [RunFolder(p).read_log() for p in (path, finished[0])]
    mine, theirs = ([[line[k] for k in keys] for line in log] for log in logs)
    assert mine == theirs


def test_a_finished_run_that_goes_on_mends_what_is_missing(
    copy: Path, tmp_path: Path
) -> None:
    (copy / "model-ckpt.pt").unlink()  # killed at the very last moment
    assert list(go_on(copy, tmp_path)) == []
    assert (copy / "model-ckpt.pt").exists()


def test_a_run_may_go_on_longer_with_other_settings(copy: Path, tmp_path: Path) -> None:
    looks = list(go_on(copy, tmp_path, steps=60, lr=0.001))
    assert [look.step for look in looks] == [50, 60]
    assert RunFolder(copy).configs()[1].steps == 60


def test_settings_stay_if_the_state_does_not_fit(copy: Path, tmp_path: Path) -> None:
    (copy / "last.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        next(go_on(copy, tmp_path, steps=60))
    assert RunFolder(copy).configs()[1].steps == 40


# --- Files that cannot be used -----------------------------------------------------


class Evil:
    """What a harmful checkpoint holds: loading it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        """Told to the one who unpickles."""
        return (Path.touch, (self.path,))


def saved(what: object, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(what, stream, **how)
    return stream.getvalue()


GOOD = saved(TENSORS)
OLD = saved(TENSORS, _use_new_zipfile_serialization=False)
FOREIGN = {
    "empty": b"",
    "text": b"This is a text.\n",
    "cut early": GOOD[:40],
    "cut in the middle": GOOD[: len(GOOD) // 2],
    "cut late": GOOD[:-1],
    "old format, cut": OLD[: len(OLD) // 2],
    "old format, cut late": OLD[:-3],
    "a number": saved(7),
    "no names": saved([torch.ones(2)]),
    "no tensors": saved({"a": "text"}),
    "a plain pickle": pickle.dumps({"a": 1}),
    "nearly a pickle": b"\x80\x02R\xd5\x06",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_state_dict_that_is_none(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model-ckpt.pt"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(
        UserError, match=r"model-ckpt\.pt (is not a|holds no) state dict"
    ):
        load_state_dict(path)


@pytest.mark.parametrize("new", [True, False])
def test_code_in_a_checkpoint_is_never_run(new: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "model-ckpt.pt", tmp_path / "was-run"
    harmful = {"a": torch.ones(2), "b": Evil(mark)}
    path.write_bytes(saved(harmful, _use_new_zipfile_serialization=new))
    for load in (load_state_dict, load_tensors):
        with pytest.raises(UserError, match="come from another program"):
            load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False)  # it would have been
    assert mark.exists()


@pytest.mark.parametrize("load", [load_state_dict, load_tensors])
def test_a_file_that_is_missing(load: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no file .*gone"):
        load(tmp_path / "gone")


def test_safetensors_that_are_none(tmp_path: Path) -> None:
    path, header = tmp_path / "x.safetensors", {"facts": "[1, 2"}
    save_tensors(path, TENSORS, {})
    whole = path.read_bytes()
    contents = [b"", b"text", GOOD, *(whole[:n] for n in (4, 30, 90, len(whole) - 1))]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            load_tensors(path)
    for facts in ("[1, 2", "[1, 2]", "7"):
        save_file(TENSORS, path, header | {"facts": facts})
        with pytest.raises(UserError, match="is not a whole safetensors file"):
            load_tensors(path)
    save_file(TENSORS, path)  # another program's: tensors without facts
    assert load_tensors(path)[1] == {}
    with pytest.raises(UserError):
        load_tensors(tmp_path)  # a folder


def small_gpt(**other: Any) -> GPT:
    sizes = {"vocab_size": 13, "context_length": 5, "d_model": 8, "n_heads": 2}
    return GPT(GPTConfig(**sizes, n_layers=1, **other))


def test_a_tied_weight_may_stand_under_either_name() -> None:
    model, other = small_gpt(), small_gpt()
    tensors = {n: p.detach().clone() for n, p in model.named_parameters()}
    moved = tensors.pop("token_embedding.weight")
    fill(other, tensors | {"head.weight": moved}, "the file")
    assert_same_tensors(other.state_dict(), model.state_dict())
    fill(other, dict(model.state_dict()), "the file")  # both
    assert other.head.weight is other.token_embedding.weight


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.pop("norm.bias"),
            r"the file lacks tensor norm\.bias \(1 in all\)",
        ),
        (lambda t: t.clear(), r"lacks tensor token_embedding.weight \(1\d in all\)"),
        (lambda t: t.update(more=torch.ones(2)), "has the unknown tensor more"),
        (lambda t: t.update({"norm.bias": torch.ones(3)}), r"as \[3\], but .* \[8\]"),
    ],
)
def test_tensors_that_do_not_fit_change_nothing(
    change: Callable[[dict[str, Any]], object], words: str
) -> None:
    model, tensors = small_gpt(), dict(small_gpt().named_parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    change(tensors)
    with pytest.raises(UserError, match=words):
        fill(model, tensors, "the file")
    assert_same_tensors(before, dict(model.named_parameters()))


def edit(path: Path, **changes: Any) -> None:
    """Change settings in a run.json; None removes one."""
    settings = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in settings.items() if value is not None}
    path.write_text(json.dumps(kept), encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is not a run's description"),
        ('{"format": "tinygpt ru', "is not a run's description"),
        ("[]", "is not a run's description"),
        ("{}", "is not a run's description"),
        ('{"format": "another 9"}', "has another format than ours"),
    ],
)
def test_a_description_that_is_none(content: str, words: str, copy: Path) -> None:
    (copy / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load_run(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "lacks settings"),
        ({"train": 7}, "lacks settings"),
        ({"model": {"d_model": 8, "colour": "red"}}, "unknown GPTConfig settings"),
        ({"model": {"d_model": 8, "n_heads": 3}}, "not divisible"),
        ({"model": {"d_model": 16, "n_heads": 2}}, "best.safetensors"),
        ({"entries": 300}, "has 283 entries instead of 300"),
    ],
)
def test_settings_that_do_not_fit(
    changes: dict[str, Any], words: str, copy: Path
) -> None:
    edit(copy / "run.json", **changes)
    with pytest.raises(UserError, match=words):
        load_run(copy)


def test_a_run_with_another_vocabulary(copy: Path, tmp_path: Path) -> None:
    text, _ = write_text(tmp_path)
    other = train_bpe(text.read_text(encoding="utf-8"), VOCAB_SIZE - 4)
    other.save(copy / "tokenizer.tiktoken")
    with pytest.raises(UserError, match="it was cut off or replaced"):
        load_run(copy)


@pytest.mark.parametrize("name", ["best.safetensors", "tokenizer.tiktoken"])
def test_a_run_that_lacks_a_file(name: str, copy: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=name):
        load_run(copy)


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no run in .*train one"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not a run folder: no run.json"):
        RunFolder(tmp_path).configs()


@pytest.mark.parametrize("content", [b'{"step": 0}\n{"st', b"\xff\xfe\x00"])
def test_a_log_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"log\.jsonl is not a log .*: remove it"):
        RunFolder(tmp_path).log({"step": 1})
