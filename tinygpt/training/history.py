"""What the folders of runs tell about how a model came to be.

What it leaves out: putting it into words (see `formats.model_card`).
"""

from pathlib import Path

from tinygpt.config import FinetuneConfig
from tinygpt.errors import UserError
from tinygpt.formats.model_card import Stage
from tinygpt.reward_config import RewardConfig, kind_of
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.tensor_file import read_header

MOST = 32  # runs one upon the other; more would be a circle


def history(path: Path) -> list[Stage]:
    """The runs that made the model of a run folder, the oldest first.

    It goes back as far as the folders of the bases are still there.

    Raises:
        UserError: the run itself cannot be read.
    """
    stages = [_stage(RunFolder(path))]
    while len(stages) < MOST:
        _, config = RunFolder(path).configs()
        if not isinstance(config, (FinetuneConfig, RewardConfig)):
            break
        path = Path(config.model)
        try:
            stages.append(_stage(RunFolder(path)))
        except UserError:  # no run, or no longer there: its name must do
            break
    return stages[::-1]


def _stage(folder: RunFolder) -> Stage:
    """One run; its texts and its base without their folders, which are nobody's."""
    _, config = folder.configs()
    record, log = folder.settings().get("record", {}), folder.read_log()
    _, best = read_header(folder.best)
    known = [line for line in log if line["step"] == best.get("step")]
    best = known[-1] if known else best
    base = getattr(config, "model", None)
    return Stage(
        kind=kind_of(config),
        data=", ".join(Path(part).name for part in config.data.split(",")),
        steps=int(best.get("step", 0)),
        seconds=float(log[-1].get("seconds", 0)) if log else 0.0,
        date=str(record.get("started", "")).partition(" ")[0],
        tokens=record.get("tokens"),
        bits_per_byte=best.get("bits_per_byte"),
        perplexity=best.get("perplexity"),
        whole_split=bool(best.get("whole_split", True)),
        base=Path(base).name if base else None,
    )
