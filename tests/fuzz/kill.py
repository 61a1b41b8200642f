"""Runs killed at random moments, and resumed until they are done.

    python tests/fuzz/kill.py --kills 100

Two runs of the default preset at a time, each under a name of its own, are started with
the command line, killed by SIGKILL after a random time, and resumed, again and again.
When one is done, its files must hold what those of a run hold that nobody killed: the
same weights bit for bit, the same losses in the log, and no leftovers. Then a run of a
new name takes its place, until all kills are used up.

What it leaves out: losing power, which may lose what the disk has not written yet.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CLOCK = {"seconds", "tokens_per_second"}  # what differs between two equal runs


class Runs:
    """All runs of one trial, and the kills that are left."""

    def __init__(self, home: Path, steps: int, kills: int, seed: int) -> None:
        self.home, self.steps, self.kills = home, steps, kills
        self.chance, self.lock = random.Random(seed), threading.Lock()
        self.started = self.resumed = self.finished = 0
        self.seconds = 0.0  # that a whole run takes
        self.faults: list[str] = []

    def start(self, name: str) -> subprocess.Popen[str]:
        """Start the run `name`, or resume it if it has begun."""
        often = max(1, self.steps // 10)
        options = {
            "--name": name,
            "--out": str(self.home),
            "--steps": str(self.steps),
            "--eval-interval": str(often),
            "--checkpoint-interval": str(2 * often),
            "--eval-windows": "8",
            "--prompt": "",
        }
        argv = ["train", *(word for pair in options.items() for word in pair)]
        if (self.home / name / "last.safetensors").exists():
            argv.append("--resume")
            self.resumed += 1
        return subprocess.Popen(
            [sys.executable, "-m", "tinygpt", *argv],
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def work(self) -> None:
        """One of the two: a run after the other, until no kill is left."""
        while not self.faults:
            with self.lock:
                if not self.kills:
                    return
                self.started += 1
                name = f"run-{self.started}"
            self.finish(name)

    def finish(self, name: str) -> None:
        """Start, kill and resume one run until it is done; compare it then."""
        while True:
            process = self.start(name)
            with self.lock:
                # Of two runs at a time, each takes longer than one alone.
                wait = self.chance.uniform(0, 1.5 * self.seconds) if self.kills else 600
            try:
                said, _ = process.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                with self.lock:
                    self.kills -= bool(self.kills)
                continue
            if process.returncode:
                self.faults.append(f"{name}: exit code {process.returncode}: {said}")
                return
            differs = difference(self.home / "whole", self.home / name)
            self.faults += [f"{name}: {what}" for what in differs]
            self.finished += 1
            shutil.rmtree(self.home / name)
            return


def difference(whole: Path, other: Path) -> list[str]:
    """In what two run folders differ that should be equal."""
    found = []
    names = [{path.name for path in run.iterdir()} for run in (whole, other)]
    if names[0] != names[1]:
        found.append(f"other files: {sorted(names[0] ^ names[1])}")
    for name in ("last.safetensors", "best.safetensors"):
        a, b = load_file(whole / name), load_file(other / name)
        found += [f"{name} {key}" for key in a.keys() ^ b.keys()]
        found += [f"{name} {k}" for k in a.keys() & b.keys() if not a[k].equal(b[k])]
    a, b = (torch.load(run / "model-ckpt.pt") for run in (whole, other))
    found += [f"model-ckpt.pt {key}" for key in a if not a[key].equal(b[key])]
    if log(whole) != log(other):
        found.append("log.jsonl")
    return found


def log(run: Path) -> list[dict[str, Any]]:
    """The log without what the clock says."""
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="killed-"))
    runs = Runs(home, args.steps, args.kills, args.seed)
    try:
        begin = time.monotonic()
        said, _ = (process := runs.start("whole")).communicate()
        if process.returncode:
            sys.exit(said)
        runs.seconds = time.monotonic() - begin
        print(f"A whole run takes {runs.seconds:.1f} s.", flush=True)
        workers = [threading.Thread(target=runs.work) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(
        f"{args.kills - runs.kills} kills, {runs.resumed} times resumed, "
        f"{runs.finished} runs done, {len(runs.faults)} faults"
    )
    print("\n".join(runs.faults))
    sys.exit(bool(runs.faults))


if __name__ == "__main__":
    main()
