"""Runs in processes of their own: killed, stopped by Ctrl-C, shared between two.

Each one that is cut off goes on, and ends as one that nothing happened to.
"""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import COUNTED, ROOT, has_loopback
from tiny_run import assert_same_tensors, exit_code, words

from tinygpt.training.checkpoint import RunFolder, load_tensors

pytest.importorskip("fcntl", reason="signals of POSIX")
pytestmark = pytest.mark.slow
SECONDS = 200  # until a process that hangs is given up; far more than it needs
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
    "OMP_NUM_THREADS": str(torch.get_num_threads()),
}

# A process that kills itself before it puts a certain file in place for the nth time.
KILLER = """
import os, signal, sys
from pathlib import Path
from tinygpt.cli.main import main

name, n, replace = sys.argv[1], int(sys.argv[2]), Path.replace

def deadly(part, path):
    global n
    n -= path.name == name
    if not n:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(part, path)

Path.replace = deadly
main(sys.argv[3:])
"""


def series(run: Path) -> list[tuple[int, float, float]]:
    """The log without what the clock says."""
    names = ("step", "training_loss", "validation_loss")
    return [tuple(line[name] for name in names) for line in RunFolder(run).read_log()]


def state(run: Path, file: str = "last") -> dict[str, torch.Tensor]:
    return load_tensors(run / f"{file}.safetensors")[0]


def assert_same_run(mine: Path, theirs: Path) -> None:
    assert series(mine) == series(theirs)
    for file in ("last", "best"):
        assert_same_tensors(state(mine, file), state(theirs, file))
    plain = [torch.load(run / "model-ckpt.pt") for run in (mine, theirs)]
    assert_same_tensors(*plain)
    assert not list(mine.glob(".*.part"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all these runs, with one that nothing happened to: `whole`."""
    home = tmp_path_factory.mktemp("home")
    assert exit_code(words(home, "whole", optimizer="muon")) == 0
    return home


def test_a_run_killed_between_two_files_goes_on_bit_for_bit(home: Path) -> None:
    """In the look at step 20, with all in place but the state to resume from."""
    name, file, n = "killed", "last.safetensors", 3
    argv = words(home, name, optimizer="muon")
    ended = subprocess.run(
        [sys.executable, "-c", KILLER, file, str(n), *argv],
        env=ENVIRONMENT,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    run = home / "runs" / name
    assert (run / f".{file}.part").exists()
    assert exit_code([*argv, "--resume"]) == 0
    assert_same_run(run, home / "runs" / "whole")


@pytest.mark.parametrize(
    ("sign", "line"),
    [
        (signal.SIGKILL, "parameters"),  # before the first step
        (signal.SIGKILL, "Step: 20 "),
        (signal.SIGINT, "Step: 10 "),
    ],
)
def test_a_signal_from_outside(sign: signal.Signals, line: str, home: Path) -> None:
    """`python -m tinygpt train`, hit as soon as it has printed `line`.

    Of its 4,000 steps most are still to come then. It goes on for 20 more, and is
    compared with a run of as many; the learning rate is constant.
    """
    name = f"hit-{sign.name}-{line.split(':')[0]}"
    argv = words(home, name, optimizer="muon", steps=4000, schedule="constant")
    run = home / "runs" / name
    with subprocess.Popen(
        [sys.executable, "-m", "tinygpt", *argv],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for said in process.stdout:
            if line in said:
                process.send_signal(sign)
                break
        rest = process.stdout.read().splitlines()
        code, complaint = process.wait(SECONDS), process.stderr.read()
    assert complaint == ""
    again = [*argv, "--resume"]
    if sign == signal.SIGKILL:
        assert code == -signal.SIGKILL
        if not (run / "last.safetensors").exists():  # killed before its first report
            again = argv
    else:
        assert code == 130
        told = rest[-1]
        saved = RunFolder(run).load_last()[1]["step"]
        assert told.startswith(
            f"Stopped after step {saved}. Continue with: tinygpt train"
        )
        again = [*shlex.split(told.partition("tinygpt ")[2]), "--prompt", ""]
    reached = series(run)[-1][0] if (run / "log.jsonl").exists() else 0
    assert reached < 3990
    goal = reached + 20
    assert exit_code([*again, "--steps", str(goal)]) == 0

    other = f"not-{name}"
    calm = words(home, other, optimizer="muon", steps=goal, schedule="constant")
    assert exit_code(calm) == 0
    assert_same_run(run, home / "runs" / other)


# --- Two processes -----------------------------------------------------------------


def torchrun(
    argv: list[str],
    *options: str,
    script: str | None = None,
    counted: dict[str, str] = COUNTED,
) -> list[str]:
    """What two processes of one machine print."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    program = ["-m", "tinygpt"] if script is None else [script]
    ended = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", *options, *program, *argv],
        # The last setting gives a restart a fresh store: in torchrun's shared one the
        # new processes find the addresses of the dead (pytorch issue 135712).
        env=ENVIRONMENT
        | counted
        | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def looks(said: list[str]) -> list[str]:
    """The steps at which the losses were printed."""
    return [line.split(" Training")[0] for line in said if "Step:" in line]


def assert_same_to_rounding(mine: Path, theirs: Path) -> None:
    """Losses to 1e-4, weights to 1e-3: the sums of gradients are rounded otherwise."""
    for a, b in zip(series(mine)[1:], series(theirs)[1:], strict=True):
        assert a == pytest.approx(b, abs=1e-4)
    weights = state(theirs)
    for name, tensor in state(mine).items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-3, rtol=1e-2)


both = pytest.mark.skipif(not has_loopback(), reason="the loopback interface is down")


PAIR = {"optimizer": "muon", "dropout": 0.0, "steps": 20}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a run by two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("pair")
    return folder, torchrun(words(folder, "pair", **PAIR, grad_accumulation=2))


@both
def test_two_processes_train_as_one_with_twice_the_batch(
    pair: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, said = pair
    assert looks(said) == ["Step: 0", "Step: 10", "Step: 20"]
    assert sum("parameters" in line for line in said) == 1
    assert sum("Saved in" in line for line in said) == 1
    assert exit_code(words(tmp_path, "one", **PAIR, batch_size=12)) == 0
    assert_same_to_rounding(folder / "runs" / "pair", tmp_path / "runs" / "one")
    assert [p.name for p in (folder / "runs").iterdir()] == ["pair"]


# Process 1 of the first start kills itself in the middle of step 17.
DYING = """
import os, signal
from tinygpt.cli.main import main
from tinygpt.training.trainer import Trainer

step = Trainer._take_step

def deadly(trainer, model):
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and trainer.world.rank == 1 and trainer.step == 17:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(trainer, model)

Trainer._take_step = deadly
main()
"""


@both
def test_shares_of_the_weights_train_as_the_whole_and_survive_a_dead_process(
    tmp_path: Path,
) -> None:
    """Sharded and killed at step 17, it goes on from step 10, and ends as one alone."""
    settings = {"optimizer": "adamw", "dropout": 0.0, "steps": 30, "grad_clip": 0.5}
    (tmp_path / "dying.py").write_text(DYING, encoding="utf-8")
    shared = settings | {"sharding": "full", "grad_accumulation": 2}
    said = torchrun(
        words(tmp_path, "shares", **shared),
        "--max-restarts=1",
        script=str(tmp_path / "dying.py"),
    )
    assert looks(said) == ["Step: 0", "Step: 10", "Step: 20", "Step: 30"]
    assert sum("parameters" in line for line in said) == 2  # it was started twice
    assert exit_code(words(tmp_path, "one", **settings, batch_size=12)) == 0
    shares, one = tmp_path / "runs" / "shares", tmp_path / "runs" / "one"
    assert_same_to_rounding(shares, one)
    assert state(shares).keys() == state(one).keys()
    plain = [torch.load(run / "model-ckpt.pt") for run in (shares, one)]
    assert plain[0].keys() == plain[1].keys()
    for name, tensor in plain[0].items():
        torch.testing.assert_close(tensor, plain[1][name], atol=1e-3, rtol=1e-2)


@both
def test_a_dead_process_costs_no_more_than_the_steps_since_the_last_state(
    pair: tuple[Path, list[str]], tmp_path: Path
) -> None:
    """Bit for bit the run of two processes that nobody killed."""
    folder, said = pair
    script = tmp_path / "dying.py"
    script.write_text(DYING, encoding="utf-8")
    argv = words(tmp_path, "killed", **PAIR, grad_accumulation=2)
    again = torchrun(argv, "--max-restarts=1", script=str(script), counted={})
    assert looks(again) == looks(said) == ["Step: 0", "Step: 10", "Step: 20"]
    assert_same_run(tmp_path / "runs" / "killed", folder / "runs" / "pair")
