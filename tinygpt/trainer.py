"""The training loop, for any `nn.Module` and any batches.

Next batch, loss, gradients, step; now and then a look at the losses. The trainer
yields a `Look` each time, and whoever runs it prints, logs and saves. What it leaves
out: files (see `checkpoint`), what a token is (see `tokenizer`).
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from tinygpt.config import TrainConfig
from tinygpt.distributed import World
from tinygpt.errors import UserError
from tinygpt.evaluation import Evaluation, cross_entropy
from tinygpt.muon import Muon


class BatchSource(Protocol):
    """Where training batches come from: a pure function of the step."""

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The (ids, targets, ...) of one step."""


@dataclass(frozen=True)
class Look:
    """What a look at the losses showed, after `step` optimizer steps."""

    step: int
    training_loss: float
    """Mean over the steps since the last look, in nats per token."""
    validation: Evaluation
    whole_split: bool
    """Whether `validation` covers the whole validation split or a sample of it."""
    is_best: bool
    is_last: bool
    tokens_per_second: float
    seconds: float
    """Training time so far, earlier parts of a resumed run included."""
    seconds_left: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return (
            f"Step: {self.step} Training Loss: {self.training_loss:.3f} "
            f"Validation Loss: {self.validation.nats_per_token:.3f} | "
            f"{self.validation.bits_per_byte:.3f} bits per byte | "
            f"{self.tokens_per_second:,.0f} tokens/s | {minutes}:{seconds:02d} left"
        )

    def record(self) -> dict[str, Any]:
        """The same as one line of a log."""
        return {
            "step": self.step,
            "training_loss": self.training_loss,
            "validation_loss": self.validation.nats_per_token,
            "bits_per_byte": self.validation.bits_per_byte,
            "perplexity": self.validation.perplexity,
            "whole_split": self.whole_split,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
        }


def lr_factor(step: int, progress: float, config: TrainConfig) -> float:
    """The share of the peak learning rate at `step` (from 0).

    It rises linearly over the warm-up, stays, and falls over the last
    `decay_fraction` of the run: along half a cosine (Loshchilov and Hutter, 2017,
    "SGDR", equation 5) or a straight line. `progress` is the part of the time after
    the warm-up that has passed, from 0 to 1.

    >>> lr_factor(5, 0.5, TrainConfig(steps=10, schedule="linear"))
    0.5
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = 1 - config.decay_fraction
    if config.schedule == "constant" or progress <= start:
        return 1.0
    fallen = min(1.0, (progress - start) / config.decay_fraction)
    if config.schedule == "cosine":
        fallen = (1 - math.cos(math.pi * fallen)) / 2
    return 1 - fallen * (1 - config.final_lr_fraction)


def make_optimizers(
    model: nn.Module, config: TrainConfig
) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices and AdamW for the rest.

    Weight decay acts on matrices only (Loshchilov and Hutter, 2019, "Decoupled Weight
    Decay Regularization"). Muon takes the weights of linear layers except one that is
    called "head" or shared with an embedding. Tables whose name holds "embedding" and
    the head have learning rates of their own in the config.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    linear_weights = {id(m.weight) for m in linear}
    muon: list[Tensor] = []
    adamw: dict[tuple[float, float], list[Tensor]] = {}
    for name, p in parameters.items():
        embedding, head = "embedding" in name and p.ndim == 2, name.startswith("head.")
        inner = id(p) in linear_weights and not embedding and not head
        if config.optimizer == "muon" and inner:
            muon.append(p)
            continue
        own = config.embedding_lr if embedding else config.head_lr if head else None
        lr = config.lr if own is None else own
        decay = config.weight_decay if p.ndim >= 2 else 0.0
        adamw.setdefault((lr, decay), []).append(p)
    groups = [
        {"params": p, "lr": lr, "weight_decay": decay}
        for (lr, decay), p in adamw.items()
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        betas = (config.beta1, config.beta2)
        optimizers.append(torch.optim.AdamW(groups, betas=betas, fused=True))
    if muon:
        # A layer that makes queries, keys and values holds three matrices, stacked.
        stacked = {m.weight: 3 for m in linear if m.out_features == 3 * m.in_features}
        optimizers.append(
            Muon(
                muon,
                lr=config.muon_lr,
                momentum=config.muon_momentum,
                weight_decay=config.weight_decay,
                pieces=stacked,
                precision=pick_dtype("auto", muon[0].device),
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def pick_device(name: str = "auto") -> torch.device:
    """cuda, mps or cpu, in this order of preference; or the device `name`.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        else:
            name = "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device '{name}' cannot be used here: choose auto, cpu, cuda or mps"
        ) from error


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16 for matrix products; "auto": what this device does faster.

    A GPU says whether it has bfloat16. A CPU is timed at a product of two matrices,
    and bfloat16 has to win clearly.
    """
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type != "cpu":
        return torch.float32

    def seconds(dtype: torch.dtype) -> float:
        a = torch.ones(384, 384, dtype=dtype)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        return min(times)

    faster = seconds(torch.bfloat16) < 0.7 * seconds(torch.float32)
    return torch.bfloat16 if faster else torch.float32


class Trainer:
    """Trains `model` as `config` says.

    Chance is a pure function of seed, step and rank, as are the batches; so a run that
    is resumed from `state` goes on exactly as it would have.

    Args:
        model: any module; it is moved to the device.
        batches: gives (ids, targets, ...) for every step.
        evaluate: takes the model and whether to use the whole validation split.
        config: how to train.
        loss_fn: takes the model and a batch, returns the mean loss in nats per token.
        world: this process among its fellows.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        evaluate: Callable[[nn.Module, bool], Evaluation],
        config: TrainConfig,
        loss_fn: Callable[..., Tensor] = cross_entropy,
        world: World | None = None,
    ) -> None:
        self.world = world or World()
        name = config.device
        if self.world.size > 1 and name != "cpu" and torch.cuda.is_available():
            name = f"cuda:{self.world.local_rank}"
        self.device = pick_device(name)
        self.dtype = pick_dtype(config.dtype, self.device)
        self.config, self.batches = config, batches
        self.evaluate, self.loss_fn = evaluate, loss_fn
        self.model = model.to(self.device)
        self.optimizers = make_optimizers(self.model, config)
        self.step, self.seconds = 0, 0.0
        self.best, self.looks_since_best = math.inf, 0
        self.interrupted = False

    def progress(self) -> float:
        """The part of the run that is behind us, from 0 to 1; rank 0's clock counts."""
        c = self.config
        if c.minutes is not None:
            passed = self.world.main_says(self.seconds, self.device)
            return min(1.0, passed / (60 * c.minutes))
        return min(1.0, self.step / c.steps)

    def run(self, show_progress: bool = False) -> Iterator[Look]:
        """Train to the end; yield a look at step 0, at every interval and at the end.

        Ctrl-C lets the current step finish, yields a last look and ends the run.

        Raises:
            UserError: the loss is not a finite number.
        """
        train_model = self._wrapped()
        self.interrupted = False
        clock = time.perf_counter()
        bar = tqdm(
            total=None if self.config.minutes else self.config.steps,
            initial=self.step,
            unit="step",
            disable=None if show_progress and self.world.is_main else True,
            leave=False,
        )
        with bar, self._gentle_interrupt():
            if self.step == 0:
                yield self._look([self._first_loss()], tokens=0, stepping=1.0)
            losses: list[float] = []
            tokens, stepping = 0, 0.0
            while self.progress() < 1 and not self.interrupted:
                begun = time.perf_counter()
                loss, size = self._take_step(train_model)
                losses.append(loss)
                tokens += size
                stepping += time.perf_counter() - begun
                self.seconds += time.perf_counter() - clock
                clock = time.perf_counter()
                bar.update()
                look_now = self.step % self.config.eval_interval == 0
                if look_now or self.progress() >= 1 or self._any_interrupt():
                    look = self._look(losses, tokens, stepping)
                    bar.set_postfix_str(f"loss {look.validation.nats_per_token:.3f}")
                    yield look
                    if look.is_last:
                        return
                    losses, tokens, stepping = [], 0, 0.0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed run needs: tensors by name, and facts for JSON."""
        tensors = {f"model.{n}": p for n, p in self.model.named_parameters()}
        for i, optimizer in enumerate(self.optimizers):
            for j, values in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{i}.{j}.{k}": v for k, v in values.items()}
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "looks_since_best": self.looks_since_best,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        return tensors, facts

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go back to where `state` was taken.

        Raises:
            UserError: the state belongs to another model or optimizer.
        """
        try:
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"model.{name}"])
            for i, optimizer in enumerate(self.optimizers):
                whole = optimizer.state_dict()
                prefix = f"optimizer.{i}."
                for key in (k for k in tensors if k.startswith(prefix)):
                    j, name = key.removeprefix(prefix).split(".")
                    whole["state"].setdefault(int(j), {})[name] = tensors[key]
                optimizer.load_state_dict(whole)
            self.step, self.seconds = facts["step"], facts["seconds"]
            self.best = facts["best"]
            self.looks_since_best = facts["looks_since_best"]
            self.dtype = getattr(torch, facts["dtype"])
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(
                f"the saved state does not fit this model and optimizer ({error}): "
                "resume with the settings that the run was started with"
            ) from error

    def _wrapped(self) -> nn.Module:
        """The model as the step uses it: compiled, and averaging over processes."""
        model = torch.compile(self.model) if self.config.compile else self.model
        if self.world.size > 1:
            model = DistributedDataParallel(model, broadcast_buffers=False)
        return model  # type: ignore[return-value]

    def _batch(self, index: int) -> tuple[Tensor, ...]:
        batch = self.batches.at(index, self.world.rank, self.world.size)
        return tuple(t.to(self.device) for t in batch)

    def _autocast(self) -> torch.autocast:
        on = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=on)

    @torch.no_grad()
    def _first_loss(self) -> float:
        """The loss of the first batch, before any step."""
        self.model.eval()
        loss = self.loss_fn(self.model, *self._batch(0)).item()
        return self.world.mean(loss, self.device)

    def _take_step(self, model: nn.Module) -> tuple[float, int]:
        """One optimizer step; its loss, and the tokens that all processes read."""
        c, world = self.config, self.world
        model.train()
        torch.manual_seed((c.seed + 1_000_003 * (self.step * world.size + world.rank)))
        factor = lr_factor(self.step, self._progress_after_warmup(), c)
        loss, size, rounds = 0.0, 0, c.grad_accumulation
        for i in range(rounds):
            batch = self._batch(self.step * rounds + i)
            waits = world.size > 1 and i < rounds - 1  # average gradients once, last
            with model.no_sync() if waits else nullcontext():  # type: ignore[operator]
                with self._autocast():
                    part = self.loss_fn(model, *batch) / rounds
                part.backward()
            loss += part.item()
            size += batch[0].numel() * world.size
        loss = world.mean(loss, self.device)
        self._insist_on_finite(loss, "training")
        if c.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), c.grad_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return loss, size

    def _progress_after_warmup(self) -> float:
        c = self.config
        if c.minutes is not None:
            return self.progress()
        return max(0, self.step - c.warmup_steps) / max(1, c.steps - c.warmup_steps)

    def _look(self, losses: list[float], tokens: int, stepping: float) -> Look:
        """Evaluate; remember whether it is the best so far."""
        sample = self.evaluate(self.model, False)
        self._insist_on_finite(sample.nats_per_token, "validation")
        is_best = sample.nats_per_token < self.best and not self.interrupted
        if not self.interrupted:  # an extra look must not change a resumed run
            self.best = min(self.best, sample.nats_per_token)
            self.looks_since_best = 0 if is_best else self.looks_since_best + 1
        patience = self.config.patience
        tired = patience is not None and self.looks_since_best >= patience
        progress = self.progress()
        over = tired or progress >= 1
        return Look(
            step=self.step,
            training_loss=sum(losses) / len(losses),
            validation=self.evaluate(self.model, True) if over else sample,
            whole_split=over,
            is_best=is_best,
            is_last=over or self.interrupted,
            tokens_per_second=tokens / stepping,
            seconds=self.seconds,
            seconds_left=self.seconds * (1 / progress - 1) if progress else 0.0,
        )

    def _insist_on_finite(self, loss: float, which: str) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the {which} loss is {loss} at step {self.step}: try a lower learning "
                "rate, a longer warm-up, --grad-clip 1 or --dtype float32; the last "
                "checkpoint is still good"
            )

    def _any_interrupt(self) -> bool:
        """Whether rank 0 was interrupted; all ranks then end together."""
        asked = self.world.main_says(float(self.interrupted), self.device)
        self.interrupted = bool(asked)
        return self.interrupted

    @contextmanager
    def _gentle_interrupt(self) -> Iterator[None]:
        """Ctrl-C asks the run to end after the step; a second one ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return

        def ask(*_: object) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
