"""run: parts fit, what is trained is kept, a run is resumed and never lost."""

import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import VOCAB_SIZE, assert_same_tensors, configs

from tinygpt.errors import UserError
from tinygpt.presets import PRESETS
from tinygpt.runtime.distributed import World
from tinygpt.text.dataset import Batches
from tinygpt.text.tokenizer import Tokenizer, get_tokenizer
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.report import EvalReport
from tinygpt.training.run import Run, draw_in, pretrain
from tinygpt.training.tensor_file import load_tensors, save_tensors


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that came to its end."""
    home = tmp_path_factory.mktemp("finished")
    for _ in pretrain(home / "run", *configs(home)).reports():
        pass
    return home / "run"


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "run")


def resumed(path: Path, **other: Any) -> Run:
    """The run in `path`, resumed with its own settings."""
    model, train = RunFolder(path).configs()
    return pretrain(path, model, replace(train, **other), resume=True)


def everything(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- Parts -------------------------------------------------------------------------


def test_the_parts_fit_together(tmp_path: Path) -> None:
    model, train = configs(tmp_path)
    run = pretrain(tmp_path / "run", model, train)
    assert run.model.config == replace(model, vocab_size=VOCAB_SIZE)
    batches = run.trainer.batches
    assert isinstance(batches, Batches)
    assert (batches.batch_size, batches.seed) == (train.batch_size, train.seed)
    again = pretrain(tmp_path / "run", model, train)
    assert_same_tensors(run.model.state_dict(), again.model.state_dict())
    other = pretrain(tmp_path / "run", model, replace(train, seed=2))
    assert not torch.equal(other.model.head.weight, run.model.head.weight)
    assert not (tmp_path / "run").exists()  # nothing is written before training
    assert run.summary() == (
        f"{run.path}: {run.model.n_parameters():,} parameters, {run.data}, 40 steps, "
        "cpu, float32"
    )


def test_a_tokenizer_may_be_given_itself(tmp_path: Path) -> None:
    model, train = configs(tmp_path, steps=2)
    own = Tokenizer.load(train.tokenizer)
    train = replace(train, tokenizer="handbook-4k")
    run = pretrain(tmp_path / "run", model, train, tokenizer=own)
    assert run.tokenizer is own
    list(run.reports())
    settings = RunFolder(tmp_path / "run").configs()[1]
    assert settings.tokenizer == own.name
    assert get_tokenizer(own) is own


def test_sizes_that_no_memory_holds_are_refused_at_once(tmp_path: Path) -> None:
    model, train = configs(tmp_path)
    for config in (replace(model, d_model=10**8), replace(model, n_layers=10**8)):
        with pytest.raises(UserError, match="GB of memory"):
            pretrain(tmp_path / "run", config, train)


def test_the_last_report_covers_the_whole_split(tmp_path: Path) -> None:
    run = pretrain(tmp_path / "run", *configs(tmp_path, steps=5, eval_interval=3))
    reports = []
    for report in run.trainer.run():
        reports.append(report)
        seen = run.data.evaluate(run.model, None if report.is_last else 5)
        assert report.validation == seen
    assert [report.step for report in reports] == [0, 3, 5]
    assert reports[0].validation.tokens == 5 * 8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "story", "pocket"])
def test_a_preset_starts_as_unsure_as_a_fair_die(name: str) -> None:
    """The first loss is ln(vocab_size) to within 0.15 nats; 4,096 tokens: 8.32."""
    preset = PRESETS[name]
    assert first_loss(name) == pytest.approx(
        math.log(preset.model.vocab_size), abs=0.15
    )


@pytest.mark.slow
def test_the_seed_preset_starts_as_unsure_as_a_fair_die(openai: object) -> None:
    """100,277 tokens: 11.52."""
    assert first_loss("seed") == pytest.approx(math.log(100_277), abs=0.15)


def first_loss(name: str) -> float:
    preset = PRESETS[name]
    train = replace(preset.train, device="cpu", dtype="float32", eval_windows=20)
    run = pretrain(Path("not written"), preset.model, train)
    look = next(run.trainer.run())
    assert look.training_loss == pytest.approx(look.validation.nats_per_token, abs=0.15)
    return look.training_loss


@pytest.mark.slow
def test_a_few_steps_of_the_default_recipe_learn(tmp_path: Path) -> None:
    preset = PRESETS["tiny"]
    model = replace(preset.model, d_model=48, n_layers=1)
    train = replace(preset.train, steps=8, batch_size=4, eval_windows=8, device="cpu")
    reports = list(pretrain(tmp_path / "run", model, train).reports())
    uniform = math.log(preset.model.vocab_size)
    assert reports[-1].step == 8
    assert reports[-1].validation.nats_per_token < uniform - 0.3


# --- What is written ---------------------------------------------------------------


def test_states_are_saved_a_checkpoint_interval_apart(tmp_path: Path) -> None:
    model, train = configs(tmp_path, steps=45, checkpoint_interval=15)
    run = pretrain(tmp_path / "run", model, train)
    saved = [
        (report.step, run.folder.load_last()[1]["step"]) for report in run.reports()
    ]
    assert saved == [(0, 0), (10, 0), (20, 20), (30, 20), (40, 40), (45, 45)]


def test_a_run_exists_once_it_can_be_resumed(tmp_path: Path) -> None:
    run = pretrain(tmp_path / "run", *configs(tmp_path))
    reports, seen = run.reports(), []
    save = run.folder.save_last

    def watched(*state: Any) -> None:
        seen.append(run.folder.exists)
        save(*state)

    run.folder.save_last = watched  # type: ignore[method-assign]
    next(reports)
    assert seen == [False]
    run.folder.require_resumable()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    run = pretrain(tmp_path / "file" / "run", *configs(tmp_path))
    with pytest.raises(UserError, match=r"cannot write to .*choose another folder"):
        next(run.reports())


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    class Second(World):
        """The other one of a pair that has nobody to talk to."""

        def _sum(self, value: float) -> float:
            return value

    run = pretrain(tmp_path / "run", *configs(tmp_path, steps=2))
    run.trainer.world = Second(rank=1)
    assert [report.step for report in run.reports()] == [0, 2]
    assert not (tmp_path / "run").exists()


# --- Two runs with one name --------------------------------------------------------


def test_the_second_of_two_runs_with_one_name_is_refused(tmp_path: Path) -> None:
    model, train = configs(tmp_path)
    first, second = (pretrain(tmp_path / "run", model, train) for _ in range(2))
    reports = first.reports()
    next(reports)
    with pytest.raises(UserError, match="another process is training the run"):
        next(second.reports())
    with pytest.raises(UserError, match="exists: continue it with --resume"):
        pretrain(tmp_path / "run", model, train)
    going_on = resumed(tmp_path / "run")
    with pytest.raises(UserError, match="another process is training the run"):
        next(going_on.reports())
    steps = [report.step for report in reports]
    assert steps == [10, 20, 30, 40]
    with pytest.raises(UserError, match="exists: continue it with --resume"):
        next(second.reports())  # the first one is done by now
    assert list(resumed(tmp_path / "run").reports()) == []


# --- Resuming ----------------------------------------------------------------------


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_resumed_run_ends_like_one_that_was_not_stopped(
    stop: int, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    reports = pretrain(path, *configs(tmp_path)).reports()
    for _ in range(stop + 1):
        next(reports)
    reports.close()  # type: ignore[attr-defined]
    assert not (path / "model-ckpt.pt").exists()
    (tmp_path / "small.tiktoken").unlink()  # the run brings its own vocabulary
    for _ in resumed(path).reports():
        pass
    for name in ("last.safetensors", "best.safetensors"):
        mine, theirs = load_tensors(path / name), load_tensors(finished / name)
        assert_same_tensors(mine[0], theirs[0])
    keys = ("step", "training_loss", "validation_loss", "bits_per_byte")
    logs = [RunFolder(p).read_log() for p in (path, finished)]
    mine, theirs = ([[line[k] for k in keys] for line in log] for log in logs)
    assert mine == theirs


def test_where_nothing_can_be_resumed_nothing_is_touched(copy: Path) -> None:
    model, train = RunFolder(copy).configs()
    (copy / "last.safetensors").unlink()
    before = everything(copy.parent)
    with pytest.raises(UserError, match=r"it has no last\.safetensors"):
        pretrain(copy, model, train, resume=True)
    with pytest.raises(UserError, match="there is no run in"):
        pretrain(copy.parent / "absent", model, train, resume=True)
    assert everything(copy.parent) == before
    assert not (copy.parent / "absent").exists()


def test_a_finished_run_that_is_resumed_restores_what_is_missing(copy: Path) -> None:
    (copy / "model-ckpt.pt").unlink()  # killed at the very last moment
    assert list(resumed(copy).reports()) == []
    assert (copy / "model-ckpt.pt").exists()


def test_best_weights_that_are_gone_are_judged_anew(copy: Path) -> None:
    (copy / "best.safetensors").unlink()
    steps = [report.step for report in resumed(copy, steps=60).reports()]
    assert steps[-1] == 60
    RunFolder(copy).load_model()


def test_a_run_may_go_on_longer_with_other_settings(copy: Path) -> None:
    started = RunFolder(copy).settings()["record"]["started"]
    reports = list(resumed(copy, steps=60, lr=0.001).reports())
    assert [report.step for report in reports] == [50, 60]
    assert RunFolder(copy).configs()[1].steps == 60
    assert RunFolder(copy).settings()["record"]["started"] == started


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": 24}, "leave d_model as it was"),
        ({"d_ff": 24, "bias": False}, "leave d_ff, bias as it was"),
        ({"data": "handbook"}, "leave data as"),
        ({"tokenizer": "gpt2"}, "leave tokenizer as"),
        ({"optimizer": "adamw"}, "leave optimizer as"),
    ],
)
def test_a_resumed_run_keeps_its_nature(
    changes: dict[str, object], words: str, copy: Path
) -> None:
    model, train = RunFolder(copy).configs()
    of_model = {n: v for n, v in changes.items() if hasattr(model, n)}
    of_train = {n: v for n, v in changes.items() if hasattr(train, n)}
    before = everything(copy)
    with pytest.raises(UserError, match=words):
        pretrain(
            copy, replace(model, **of_model), replace(train, **of_train), resume=True
        )
    assert everything(copy) == before


SPOILT: list[dict[str, Any]] = [
    {"step": "x"},
    {"step": None},
    {"step": float("inf")},
    {"step": [1]},
    {"best": {}},
    {"tally": [1]},
    {"tally": {"nats": 1, "more": 2}},
    {"optimizer": "adamw"},
    {"threads": "many"},
]


@pytest.mark.parametrize("change", SPOILT)
def test_a_state_made_by_hand(change: dict[str, Any], copy: Path) -> None:
    tensors, metadata = load_tensors(copy / "last.safetensors")
    save_tensors(copy / "last.safetensors", tensors, metadata | change)
    with pytest.raises(UserError):
        resumed(copy)
    save_tensors(copy / "last.safetensors", tensors, {})
    with pytest.raises(UserError):
        resumed(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"model.head.weight": torch.ones(2**20)},
        {"nonsense": torch.ones(1)},
        {"step.nonsense": torch.ones(1)},
        {"model.nonsense": torch.ones(1)},
    ],
)
def test_tensors_of_a_state_made_by_hand(change: dict[str, Any], copy: Path) -> None:
    tensors, metadata = load_tensors(copy / "last.safetensors")
    save_tensors(copy / "last.safetensors", tensors | change, metadata)
    with pytest.raises(UserError):
        resumed(copy)


def test_settings_stay_if_the_state_does_not_fit(copy: Path) -> None:
    (copy / "last.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match="is not a whole safetensors file"):
        resumed(copy, steps=60)
    assert RunFolder(copy).configs()[1].steps == 40


def test_torchrun_restarts_its_own_runs_only(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, train = RunFolder(copy).configs()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 1")
    list(resumed(copy, steps=50).reports())  # which notes the job
    train = replace(train, steps=60)
    with pytest.raises(UserError, match="exists"):
        pretrain(copy, model, train)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert [report.step for report in pretrain(copy, model, train).reports()] == [60]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job 2")
    with pytest.raises(UserError, match="exists"):
        pretrain(copy, model, train)


# --- TensorBoard -------------------------------------------------------------------


def some_reports() -> list[EvalReport]:
    facts = {"is_best": True, "is_extra": False, "is_last": False}
    rest = {"tokens_per_second": 9.0, "seconds": 1.0, "seconds_left": 2.0}
    seen = Evaluation(3.0, 20, 60.0, 60)
    return [
        EvalReport(step, 3.5 - step, seen, 3.0, **facts, **rest) for step in range(2)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_reports_are_drawn_for_tensorboard(tmp_path: Path) -> None:
    reports = some_reports()
    assert list(draw_in(tmp_path, iter(reports))) == reports
    (events,) = tmp_path.glob("events.out.tfevents.*")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drawn = EventAccumulator(str(events)).Reload()
    assert set(drawn.Tags()["scalars"]) == reports[0].record().keys() - {"step"}
    points = [(p.step, p.value) for p in drawn.Scalars("training_loss")]
    assert points == [(0, 3.5), (1, 2.5)]


def test_tensorboard_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        next(draw_in(tmp_path, iter(some_reports())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_needs_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write to"):
        next(draw_in(tmp_path / "file" / "run", iter(some_reports())))
