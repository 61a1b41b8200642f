"""The training loop, for any `nn.Module` and any batches.

Next batch, loss, gradients, step; now and then an evaluation. The trainer yields an
`EvalReport` each time, and whoever runs it prints, logs and saves. What it leaves out:
files (see `checkpoint`), the learning rate's course and who takes which step (see
`optimizers`), what a token is (see `tokenizer`).
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tinygpt.config import TrainConfig
from tinygpt.errors import UserError
from tinygpt.runtime import fsdp as sharding
from tinygpt.runtime.device import gentle_interrupt, pick_dtype, set_threads
from tinygpt.runtime.distributed import World
from tinygpt.training.evaluation import Evaluation, cross_entropy
from tinygpt.training.muon import Muon
from tinygpt.training.optimizers import make_optimizers
from tinygpt.training.schedule import lr_factor


@runtime_checkable
class BatchSource(Protocol):
    """Where training batches come from: a pure function of the step."""

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The (ids, targets, ...) of one step, [B, T] each."""


@dataclass(frozen=True)
class EvalReport:
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

    Raises:
        UserError: the device that `config` names is not there.
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
        self.device = self.world.pick_device(config.device)
        fast = pick_dtype(config.dtype, self.device) == torch.bfloat16
        fast = bool(self.world.broadcast(float(fast)))  # its timing decides for all
        self.dtype = torch.bfloat16 if fast else torch.float32
        self.threads = set_threads()
        if config.steps is None:
            raise ValueError("fill in how many steps the epochs take: `with_steps`")
        self.config, self.batches, self.steps = config, batches, config.steps
        self.evaluate, self.loss_fn = evaluate, loss_fn
        self.model = model.to(self.device)
        if config.sharding == "full" and self.world.size > 1:
            sharding.shard(self.model, self.device.type, self.world.size)
        self.optimizers = make_optimizers(self.model, config, self.dtype)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []  # since the last look
        self.best, self.reports_since_best = math.inf, 0
        self.interrupted = False

    @property
    def over(self) -> bool:
        """Whether the run has come to its end, by length or by lost patience."""
        patience = self.config.patience
        tired = patience is not None and self.reports_since_best >= patience
        return tired or self.progress() >= 1

    def progress(self) -> float:
        """The part of the run that is behind us, from 0 to 1; rank 0's clock counts."""
        c = self.config
        if c.minutes is not None:
            passed = self.world.broadcast(self.seconds)
            return min(1.0, passed / (60 * c.minutes))
        return min(1.0, self.step / self.steps)

    def run(self, show_progress: bool = False) -> Iterator[EvalReport]:
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
        with bar, gentle_interrupt() as ctrl_c:
            if math.isinf(self.best):  # nothing has been looked at yet
                self.losses = [self._first_loss()]
                yield self._look(tokens=0, stepping=1.0)
            tokens, stepping = 0, 0.0
            while not self.over and not self.interrupted:
                begun = time.perf_counter()
                tokens += self._take_step(train_model)
                stepping += time.perf_counter() - begun
                self.seconds += time.perf_counter() - clock
                clock = time.perf_counter()
                bar.update()
                look_now = self.step % self.config.eval_interval == 0 or self.over
                if look_now or self._shall_stop(ctrl_c()):
                    look = self._look(tokens, stepping)
                    bar.set_postfix_str(f"loss {look.validation.nats_per_token:.3f}")
                    yield look
                    tokens, stepping = 0, 0.0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a resumed run needs: tensors, facts for JSON. All processes must ask."""
        tensors = {f"model.{name}": t for name, t in self._kept().items()}
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        for optimizer in self.optimizers:
            for p, slots in optimizer.state.items():
                tensors |= {f"{slot}.{names[p]}": t for slot, t in slots.items()}
        tensors = {
            name: sharding.full_tensor(t.detach()) for name, t in tensors.items()
        }
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "best": self.best,
            "reports_since_best": self.reports_since_best,
            "optimizer": self.config.optimizer,
            "dtype": str(self.dtype).removeprefix("torch."),
            "threads": self.threads,
        }
        return tensors, facts

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Go back to where `state` was taken.

        Raises:
            UserError: the state belongs to another model or optimizer.
        """
        kept = self._kept()
        owner = {
            p: o for o in self.optimizers for g in o.param_groups for p in g["params"]
        }
        try:
            if facts["optimizer"] != self.config.optimizer:
                raise ValueError(f"it was made with {facts['optimizer']}")
            if missing := [name for name in kept if f"model.{name}" not in tensors]:
                raise ValueError(f"it lacks {missing[0]}")
            for key, saved in tensors.items():
                slot, name = key.split(".", 1)  # slot: "model", or the optimizer's own
                mine = kept[name]
                if saved.shape != mine.shape and slot != "step":  # that is a count
                    raise ValueError(f"{name} is {list(saved.shape)} there")
                share = sharding.shard_like(mine, saved.to(self.device))
                if slot == "model":
                    mine.copy_(share)
                else:
                    owner[mine].state[mine][slot] = share
            self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
            self.losses, self.best = list(facts["losses"]), float(facts["best"])
            self.reports_since_best = int(facts["reports_since_best"])
            if self.config.dtype == "auto":  # as it was picked then, not timed anew
                kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
                self.dtype = kinds[facts["dtype"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the saved state does not fit this model and optimizer ({error}): "
                "resume with the settings that the run was started with"
            ) from error
        for optimizer in self.optimizers:
            if isinstance(optimizer, Muon):
                optimizer.precision = self.dtype
        if "threads" in facts:  # their number decides how sums are rounded
            self.threads = set_threads(int(facts["threads"]))

    def _kept(self) -> dict[str, Tensor]:
        """Trained parameters and lasting buffers; a frozen base stays out."""
        own: dict[str, Tensor] = dict(self.model.named_buffers())
        own |= {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        return {name: own[name] for name in self.model.state_dict() if name in own}

    def _wrapped(self) -> nn.Module:
        """The model as the step uses it: compiled, and averaging over processes."""
        model = torch.compile(self.model) if self.config.compile else self.model
        if self.world.size > 1 and not sharding.is_sharded(self.model):
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
        return self.world.mean(self.loss_fn(self.model, *self._batch(0)).item())

    def _take_step(self, model: nn.Module) -> int:
        """One optimizer step; how many tokens all processes read for it."""
        c, world = self.config, self.world
        model.train()
        torch.manual_seed(c.seed + 1_000_003 * (self.step * world.size + world.rank))
        factor = lr_factor(self.step, self._progress_after_warmup(), c)
        loss, size, rounds = 0.0, 0, c.grad_accumulation
        for i in range(rounds):
            batch = self._batch(self.step * rounds + i)
            last = i == rounds - 1  # gradients are averaged once
            with nullcontext() if last else sharding.gradients_wait(model):
                with self._autocast():
                    part = self.loss_fn(model, *batch) / rounds
                part.backward()
            loss += part.item()
            size += batch[0].numel() * world.size
        loss = world.mean(loss)
        self._insist_on_finite(loss, "training")
        if c.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), c.grad_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.losses.append(loss)
        return size

    def _progress_after_warmup(self) -> float:
        c = self.config
        if c.minutes is not None:
            return self.progress()
        return max(0, self.step - c.warmup_steps) / max(1, self.steps - c.warmup_steps)

    def _look(self, tokens: int, stepping: float) -> EvalReport:
        """Evaluate; remember whether it is the best so far."""
        sample = self.evaluate(self.model, False)
        loss = self.world.broadcast(sample.nats_per_token)  # all decide alike
        sample = replace(sample, nats_per_token=loss)
        self._insist_on_finite(loss, "validation")
        training_loss, is_best = sum(self.losses) / len(self.losses), False
        if not self.interrupted:  # an extra look must not change a resumed run
            is_best = loss < self.best
            self.best = min(self.best, loss)
            self.reports_since_best = 0 if is_best else self.reports_since_best + 1
            self.losses = []
        progress, over = self.progress(), self.over
        return EvalReport(
            step=self.step,
            training_loss=training_loss,
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

    def _shall_stop(self, asked: bool) -> bool:
        """Whether rank 0 is asked to; all ranks then end together."""
        self.interrupted = bool(self.world.broadcast(float(asked)))
        return self.interrupted
