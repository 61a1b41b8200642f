"""trainer: its steps are those of a plain loop, and a stopped run goes on exactly."""

import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import ROOT
from tiny_run import assert_same_tensors
from torch import Tensor, nn

from tinygpt.config import IGNORE_INDEX, TrainConfig
from tinygpt.errors import UserError
from tinygpt.text.dataset import Batches
from tinygpt.training import trainer as trainer_module
from tinygpt.training.evaluation import Evaluation, evaluate
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.report import EvalReport
from tinygpt.training.trainer import Trainer

VOCAB_SIZE, CONTEXT, WIDTH = 11, 5, 6
CONFIG = TrainConfig(
    steps=12, batch_size=4, eval_interval=4, lr=0.01, device="cpu", dtype="float32"
)


def tiny_model(dropout: float = 0.0) -> nn.Module:
    """Any module will do: the trainer knows no GPT."""
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Embedding(VOCAB_SIZE, WIDTH),
        nn.Dropout(dropout),
        nn.Linear(WIDTH, 3 * WIDTH),
        nn.LayerNorm(3 * WIDTH),
        nn.ReLU(),
        nn.Linear(3 * WIDTH, VOCAB_SIZE),
    )


def batches(batch_size: int = 4) -> Batches:
    torch.manual_seed(6)
    return Batches(torch.randint(VOCAB_SIZE, (150,)), CONTEXT, batch_size, seed=7)


def saw(loss: float, whole_split: bool = False) -> Evaluation:
    """An evaluation that showed this loss."""
    return Evaluation(loss, 20, 20 * loss, 60, whole_split)


def first_batch_loss(loss: nn.Module, whole: bool) -> Evaluation:
    """An evaluation that depends on the weights."""
    loss.eval()
    with torch.no_grad():
        return saw(loss(*batches().at(99)).item(), whole)


def make(
    config: TrainConfig = CONFIG, model: nn.Module | None = None, **other: Any
) -> Trainer:
    parts: dict[str, Any] = {"batches": batches(), "evaluate": first_batch_loss}
    return Trainer(model or tiny_model(), config=config, **(parts | other))


def says(losses: Iterator[float]) -> Callable[[nn.Module, bool], Evaluation]:
    """An evaluation that returns these losses, one after the other."""
    return lambda loss, whole: saw(next(losses), whole)


# --- The steps ---------------------------------------------------------------------


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_training_equals_a_plain_loop(final: float) -> None:
    """AdamW with decay on matrices and CosineAnnealingLR, both PyTorch's; 1e-6."""
    config = replace(
        CONFIG, schedule="cosine", final_lr_fraction=final, weight_decay=0.3
    )
    trainer = make(config)
    reports = list(trainer.run())

    model = tiny_model()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.3},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=0.01,
        betas=(config.beta1, config.beta2),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, T_max=12, eta_min=0.01 * final
    )
    losses = []
    for step in range(12):
        loss = NextTokenLoss(model)(*batches().at(step))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for mine, plain in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-6, rtol=1e-5)
    seen = [report.training_loss for report in reports[1:]]
    wanted = [sum(losses[i : i + 4]) / 4 for i in (0, 4, 8)]
    assert seen == pytest.approx(wanted, abs=1e-6)
    assert reports[0].training_loss == pytest.approx(losses[0], abs=1e-6)


def test_the_learning_rate_follows_warm_up_and_decay() -> None:
    """All peaks are scaled alike: 1/3, 2/3, 1, then down a line to a tenth."""
    config = replace(
        CONFIG,
        optimizer="muon",
        warmup_steps=3,
        schedule="linear",
        final_lr_fraction=0.1,
        muon_lr=0.5,
    )
    trainer, seen = make(config), []
    for optimizer in trainer.optimizers:
        optimizer.register_step_pre_hook(
            lambda o, *_: seen.append(o.param_groups[0]["lr"])
        )
    list(trainer.run())
    factors = [1 / 3, 2 / 3, 1.0] + [1 - 0.9 * i / 9 for i in range(9)]
    factors[3] = 1.0
    assert seen[::2] == pytest.approx([0.01 * f for f in factors])
    assert seen[1::2] == pytest.approx([0.5 * f for f in factors])


def test_accumulation_equals_the_bigger_batch() -> None:
    """Two rounds of 3 windows step as one of 6 does, to rounding (1e-5)."""
    two = make(replace(CONFIG, grad_accumulation=2), batches=batches(3))
    one = make(CONFIG, batches=batches(6))
    for mine, theirs in zip(two.run(), one.run(), strict=True):
        if mine.step:  # at step 0 each reports at its own first batch
            assert mine.training_loss == pytest.approx(theirs.training_loss, abs=1e-5)
    for mine, theirs in zip(
        two.model.parameters(), one.model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_gradients_are_clipped_before_the_step(clip: float) -> None:
    trainer, norms = make(replace(CONFIG, grad_clip=clip)), []

    def measure(*_: object) -> None:
        parts = [
            p.grad.norm() for p in trainer.model.parameters() if p.grad is not None
        ]
        norms.append(torch.stack(parts).norm().item())

    trainer.optimizers[0].register_step_pre_hook(measure)
    list(trainer.run())
    assert len(norms) == 12
    if clip:
        assert norms == pytest.approx([clip] * 12, rel=1e-4)
    else:
        assert min(norms) > 0.05


def test_bfloat16_is_used_in_the_forward_pass_and_nowhere_else() -> None:
    seen: set[tuple[bool, torch.dtype]] = set()
    trainer = make(replace(CONFIG, dtype="bfloat16", optimizer="muon"))
    trainer.model[2].register_forward_hook(
        lambda module, _, out: seen.add((module.training, out.dtype))
    )
    reports = list(trainer.run())
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert reports[-1].training_loss < reports[0].training_loss


# In a process of its own: the compiler cannot see through this one's type checks. The
# backend runs the graph that torch.compile captured, and counts.
COMPILED = """
import functools, json
import torch
from torch import nn
from tinygpt.config import GPTConfig, TrainConfig
from tinygpt.model.gpt import GPT
from tinygpt.text.dataset import Batches
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.trainer import Trainer

graphs, calls = [], []

def counting(graph, inputs):
    graphs.append(graph)
    def run(*args):
        calls.append(len(graphs))
        return graph(*args)
    return run

torch.compile = functools.partial(torch.compile, backend=counting)
runs = []
for compile in (True, False):
    torch.manual_seed(5)
    model = GPT(GPTConfig(11, 5, d_model=8, n_heads=2, n_layers=1, logit_softcap=9.0))
    torch.manual_seed(6)
    batches = Batches(torch.randint(11, (150,)), 5, 4, seed=7)
    config = TrainConfig(steps=6, device="cpu", dtype="float32", compile=compile)
    trainer = Trainer(model, batches, lambda *_: Evaluation(3.0, 2, 6.0, 3), config)
    losses = [report.training_loss for report in trainer.run()]
    runs.append((losses, [p.detach() for p in model.parameters()]))
far = max((a - b).abs().max().item() for a, b in zip(runs[0][1], runs[1][1]))
print(json.dumps([calls, [losses for losses, _ in runs], far]))
"""


@pytest.mark.slow
def test_the_compiled_loss_takes_the_steps() -> None:
    """One graph, no break in it, is used in every step, and gives the same weights."""
    ended = subprocess.run(
        [sys.executable, "-c", COMPILED],
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    calls, (compiled, plain), far = json.loads(ended.stdout)
    assert calls == [1] * 6
    assert compiled == pytest.approx(plain, abs=1e-5)
    assert far < 1e-4


def test_chance_is_a_function_of_the_step_alone() -> None:
    """What others draw in between does not change the run."""
    quiet = make(model=tiny_model(dropout=0.4))
    list(quiet.run())
    noisy = make(model=tiny_model(dropout=0.4))
    for _ in noisy.run():
        torch.rand(17)
    assert_same_tensors(quiet.model.state_dict(), noisy.model.state_dict())


def test_the_average_of_the_steps_is_what_reports_see_and_the_run_leaves() -> None:
    plain, weights = make(), list[dict[str, Tensor]]()
    for report in make(replace(CONFIG, eval_interval=1), model=plain.model).run():
        if report.step:
            weights.append({n: t.clone() for n, t in plain.model.state_dict().items()})
    mean = weights[0]
    for step, now in enumerate(weights[1:], start=2):
        share = min(1.0, 1 / (0.25 * step))
        mean = {name: t.lerp(now[name], share) for name, t in mean.items()}
    averaged, seen = make(replace(CONFIG, average_fraction=0.25)), {}
    for _ in averaged.run():
        seen = {n: t.clone() for n, t in averaged.model.state_dict().items()}
    assert_same_tensors(averaged.model.state_dict(), seen)
    for name, t in mean.items():
        torch.testing.assert_close(seen[name], t)
    own = averaged.state()[0]  # what a run goes on from are the weights themselves
    assert_same_tensors(
        {name: own[f"model.{name}"] for name in seen}, plain.model.state_dict()
    )


# --- The reports ------------------------------------------------------------------


def test_a_report_is_worded_like_the_demo() -> None:
    report = EvalReport(
        step=0,
        training_loss=8.3451,
        validation=Evaluation(8.3428, 1000, 8342.8, 4000, whole_split=False),
        selection_loss=8.3428,
        is_best=True,
        is_extra=False,
        is_last=False,
        tokens_per_second=12345.6,
        seconds=30.0,
        seconds_left=125.4,
    )
    assert str(report) == (
        "Step: 0 Training Loss: 8.345 Validation Loss: 8.343 | 3.009 bits per byte | "
        "12,346 tokens/s | 2:05 left"
    )
    assert report.record() == {
        "step": 0,
        "training_loss": 8.3451,
        "validation_loss": 8.3428,
        "bits_per_byte": pytest.approx(8.3428 / 4 / math.log(2)),
        "perplexity": pytest.approx(math.exp(8.3428)),
        "whole_split": False,
        "selection_loss": 8.3428,
        "tokens_per_second": 12345.6,
        "seconds": 30.0,
    }


def test_reports_come_at_the_interval_and_at_the_end() -> None:
    asked = []

    def evaluate(loss: nn.Module, whole: bool) -> Evaluation:
        asked.append(whole)
        return saw(2.0 if whole else 3.0, whole)

    reports = list(make(replace(CONFIG, steps=10), evaluate=evaluate).run())
    assert [report.step for report in reports] == [0, 4, 8, 10]
    assert [report.is_last for report in reports] == [False, False, False, True]
    assert [report.validation.whole_split for report in reports] == [
        False,
        False,
        False,
        True,
    ]
    assert asked == [False] * 4 + [True]
    assert [report.is_best for report in reports] == [True, False, False, False]
    assert [report.validation.nats_per_token for report in reports] == [
        3.0,
        3.0,
        3.0,
        2.0,
    ]
    assert [report.selection_loss for report in reports] == [3.0] * 4
    assert reports[-1].seconds_left == 0 < reports[-1].seconds
    assert reports[0].tokens_per_second == 0 < reports[1].tokens_per_second


@pytest.mark.parametrize(("last", "best"), [(2.9, True), (3.1, False)])
def test_the_last_report_is_best_by_the_same_sample_as_the_others(
    last: float, best: bool
) -> None:
    """The whole split is harder here; that says nothing about which weights win."""
    samples = iter([5.0, 4.0, 3.0, last])

    def evaluate(loss: nn.Module, whole: bool) -> Evaluation:
        return saw(9.0, True) if whole else saw(next(samples))

    trainer = make(evaluate=evaluate)
    *_, end = trainer.run()
    assert (end.is_best, end.selection_loss) == (best, last)
    assert (end.validation.nats_per_token, end.record()["whole_split"]) == (9.0, True)
    assert trainer.best == min(last, 3.0)


def test_a_sample_that_is_the_whole_split_says_so_and_is_not_repeated() -> None:
    asked = []

    def evaluate(loss: nn.Module, whole: bool) -> Evaluation:
        asked.append(whole)
        return saw(3.0, whole_split=True)

    reports = list(make(evaluate=evaluate).run())
    assert asked == [False] * 4
    assert all(report.record()["whole_split"] for report in reports)


def test_patience_ends_the_run() -> None:
    losses = [5.0, 4.0, 4.5, 3.0, 3.5, 3.0, 2.0]
    config = replace(CONFIG, steps=40, patience=2)
    trainer = make(config, evaluate=says(iter(losses)))
    reports = list(trainer.run())
    assert [report.step for report in reports] == [0, 4, 8, 12, 16, 20]
    assert [report.is_best for report in reports] == [
        True,
        True,
        False,
        True,
        False,
        False,
    ]
    assert reports[-1].is_last
    assert reports[-1].validation.whole_split
    assert trainer.best == 3.0
    assert list(trainer.run()) == []  # what is over stays over


class Clock:
    """A clock that moves half a second whenever it is read, and more if told to."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.5
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(trainer_module.time, "perf_counter", clock)
    return clock


def test_minutes_follow_the_clock(clock: Clock) -> None:
    """A step takes half a second here, so 0.3 minutes end after 18 s, warm-up and all.

    The warm-up of 20 of 100 steps becomes 20 % of the time.
    """
    config = replace(
        CONFIG, steps=100, minutes=0.3, warmup_steps=20, schedule="linear", lr=1.0
    )
    trainer, rates, before = make(config), [], []

    def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
        rates.append(optimizer.param_groups[0]["lr"])
        before.append(trainer.seconds)

    trainer.optimizers[0].register_step_pre_hook(note)
    reports = list(trainer.run())
    assert before[-1] < 18 <= trainer.seconds < 20
    assert reports[-1].is_last
    assert reports[-1].step == len(rates)
    warmup = [(100 * t / 18 + 1) / 20 for t in before if t < 0.2 * 18]
    decay = [1 - (t - 3.6) / (18 - 3.6) for t in before if t >= 0.2 * 18]
    assert rates == pytest.approx([min(1.0, rate) for rate in warmup] + decay)
    assert len(warmup) > 3 < len(decay)
    assert reports[1].seconds_left == pytest.approx(18 - reports[1].seconds)


@pytest.mark.parametrize("minutes", [None, 0.3])
def test_time_that_the_caller_takes_is_not_training_time(
    clock: Clock, minutes: float | None
) -> None:
    """An hour over every report changes neither the seconds nor the steps."""
    runs = []
    for pause in (0.0, 3600.0):
        trainer = make(replace(CONFIG, minutes=minutes))
        for _ in trainer.run():
            clock.now += pause
        runs.append((trainer.step, trainer.seconds))
    assert runs[0] == runs[1]
    assert runs[0][0] > 5


def test_a_run_by_the_clock_ends_with_a_last_report(clock: Clock) -> None:
    """Also if its time runs out during an evaluation."""

    def evaluate(loss: nn.Module, whole: bool) -> Evaluation:
        clock.now += 7.0
        return saw(3.0, whole)

    reports = list(make(replace(CONFIG, minutes=0.3), evaluate=evaluate).run())
    assert [report.is_last for report in reports] == [False] * (len(reports) - 1) + [
        True
    ]
    assert reports[-1].validation.whole_split
    assert reports[-1].seconds_left == 0


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value: float) -> None:
    class Poisoned(NextTokenLoss):
        def forward(self, *batch: Tensor, reduction: str = "mean") -> Tensor:
            loss = super().forward(*batch, reduction=reduction)
            return loss * value if self.training and trainer.step == 6 else loss

    trainer = make(loss=Poisoned)
    with pytest.raises(UserError, match=r"training loss is \w+ at step 6: try a lower"):
        list(trainer.run())
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_validation_loss_that_is_not_finite_stops_the_run() -> None:
    trainer = make(evaluate=says(iter([2.0, math.nan])))
    with pytest.raises(UserError, match="validation loss is nan at step 4"):
        list(trainer.run())


# --- Going on ----------------------------------------------------------------------


def with_everything() -> Trainer:
    """Muon, AdamW, dropout, a batch norm's buffers, a tied weight, a frozen one."""
    config = replace(
        CONFIG,
        optimizer="muon",
        weight_decay=0.1,
        warmup_steps=2,
        average_fraction=0.3,
    )
    model = tiny_model(dropout=0.3)
    model.append(nn.Linear(VOCAB_SIZE, VOCAB_SIZE).requires_grad_(False))
    model.insert(4, nn.Flatten(0, 1))
    model.insert(5, nn.BatchNorm1d(3 * WIDTH))
    model.append(nn.Unflatten(0, (-1, CONTEXT)))
    model.append(nn.Linear(VOCAB_SIZE, WIDTH, bias=False))
    model.append(nn.Linear(WIDTH, VOCAB_SIZE))
    model[-1].weight = model[0].weight
    return make(config, model=model)


def copied(trainer: Trainer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, facts = trainer.state()
    return {name: t.clone() for name, t in tensors.items()}, facts


@pytest.mark.parametrize("stop", [0, 4, 8])
def test_a_state_goes_on_bit_for_bit(stop: int) -> None:
    whole = with_everything()
    records, state = [], None
    for report in whole.run():
        records.append(
            (report.step, report.training_loss, report.validation, report.is_best)
        )
        if report.step == stop:
            state = copied(whole)
    assert state is not None
    part = with_everything()
    for p in part.model.parameters():  # nothing but the state may count
        if p.requires_grad:
            nn.init.uniform_(p)
    part.load_state(*state)
    assert part.step == stop
    again = [
        (report.step, report.training_loss, report.validation, report.is_best)
        for report in part.run()
    ]
    assert again == [r for r in records if r[0] > stop]
    assert_same_tensors(part.model.state_dict(), whole.model.state_dict())
    assert_same_tensors(part.state()[0], whole.state()[0])


def test_the_state_leaves_out_what_is_frozen() -> None:
    names = with_everything().state()[0].keys()
    assert "model.0.weight" in names
    assert "model.5.running_mean" in names
    assert "model.8.weight" not in names  # frozen
    assert len([n for n in names if n in ("model.0.weight", "model.11.weight")]) == 1


def test_ctrl_c_ends_after_the_step_and_the_run_goes_on_bit_for_bit() -> None:
    class Interrupting(NextTokenLoss):
        def forward(self, *batch: Tensor, reduction: str = "mean") -> Tensor:
            if self.training and stopped.step == 5:
                for _ in range(5):  # five at once are one wish
                    signal.raise_signal(signal.SIGINT)
            return super().forward(*batch, reduction=reduction)

    config = replace(CONFIG, patience=9)
    whole = make(config, model=tiny_model(0.2))
    stopped = make(config, model=tiny_model(0.2), loss=Interrupting)
    before = signal.getsignal(signal.SIGINT)
    all_reports, reports = list(whole.run()), list(stopped.run())
    assert signal.getsignal(signal.SIGINT) is before
    assert [report.step for report in reports] == [0, 4, 6]
    assert reports[-1].is_last
    assert not reports[-1].is_best
    assert [report.is_extra for report in reports] == [False, False, True]
    assert stopped.interrupted

    resumed = make(config, model=tiny_model(0.2))
    resumed.load_state(*copied(stopped))
    rest = list(resumed.run())
    assert [(report.step, report.training_loss) for report in rest] == [
        (report.step, report.training_loss) for report in all_reports[2:]
    ]
    assert_same_tensors(resumed.state()[0], whole.state()[0])
    assert not resumed.interrupted
    assert resumed.reports_since_best == whole.reports_since_best


def test_ctrl_c_during_a_report_waits_for_the_next_step() -> None:
    trainer, steps = make(), []
    for report in trainer.run():
        steps.append(report.step)
        if report.step == 4:
            signal.raise_signal(signal.SIGINT)
    assert steps == [0, 4, 5]
    assert trainer.interrupted


def test_ctrl_c_ends_a_run_that_reports_after_every_step() -> None:
    """The report was due anyway, so it counts: a resumed run need not repeat it."""
    trainer, reports = make(replace(CONFIG, eval_interval=1)), []
    for report in trainer.run():
        reports.append(report)
        if report.step == 3:
            signal.raise_signal(signal.SIGINT)
    assert [report.step for report in reports] == [0, 1, 2, 3, 4]
    assert trainer.interrupted
    assert reports[-1].is_last
    assert not reports[-1].is_extra


def test_ctrl_c_in_the_last_step_finds_a_run_that_is_over() -> None:
    trainer = make()
    trainer.optimizers[0].register_step_pre_hook(
        lambda *_: signal.raise_signal(signal.SIGINT) if trainer.step == 11 else None
    )
    *_, end = trainer.run()
    assert (end.step, end.is_last, end.is_extra) == (12, True, False)
    assert not trainer.interrupted


def test_a_thread_may_train_too() -> None:
    """Signals reach the main thread only; another must not ask for them."""
    trainer = make()
    thread = threading.Thread(target=lambda: list(trainer.run()))
    thread.start()
    thread.join()
    assert trainer.step == 12


def broken(change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Any:
    """A good state, made bad."""
    trainer = make(replace(CONFIG, optimizer="muon"))
    list(trainer.run())
    tensors, facts = copied(trainer)
    change(tensors, facts)
    return tensors, facts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, f: t.pop("model.0.weight"), "it lacks 0.weight"),
        (lambda t, f: t.update({"model.9.bias": torch.ones(3)}), "9.bias"),
        (lambda t, f: t.update({"model.2.bias": torch.ones(1)}), r"2.bias is \[1\]"),
        (lambda t, f: t.update({"model.2.bias": torch.ones(())}), r"2.bias is \[\]"),
        (lambda t, f: t.update({"exp_avg.2.bias": torch.ones(7)}), r"2.bias is \[7\]"),
        (lambda t, f: t.update({"nonsense": torch.ones(7)}), "does not fit"),
        (lambda t, f: f.update(optimizer="adamw"), "it was made with adamw"),
        (lambda t, f: f.pop("step"), "step"),
        (lambda t, f: f.update(step="some"), "some"),
        (lambda t, f: f.update(step=math.inf), "does not fit"),
        (lambda t, f: f.update(tally=None), "does not fit"),
        (lambda t, f: f.update(tally={"nuts": 3}), "does not fit"),
        (lambda t, f: f.update(threads="many"), "does not fit"),
        (lambda t, f: f.clear(), "optimizer"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Any], dict[str, Any]], object], words: str
) -> None:
    trainer = make(replace(CONFIG, optimizer="muon"))
    with pytest.raises(UserError, match=words):
        trainer.load_state(*broken(change))


def test_auto_keeps_the_type_that_was_picked_and_a_given_type_wins() -> None:
    muon = replace(CONFIG, optimizer="muon")
    tensors, facts = make(replace(muon, dtype="bfloat16")).state()
    assert facts["dtype"] == "bfloat16"
    for dtype, wanted in (("auto", torch.bfloat16), ("float32", torch.float32)):
        trainer = make(replace(muon, dtype=dtype))
        trainer.load_state(tensors, facts)
        assert trainer.dtype == wanted
        assert trainer.optimizers[-1].precision == wanted


def test_what_auto_came_to_mean_is_told_and_kept() -> None:
    """The dtype, and the threads, which decide how sums are rounded."""
    before = torch.get_num_threads()
    try:
        trainer = make(replace(CONFIG, dtype="auto"))
        chosen = trainer.choices()
        assert chosen == {"device": "cpu", "dtype": "float32",
                          "threads": torch.get_num_threads()}  # fmt: skip
        _, facts = trainer.state()
        assert facts.items() >= chosen.items()
    finally:
        torch.set_num_threads(before)


# --- Targets -----------------------------------------------------------------------


class Uneven:
    """16 windows per step, in `rounds` parts or in one; most targets do not count.

    The first quarter of every step has all its targets, the second one, the third none.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds, self.batches = rounds, batches(16)

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        whole, part = divmod(step, self.rounds)
        ids, targets = self.batches.at(whole)
        targets = targets.clone()
        targets[4:8] = IGNORE_INDEX
        targets[6, 2] = 3
        targets[8:12] = IGNORE_INDEX
        targets[12:, 3:] = IGNORE_INDEX
        here = slice(part * 16 // self.rounds, (part + 1) * 16 // self.rounds)
        return ids[here], targets[here]


def test_four_rounds_of_four_equal_a_batch_of_sixteen() -> None:
    """With unequal numbers of targets the mean of the rounds' means would not."""
    four = make(replace(CONFIG, grad_accumulation=4), batches=Uneven(4))
    one = make(CONFIG, batches=Uneven(1))
    for mine, theirs in zip(four.run(), one.run(), strict=True):
        if mine.step:  # at step 0 each shows its own first batch
            assert mine.training_loss == pytest.approx(theirs.training_loss, abs=1e-6)
    for mine, theirs in zip(
        four.model.parameters(), one.model.parameters(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


class Without:
    """Batches that have no target in the steps named."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        ids, targets = batches().at(step)
        if step in self.steps:
            targets = torch.full_like(targets, IGNORE_INDEX)
        return ids, targets


def test_a_step_without_a_target_changes_nothing() -> None:
    """Not even by momentum or decay; and the losses are those of the other steps."""
    trainer = make(replace(CONFIG, weight_decay=0.5), batches=Without(0, 5))
    weights = {}
    for report in trainer.run():
        assert math.isfinite(report.training_loss)
        if report.step == 4:
            trainer.optimizers[0].register_step_pre_hook(
                lambda *_: weights.update({trainer.step: True})
            )
    assert set(weights) == {4, 6, 7, 8, 9, 10, 11}
    assert trainer.step == 12


def test_nothing_to_validate_on_is_said_before_training_begins() -> None:
    nothing = [(*batches().at(0)[:1], torch.full((4, CONTEXT), IGNORE_INDEX))]
    trainer = make(evaluate=lambda loss, _: evaluate(loss, nothing, [1] * VOCAB_SIZE))
    with pytest.raises(UserError, match="there is no text to validate on"):
        next(trainer.run())
    assert trainer.step == 0
