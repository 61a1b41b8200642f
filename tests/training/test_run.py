"""pretrain: text, tokenizer, model and trainer fit, and the last look sees it all."""

import math
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import VOCAB_SIZE, assert_same_tensors, configs, write_text

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.runtime.distributed import World
from tinygpt.text.dataset import Batches
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training import run as pretrain
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.evaluation import Evaluation, baselines
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.run import Corpus, draw_in, open_run, prepare, train_in
from tinygpt.training.trainer import EvalReport


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    text, vocabulary = write_text(tmp_path_factory.mktemp("corpus"))
    return Corpus(str(text), Tokenizer.load(vocabulary), context_length=8)


def test_a_corpus_is_split_and_comes_back(corpus: Corpus) -> None:
    whole = len(corpus.train) + len(corpus.val)
    assert len(corpus.train) == int(0.9 * whole)
    text = corpus.train_text + corpus.tokenizer.decode(corpus.val.tolist())
    assert corpus.tokenizer.encode(text) == [*corpus.train, *corpus.val]
    assert corpus.byte_lengths.shape == (VOCAB_SIZE,)
    assert corpus.byte_lengths[corpus.train].sum() == len(corpus.train_text.encode())


def test_of_a_big_text_only_the_end_is_known(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the baselines and the report on memorisation, which would take for ever."""
    monkeypatch.setattr(pretrain, "MOST_KNOWN", 50)
    small = copy(corpus)
    small.__dict__.pop("known", None)
    small.__dict__.pop("train_text", None)
    assert small.known.tolist() == corpus.train[-50:].tolist()
    assert corpus.train_text.endswith(small.train_text)


def test_the_whole_split_is_evaluated_token_by_token(corpus: Corpus) -> None:
    """Against a plain loop over single windows; every id but the first, once; 1e-5."""
    torch.manual_seed(4)
    model = GPT(replace(configs_of(corpus), dropout=0.0)).eval()
    ids, total, count = corpus.val, 0.0, 0
    for start in range(0, len(ids) - 1, 8):
        x, y = ids[start : start + 8], ids[start + 1 : start + 9]
        logits = model(x[: len(y)].unsqueeze(0))[0]
        total -= logits.log_softmax(-1).gather(1, y.unsqueeze(1)).sum().item()
        count += len(y)
    result = corpus.evaluate(model, batch_size=3)
    assert result.tokens == count == len(ids) - 1
    assert result.nats_per_token == pytest.approx(total / count, abs=1e-5)
    text = corpus.tokenizer.decode_bytes(ids[1:].tolist())
    assert result.bytes == len(text)
    assert corpus.evaluate(model, windows=10**6) == corpus.evaluate(model)


def configs_of(corpus: Corpus) -> GPTConfig:
    """A small model for the corpus."""
    small = replace(PRESETS["tiny"].model, d_model=12, n_heads=2, n_layers=1)
    return replace(small, context_length=8, vocab_size=corpus.tokenizer.vocab_size)


def test_a_sample_is_spread_over_the_split_and_the_same_each_time(
    corpus: Corpus,
) -> None:
    model = GPT(configs_of(corpus)).eval()
    result = corpus.evaluate(model, windows=3, batch_size=2)
    assert result == corpus.evaluate(model, windows=3, batch_size=2)
    assert result.tokens == 3 * 8
    assert not result.whole_split
    assert corpus.evaluate(model).whole_split
    middle = (len(corpus.val) - 9) // 2
    starts = [0, middle, len(corpus.val) - 9]
    x = torch.stack([corpus.val[s : s + 8] for s in starts])
    y = torch.stack([corpus.val[s + 1 : s + 9] for s in starts])
    wanted = NextTokenLoss(model)(x, y).item()
    assert result.nats_per_token == pytest.approx(wanted, abs=1e-5)


def test_baselines_know_the_training_part_and_guess_the_validation_part(
    corpus: Corpus,
) -> None:
    bits, t = corpus.baselines(), corpus.tokenizer
    assert bits == baselines(corpus.train, corpus.val, t.vocab_size, t.decode_bytes)
    # Nine words, drawn alike: every guess beats that of a fair die.
    assert all(bits[name] < bits["uniform"] for name in bits.keys() - {"uniform"})
    per_byte = math.log2(VOCAB_SIZE) * len(corpus.val)
    size = len(corpus.tokenizer.decode_bytes(corpus.val.tolist()))
    assert bits["uniform"] == pytest.approx(per_byte / size)


def test_the_parts_fit_together(tmp_path: Path) -> None:
    model, train = configs(tmp_path)
    run = prepare(model, train)
    assert run.model.config == replace(model, vocab_size=VOCAB_SIZE)
    batches = run.trainer.batches
    assert isinstance(batches, Batches)
    assert (batches.batch_size, batches.seed) == (train.batch_size, train.seed)
    again = prepare(model, train)
    assert_same_tensors(run.model.state_dict(), again.model.state_dict())
    other = prepare(model, replace(train, seed=2))
    assert not torch.equal(other.model.head.weight, run.model.head.weight)


def test_the_final_look_covers_the_whole_split(tmp_path: Path) -> None:
    run = prepare(*configs(tmp_path, steps=5, eval_interval=3))
    looks = []
    for look in run.trainer.run():
        looks.append(look)
        seen = run.corpus.evaluate(run.model, None if look.is_last else 5)
        assert look.validation == seen
    assert [look.step for look in looks] == [0, 3, 5]
    assert looks[-1].validation.tokens == len(run.corpus.val) - 1
    assert looks[0].validation.tokens == 5 * 8


@pytest.mark.parametrize("name", ["tiny", "pocket"])
def test_a_preset_starts_as_unsure_as_a_fair_die(name: str) -> None:
    """The first loss is ln(vocab_size) to within 0.15 nats; 4,096 tokens: 8.32."""
    preset = PRESETS[name]
    assert first_loss(name) == pytest.approx(
        math.log(preset.model.vocab_size), abs=0.15
    )


def test_the_seed_preset_starts_as_unsure_as_a_fair_die(openai: object) -> None:
    """100,277 tokens: 11.52."""
    assert first_loss("seed") == pytest.approx(math.log(100_277), abs=0.15)


def first_loss(name: str) -> float:
    preset = PRESETS[name]
    train = replace(preset.train, device="cpu", dtype="float32", eval_windows=20)
    run = prepare(preset.model, train)
    look = next(run.trainer.run())
    assert look.training_loss == pytest.approx(look.validation.nats_per_token, abs=0.15)
    return look.training_loss


def test_a_few_steps_of_the_default_recipe_learn(tmp_path: Path) -> None:
    preset = PRESETS["tiny"]
    model = replace(preset.model, d_model=48, n_layers=1)
    train = replace(preset.train, steps=8, batch_size=4, eval_windows=8, device="cpu")
    looks = list(train_in(RunFolder(tmp_path / "run"), prepare(model, train), False))
    uniform = math.log(preset.model.vocab_size)
    assert looks[-1].step == 8
    assert looks[-1].validation.nats_per_token < uniform - 0.3


# --- Runs --------------------------------------------------------------------------


def test_a_run_is_opened_once_and_then_only_to_go_on(tmp_path: Path) -> None:
    path, (model, train) = tmp_path / "run", configs(tmp_path, steps=2)
    folder, tokenizer = open_run(path, model, train, resume=False)
    assert tokenizer is None
    assert open_run(path, model, train, resume=True)[1] is None  # nothing there yet
    list(train_in(folder, prepare(model, train), resume=False))
    model, train = folder.configs()
    with pytest.raises(UserError, match=r"exists: go on with it by --resume"):
        open_run(path, model, train, resume=False)
    assert open_run(path, model, replace(train, steps=9, lr=0.5), resume=True)[1]


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
def test_a_run_that_goes_on_keeps_its_nature(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    model, train = configs(tmp_path)
    run = prepare(model, train)
    RunFolder(tmp_path / "run").start(run.model.config, train, run.corpus.tokenizer)
    of_model = {n: v for n, v in changes.items() if hasattr(model, n)}
    of_train = {n: v for n, v in changes.items() if hasattr(train, n)}
    with pytest.raises(UserError, match=words):
        open_run(
            tmp_path / "run",
            replace(run.model.config, **of_model),
            replace(train, **of_train),
            resume=True,
        )


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    class Second(World):
        """The other one of a pair that has nobody to talk to."""

        def _sum(self, value: float) -> float:
            return value

    run = prepare(*configs(tmp_path, steps=2))
    run.trainer.world = Second(rank=1)
    looks = list(train_in(RunFolder(tmp_path / "run"), run, resume=False))
    assert [look.step for look in looks] == [0, 2]
    assert not (tmp_path / "run").exists()


# --- TensorBoard -------------------------------------------------------------------


def some_looks() -> list[EvalReport]:
    facts = {"is_best": True, "is_extra": False, "is_last": False}
    rest = {"tokens_per_second": 9.0, "seconds": 1.0, "seconds_left": 2.0}
    seen = Evaluation(3.0, 20, 60.0, 60)
    return [
        EvalReport(step, 3.5 - step, seen, 3.0, **facts, **rest) for step in range(2)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_looks_are_drawn_for_tensorboard(tmp_path: Path) -> None:
    looks = some_looks()
    assert list(draw_in(tmp_path, iter(looks))) == looks
    (events,) = tmp_path.glob("events.out.tfevents.*")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    drawn = EventAccumulator(str(events)).Reload()
    assert set(drawn.Tags()["scalars"]) == looks[0].record().keys() - {"step"}
    points = [(p.step, p.value) for p in drawn.Scalars("training_loss")]
    assert points == [(0, 3.5), (1, 2.5)]


def test_tensorboard_may_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        next(draw_in(tmp_path, iter(some_looks())))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_needs_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write to"):
        next(draw_in(tmp_path / "file" / "run", iter(some_looks())))
