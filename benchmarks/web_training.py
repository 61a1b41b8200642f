"""Training in the page, on one thread, against TensorFlow.js and PyTorch.

    python benchmarks/web_training.py [--quick]

The page's engine (book/_static/tinygpt_train.js) runs in Node, once with WebAssembly
and once in plain loops; TensorFlow.js on its WebAssembly backend and PyTorch train the
same network on the same batch. PyTorch is our package in float32 with the same recipe,
Muon and all; TensorFlow.js gets Adam, which costs less (see web_training.mjs, which
writes three of its gradients by hand, in its favour). Before they are timed, all sides
must give one loss and one length of the gradient. onnxruntime-web cannot train: its
package for that, onnxruntime-training-web, was given up with 1.20. npm puts
TensorFlow.js into a folder for temporary files.

The product's peak is what the page's own WebAssembly reaches on two square matrices.
What it leaves out: the browser around the engine, reading texts, evaluation.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import (
    arguments,
    machine,
    median,
    pairs,
    print_rows,
    ratio,
    row,
    save,
    span,
)

from tinygpt.runtime.device import calm_threads

calm_threads()
import torch

from tinygpt.errors import UserError
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS
from tinygpt.training.loss import NextTokenLoss
from tinygpt.training.optimizers import make_optimizers
from tinygpt.training.plan import LADDER, TOKENS_PER_STEP, flops_per_token

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(tempfile.gettempdir()) / "tinygpt-web-training"
TFJS = ("@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0")
US, PLAIN, THEIRS, TORCH = "page", "page, plain loops", "TensorFlow.js", "PyTorch"
GOALS = {THEIRS: 3.0, TORCH: 0.35}
PEAK_GOAL, PEAK_SIDE = 0.6, 512
VOCABULARY, RUNG = 4096, 1  # what a minute on the stories is planned with


def install() -> None:
    """Put TensorFlow.js into `TOOLS`, once."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise UserError("node or npm is not here: apt-get install npm, or nodejs.org")
    if (TOOLS / "node_modules" / "@tensorflow" / "tfjs").is_dir():
        return
    TOOLS.mkdir(exist_ok=True)
    words = [npm, "install", "--silent", "--ignore-scripts", "--prefix", str(TOOLS)]
    done = subprocess.run([*words, *TFJS], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"npm could not install {TFJS}: {done.stderr.strip()[-300:]}")
    (TOOLS / "package.json").touch()


# --- The sides --------------------------------------------------------------------


class Side:
    """A process of Node."""

    def __init__(self, name: str) -> None:
        static = ROOT / "book" / "_static"
        script = Path(__file__).with_suffix(".mjs")
        self.process = subprocess.Popen(
            ["node", str(script), name, str(static), str(TOOLS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, act: str, **given: Any) -> dict[str, Any]:
        """Do what `acts` of web_training.mjs has under that name."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"act": act, **given}) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Torch:
    """Our package in PyTorch, in this process."""

    def __init__(self, model: GPT, train: Any, batch: dict[str, list[int]]) -> None:
        shape = (train.batch_size, model.config.context_length)
        self.ids, self.targets = (torch.tensor(t).view(shape) for t in batch.values())
        self.loss = NextTokenLoss(model)
        self.optimizers = make_optimizers(model, train)
        self.weights = list(model.parameters())

    def backward(self) -> float:
        """The loss; the gradients stand in the weights."""
        loss = self.loss(self.ids, self.targets)
        loss.backward()
        return float(loss.detach())

    def slope(self) -> dict[str, float]:
        """Loss and length of the gradient."""
        loss = self.backward()
        squares = sum(float(w.grad.square().sum()) for w in self.weights)
        for weight in self.weights:
            weight.grad = None
        return {"loss": loss, "length": squares**0.5}

    def train(self, seconds: float) -> float:
        """Tokens a second."""
        steps, start = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - start < seconds:
            self.backward()
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            steps += 1
        return steps * self.ids.numel() / (time.perf_counter() - start)


# --- The comparison ---------------------------------------------------------------


def measure(quick: bool, n: int) -> dict[str, Any]:
    """Tokens per second of all sides on one thread, in turns."""
    install()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    preset = PRESETS["tiny"]
    names = ("d_model", "n_layers", "n_heads", "context_length")
    sizes = dict(zip(names, LADDER[RUNG], strict=True))
    config = replace(preset.model, vocab_size=VOCABULARY, **sizes)
    tokens = TOKENS_PER_STEP
    train = replace(preset.train, batch_size=tokens // config.context_length)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    window = torch.randint(VOCABULARY, (2, tokens)).tolist()
    batch = dict(zip(("ids", "targets"), window, strict=True))
    given = {
        "batch": batch,
        "weights": {k: p.flatten().tolist() for k, p in model.named_parameters()},
        "shapes": {k: list(p.shape) for k, p in model.named_parameters()},
    }
    own = {"model": asdict(config), "train": asdict(train)}
    other = {"model": asdict(config), "batch": train.batch_size, "backend": "wasm"}
    options = {
        US: ("ours", own | {"simd": True}),
        PLAIN: ("ours", own | {"simd": False}),
        THEIRS: ("tensorflow", other),
    }
    ours = Torch(model, train, batch)
    wanted = ours.slope()
    opened = {name: Side(kind) for name, (kind, _) in options.items()}
    for name, side in opened.items():
        found = side.ask("open", options=options[name][1], **given)
        for what, value in wanted.items():
            assert abs(found[what] / value - 1) < 1e-3, (name, what, found, wanted)
        assert found["isFast"] is not (name == PLAIN), (name, found)
    seconds = 0.5 if quick else 3.0

    def speed(side: Side) -> Callable[[], float]:
        return lambda: float(side.ask("train", seconds=seconds)["speed"])

    sides = {name: speed(side) for name, side in opened.items()}
    sides[TORCH] = lambda: ours.train(seconds)
    per_token = flops_per_token(config)
    sides["peak"] = lambda: (
        float(opened[US].ask("peak", side=PEAK_SIDE, seconds=1)["speed"]) / per_token
    )
    measured = pairs(sides, n)
    for side in opened.values():
        side.close()
    return {
        "model": asdict(config),
        "batch_tokens": tokens,
        "flops_per_token": per_token,
        "loss_and_gradient": wanted,
        "tensorflow": TFJS,
        "tokens_per_second": {k: median(v) for k, v in measured.items()},
        "gflops": {
            k: median([s * per_token / 1e9 for s in v]) for k, v in measured.items()
        },
        "ratio": {k: ratio(measured[US], v) for k, v in measured.items() if k != US},
    }


def main() -> None:
    """Measure, print the rows, keep the result."""
    args = arguments(__doc__)
    try:
        found = measure(args.quick, args.pairs)
    except UserError as lack:
        print(f"Left out: {lack}.")
        return
    shares, rows = found["ratio"], []
    for name in (THEIRS, TORCH, PLAIN):
        goal = GOALS.get(name)
        about = f"training in the page on one thread, against {name}"
        reached = None if goal is None else shares[name]["median"] >= goal
        said = "" if goal is None else f"{goal:g}x"
        rows.append(row(about, said, span(shares[name]), reached))
    share = shares["peak"]
    about = "training in the page, of the peak of its own matrix product"
    reached = share["median"] >= PEAK_GOAL
    rows.append(row(about, f"{PEAK_GOAL:.0%}", f"{share['median']:.0%}", reached))
    print_rows(rows)
    save("web_training", {"machine": machine(), **found, "rows": rows}, args.quick)


if __name__ == "__main__":
    main()
