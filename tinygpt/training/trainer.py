"""The training loop, for any `nn.Module` and any batches.

Next batches, loss, gradients, step; now and then an evaluation. `Trainer.run` yields an
`EvalReport` each time, and whoever runs it prints, logs and saves. What it leaves out:
files (see `run` and `checkpoint`), the learning rate over time (see `schedule`), which
optimizer moves which weights (see `optimizers`), tokenizers.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tinygpt.config import IGNORE_INDEX, TrainConfig
from tinygpt.errors import UserError
from tinygpt.runtime import fsdp
from tinygpt.runtime.device import gentle_interrupt, pick_dtype, set_threads
from tinygpt.runtime.display import Progress, progress
from tinygpt.runtime.distributed import World
from tinygpt.training.average import WeightAverage
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.muon import Muon
from tinygpt.training.optimizers import make_optimizers
from tinygpt.training.report import EvalReport, Tally
from tinygpt.training.schedule import lr_factor, position
from tinygpt.training.state import gather_state, restore_state

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def count_targets(batch: tuple[Tensor, ...]) -> int:
    """How many targets of a batch (ids, targets, ...) count."""
    return int((batch[1] != IGNORE_INDEX).sum())


@runtime_checkable
class BatchSource(Protocol):
    """Where training batches come from: a pure function of the step."""

    def at(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Tensor, ...]:
        """The (ids, targets[, mask, positions]) of one step, ids and targets [B, T]."""


class Trainer:
    """Trains `model` as `config` says.

    Random numbers are a pure function of seed, step and rank, and so are the batches; a
    run that is resumed from `state` goes on exactly as it would have. Which dtype and
    how many threads "auto" means follows from machine and model (see `choices`).

    The weights of the report with the lowest `selection_loss` are the best. Every
    report measures it on the same sample of the validation split, the last one too,
    whose `validation` covers the whole split and therefore compares with no other.

    Args:
        model: any module that maps ids to logits; it is moved to the device.
        batches: gives (ids, targets[, mask, positions]) for every step.
        evaluate: takes a loss (see below) and whether to use the whole validation
            split; returns an `Evaluation`, for example that of `evaluation.evaluate`.
        config: how to train.
        world: this process among the others.
        loss: makes a module of the model that takes a batch and `reduction`. DDP,
            `fully_shard` and torch.compile wrap this module.

    Raises:
        UserError: the device that `config` names is not there.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: BatchSource,
        evaluate: Callable[[nn.Module, bool], Evaluation],
        config: TrainConfig,
        world: World | None = None,
        loss: Callable[[nn.Module], nn.Module] = NextTokenLoss,
    ) -> None:
        self.world = world or World()
        self.device = self.world.pick_device(config.device)
        n_parameters = sum(p.numel() for p in model.parameters())
        self.dtype = pick_dtype(config.dtype, self.device, n_parameters)
        self.threads = set_threads(n_parameters)
        self.config, self.batches, self.evaluate = config, batches, evaluate
        self.model = model.to(self.device)
        self.loss = loss(self.model)
        if config.sharding == "full" and self.world.size > 1:
            fsdp.shard(self.loss, self.device.type, self.world.size)
        self.optimizers = make_optimizers(self.model, config, self.dtype)
        self.average = WeightAverage(self.optimizers)
        self.step, self.seconds, self.tally = 0, 0.0, Tally()
        self.best, self.reports_since_best = math.inf, 0
        self.interrupted, self._clock = False, 0.0

    def run(self, show_progress: Progress = False) -> Iterator[EvalReport]:
        """Train to the end; yield a report at step 0, at every interval and at the end.

        Ctrl-C lets the current step finish, yields a last report and ends the run. Time
        that the caller spends on a report is not training time.

        Args:
            show_progress: a bar on standard error, or lines (see `runtime.display`).

        Raises:
            UserError: a loss is not finite, or there is no target to validate on.
        """
        c, self.interrupted, loss = self.config, False, self._wrapped_loss()
        self.average.use(False)
        self._clock = time.perf_counter()
        bar = progress(
            self.world.is_main and show_progress,
            total=None if c.minutes else c.steps,
            initial=self.step,
            unit="step",
        )
        with bar, gentle_interrupt() as ctrl_c:
            if math.isinf(self.best):  # a new run: how good is it untrained?
                self._count_first_batch()
                yield self._report()
                self._clock = time.perf_counter()
            while not self.is_over and not self.interrupted:
                self._take_step(loss)
                bar.update()
                in_turn = self.step % c.eval_interval == 0 or self.is_over
                asked = self.world.broadcast(float(ctrl_c()))  # all end together
                self.interrupted = bool(asked) and not self.is_over
                if in_turn or self.interrupted:
                    with self.average.in_use():
                        report = self._report(is_extra=not in_turn)
                        bar.set_postfix_str(f"loss {report.selection_loss:.3f}")
                        yield report
                    self._clock = time.perf_counter()
        self.average.use(True)

    @property
    def is_over(self) -> bool:
        """Whether the run has come to its end, by length or by lost patience."""
        patience = self.config.patience
        has_lost_patience = patience is not None and self.reports_since_best >= patience
        return has_lost_patience or self.position >= (self.config.steps or 0)

    @property
    def position(self) -> float:
        """Where the run stands in its schedule (see `schedule.position`)."""
        return position(self.step, self.seconds, self.config)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the inputs of one step, over all rounds and ranks."""
        rounds = self.config.grad_accumulation * self.world.size
        return rounds * self._batch(0)[0].numel()

    def _take_step(self, loss: nn.Module) -> None:
        """One optimizer step, on the mean over the targets of all rounds and ranks.

        A round without a target adds nothing, and a step without one changes nothing.
        """
        c, world, rounds = self.config, self.world, self.config.grad_accumulation
        torch.manual_seed(c.seed + 1_000_003 * (self.step * world.size + world.rank))
        batches = [self._batch(self.step * rounds + i) for i in range(rounds)]
        n_targets = int(world.sum(sum(count_targets(batch) for batch in batches)))
        nats, mixed = 0.0, self.dtype != torch.float32
        loss.train()
        for batch in batches if n_targets else ():
            last = batch is batches[-1]  # gradients are exchanged once
            with nullcontext() if last else fsdp.no_gradient_sync(loss):
                with torch.autocast(self.device.type, self.dtype, mixed):
                    part = loss(*batch, reduction="sum")
                # DDP and fully_shard divide the gradients by the number of ranks.
                (part * (world.size / n_targets)).backward()
            nats += part.item()
        nats = world.sum(nats)
        self._require_finite(nats, "training")
        if n_targets:
            self._update()
        self.step += 1
        tally, n_tokens = self.tally, sum(batch[0].numel() for batch in batches)
        tally.nats, tally.targets = tally.nats + nats, tally.targets + n_targets
        tally.tokens += n_tokens * world.size
        tally.seconds += self._add_time()

    def _update(self) -> None:
        """Let the optimizers use the gradients, at the rate of this moment."""
        if clip := self.config.grad_clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * lr_factor(self.position, self.config)
            optimizer.step()
            optimizer.zero_grad()
        if fraction := self.config.average_fraction:  # of the steps so far
            self.average.add(min(1.0, 1 / (fraction * (self.step + 1))))

    def _report(self, is_extra: bool = False) -> EvalReport:
        """Evaluate; remember whether this is the best so far."""
        sample = self.evaluate(self.loss, False)
        selection_loss = self.world.broadcast(sample.selection_loss)  # for all ranks
        self._require_finite(selection_loss, "validation")
        is_best = selection_loss < self.best and not is_extra
        if not is_extra:
            self.best = min(self.best, selection_loss)
            self.reports_since_best = 0 if is_best else self.reports_since_best + 1
        self._add_time()  # which may end a run by the clock
        is_over, validation = self.is_over, sample
        if is_over and not sample.whole_split:
            validation = self.evaluate(self.loss, True)
            self._add_time()
        tally, self.tally = self.tally, self.tally if is_extra else Tally()
        done, steps = self.position, self.config.steps or 0
        return EvalReport(
            step=self.step,
            training_loss=tally.nats / max(1, tally.targets),
            validation=validation,
            selection_loss=selection_loss,
            is_best=is_best,
            is_extra=is_extra,
            is_last=is_over or self.interrupted,
            tokens_per_second=tally.tokens / max(tally.seconds, 1e-9),
            seconds=self.seconds,
            seconds_left=self.seconds * (steps / done - 1) if done else 0.0,
        )

    @torch.no_grad()
    def _count_first_batch(self) -> None:
        """Let the first report show the loss on the first batch, before any step."""
        batch, loss = self._batch(0), self.loss.eval()
        self.tally.nats = self.world.sum(loss(*batch, reduction="sum").item())
        self.tally.targets = int(self.world.sum(count_targets(batch)))

    def _wrapped_loss(self) -> nn.Module:
        """The loss as a step uses it: compiled, and averaging over ranks."""
        loss = torch.compile(self.loss) if self.config.compile else self.loss
        if self.world.size > 1 and not fsdp.is_sharded(self.model):
            loss = DistributedDataParallel(loss, broadcast_buffers=False)
        return loss  # type: ignore[return-value]  # compile's type forgets the module

    def _add_time(self) -> float:
        """Add the seconds since the last call to the training time; returns them."""
        now = time.perf_counter()
        passed = self.world.broadcast(now - self._clock)  # one clock for all ranks
        self.seconds, self._clock = self.seconds + passed, now
        return passed

    def _batch(self, index: int) -> tuple[Tensor, ...]:
        parts = self.batches.at(index, self.world.rank, self.world.size)
        return tuple(part.to(self.device) for part in parts)

    def _require_finite(self, loss: float, which: str) -> None:
        if not math.isfinite(loss):
            raise UserError(
                f"the {which} loss is {loss} at step {self.step}: try a lower learning "
                "rate, a longer warm-up, --grad-clip 1 or --dtype float32; the last "
                "checkpoint is still good"
            )

    def choices(self) -> dict[str, Any]:
        """What "auto" came to mean here, for JSON; a resumed run keeps it."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"device": str(self.device), "dtype": dtype, "threads": self.threads}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata (JSON) to resume from; all ranks must ask together."""
        metadata = {
            "step": self.step,
            "seconds": self.seconds,
            "tally": asdict(self.tally),
            "best": self.best,
            "reports_since_best": self.reports_since_best,
            "optimizer": self.config.optimizer,
            **self.choices(),
        }
        with self.average.in_use(False):
            tensors = gather_state(self.model, self.optimizers)
            if self.config.average_fraction:  # the weights' places are used again
                tensors = {name: t.clone() for name, t in tensors.items()}
        return tensors, metadata

    def load_state(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Go back to where `state` was taken.

        Raises:
            UserError: the state belongs to another model or optimizer.
        """
        try:
            if metadata["optimizer"] != self.config.optimizer:
                raise ValueError(f"it was made with {metadata['optimizer']}")
            self.average.use(False)
            restore_state(self.model, self.optimizers, tensors)
            self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])
            self.tally, self.best = Tally(**metadata["tally"]), float(metadata["best"])
            self.reports_since_best = int(metadata["reports_since_best"])
            if self.config.dtype == "auto":  # as it was chosen then, maybe elsewhere
                self.dtype = DTYPES[metadata["dtype"]]
            threads = int(metadata["threads"])  # they decide how sums are rounded
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(
                f"the saved state does not fit this model and optimizer ({error}): "
                "resume with the settings that the run was started with"
            ) from error
        self.threads = set_threads(wanted=threads)
        for optimizer in self.optimizers:
            if isinstance(optimizer, Muon):
                optimizer.precision = self.dtype
