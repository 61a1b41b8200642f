"""What a training run tells at every evaluation.

What it leaves out: when that is (see `trainer`), and where it is kept (see `run`).
"""

from dataclasses import dataclass
from typing import Any

from tinygpt.training.evaluation import Evaluation


@dataclass(frozen=True)
class EvalReport:
    """What an evaluation after `step` optimizer steps showed."""

    step: int
    training_loss: float
    """Mean over all targets since the last report, in nats per token."""
    validation: Evaluation
    """On a sample of the validation split, in the last report on all of it, or on what
    `last_windows` says."""
    selection_loss: float
    """That of the sample, the same in every report: it decides `is_best`."""
    is_best: bool
    is_extra: bool
    """Made because of Ctrl-C, out of turn: it decides nothing and is not for the log,
    so that a run that goes on ends like one that was never stopped."""
    is_last: bool
    tokens_per_second: float
    seconds: float
    """Training time so far, earlier parts of a resumed run included."""
    seconds_left: float

    def __str__(self) -> str:
        minutes, seconds = divmod(round(self.seconds_left), 60)
        return (
            f"Step: {self.step} Training Loss: {self.training_loss:.3f} "
            f"{self.validation} | "
            f"{self.tokens_per_second:,.0f} tokens/s | {minutes}:{seconds:02d} left"
        )

    def record(self) -> dict[str, Any]:
        """The same as one line of a log."""
        return {
            "step": self.step,
            "training_loss": self.training_loss,
            **self.validation.record(),
            "selection_loss": self.selection_loss,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
        }


@dataclass
class Tally:
    """What is counted from one report to the next, over all ranks."""

    nats: float = 0.0
    targets: int = 0
    tokens: int = 0
    seconds: float = 0.0
