"""The 240-line demo that this course grew out of, written plainly: the baseline.

Its habits are kept on purpose, the slow ones too: every head has three linear layers of
its own, the table of positions is built anew in every forward pass, one AdamW moves
everything, and every 20 steps 2 x 20 batches are evaluated. Windows are drawn at random
with replacement, ids are those of cl100k_base, and the tables have a row for every id
up to the largest. It runs with torch's own thread settings.

Bits per byte on the whole validation split, every 250 steps, is kept for each text in
results/seed_demo.json; making that curve is not part of the demo's time. How long a
step takes is measured beside our own training, by time_to_quality.py.

    python benchmarks/seed_demo.py [--text stories] [--steps 2000]
    python benchmarks/seed_demo.py --time 100         seconds of one step, after 20 more
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
import torch.nn.functional as F
from side_by_side import RESULTS, key, load, machine, save
from torch import Tensor, nn

from tinygpt.errors import UserError
from tinygpt.text.documents import load_documents, split_documents
from tinygpt.text.tokenizer import get_tokenizer

D_MODEL, N_HEADS, N_BLOCKS, CONTEXT, BATCH = 64, 4, 8, 16, 4
LEARNING_RATE, DROPOUT, STEPS, SEED = 1e-3, 0.1, 5000, 1337
EVAL_INTERVAL, EVAL_BATCHES = 20, 20
TOKENIZER, WARMUP = "cl100k_base", 20
CURVE_INTERVAL, CURVE_BATCH = 250, 16  # steps between two points; windows at a time


class Head(nn.Module):
    """One attention head with its own three linear layers."""

    def __init__(self) -> None:
        super().__init__()
        size = D_MODEL // N_HEADS
        self.key = nn.Linear(D_MODEL, size, bias=False)
        self.query = nn.Linear(D_MODEL, size, bias=False)
        self.value = nn.Linear(D_MODEL, size, bias=False)
        self.register_buffer("mask", torch.tril(torch.ones(CONTEXT, CONTEXT)))
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        t = x.size(1)
        q, k, v = self.query(x), self.key(x), self.value(x)
        scores = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
        scores = scores.masked_fill(self.mask[:t, :t] == 0, -math.inf)
        return self.dropout(scores.softmax(dim=-1)) @ v


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head() for _ in range(N_HEADS))
        self.projection = nn.Linear(D_MODEL, D_MODEL)
        self.dropout = nn.Dropout(DROPOUT)
        self.feed_forward = nn.Sequential(
            nn.Linear(D_MODEL, 4 * D_MODEL),
            nn.ReLU(),
            nn.Linear(4 * D_MODEL, D_MODEL),
            nn.Dropout(DROPOUT),
        )
        self.norm1, self.norm2 = nn.LayerNorm(D_MODEL), nn.LayerNorm(D_MODEL)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        mixed = torch.cat([head(normed) for head in self.heads], dim=-1)
        x = x + self.dropout(self.projection(mixed))
        return x + self.feed_forward(self.norm2(x))


class Demo(nn.Module):
    """The demo's model; its loss is the mean over a batch, in nats per token."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size + 1, D_MODEL)
        self.blocks = nn.Sequential(*[Block() for _ in range(N_BLOCKS)])
        self.norm = nn.LayerNorm(D_MODEL)
        self.head = nn.Linear(D_MODEL, vocab_size)

    def forward(self, ids: Tensor) -> Tensor:
        t = ids.size(1)
        table = torch.zeros(CONTEXT, D_MODEL)
        place = torch.arange(CONTEXT).float().unsqueeze(1)
        rate = torch.exp(
            torch.arange(0, D_MODEL, 2).float() * (-math.log(10000.0) / D_MODEL)
        )
        table[:, 0::2], table[:, 1::2] = (
            torch.sin(place * rate),
            torch.cos(place * rate),
        )
        x = self.embedding(ids) + table[:t]
        return self.head(self.norm(self.blocks(x)))

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten())


class Run:
    """The demo's run on a text, step by step."""

    def __init__(self, text: str = "handbook") -> None:
        tokenizer = get_tokenizer(TOKENIZER)
        encode = tokenizer.fast_encoder()
        self.train, self.val = (
            torch.tensor(encode("".join(part)))
            for part in split_documents(load_documents(text))
        )
        self.val_bytes = sum(tokenizer.byte_lengths[i] for i in self.val[1:].tolist())
        torch.manual_seed(SEED)
        largest = int(torch.cat([self.train, self.val]).max())
        self.model = Demo(largest + 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)

    def batch(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        starts = torch.randint(0, len(ids) - CONTEXT, (BATCH,)).tolist()
        x = torch.stack([ids[i : i + CONTEXT] for i in starts])
        y = torch.stack([ids[i + 1 : i + CONTEXT + 1] for i in starts])
        return x, y

    @torch.no_grad()
    def estimate(self) -> dict[str, float]:
        self.model.eval()
        means = {}
        for name, ids in (("train", self.train), ("validation", self.val)):
            losses = [self.model.loss(*self.batch(ids)) for _ in range(EVAL_BATCHES)]
            means[name] = torch.stack(losses).mean().item()
        self.model.train()
        return means

    def steps(
        self, n: int = STEPS, last_estimate: bool = True
    ) -> Iterator[tuple[int, dict[str, float] | None]]:
        """Take `n` steps; yields each step's number, and the losses where due."""
        for step in range(n):
            due = step % EVAL_INTERVAL == 0 or (last_estimate and step == n - 1)
            losses = self.estimate() if due else None
            loss = self.model.loss(*self.batch(self.train))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            yield step, losses

    @torch.no_grad()
    def bits_per_byte(self) -> float:
        """On the whole validation split, every id but the first a target once."""
        self.model.eval()
        nats, n = 0.0, (len(self.val) - 1) // CONTEXT * CONTEXT
        x, y = self.val[:n].view(-1, CONTEXT), self.val[1 : n + 1].view(-1, CONTEXT)
        rest = self.val[n:-1][None], self.val[n + 1 :][None]  # the last, short window
        batches = [*zip(x.split(CURVE_BATCH), y.split(CURVE_BATCH), strict=True), rest]
        for ids, targets in batches:
            if targets.numel():
                nats += self.model.loss(ids, targets).item() * targets.numel()
        self.model.train()
        return nats / math.log(2) / self.val_bytes


def seconds_per_step(text: str, stretch: int) -> float:
    """The mean over `stretch` steps, the demo's own evaluations included."""
    run, start = Run(text), 0.0
    for step, _ in run.steps(WARMUP + stretch, last_estimate=False):
        if step == WARMUP - 1:
            start = time.perf_counter()
    return (time.perf_counter() - start) / stretch


def train(text: str, steps: int) -> None:
    """Take the steps, and keep the curve beside those of other texts."""
    run, curve = Run(text), []
    for step, _ in run.steps(steps):
        if (step + 1) % CURVE_INTERVAL == 0 or step + 1 == steps:
            bits = round(run.bits_per_byte(), 4)
            curve.append({"step": step + 1, "bits_per_byte": bits})
            print(json.dumps(curve[-1]), flush=True)
    kept = load("seed_demo") if (RESULTS / "seed_demo.json").exists() else {}
    result = {
        "machine": machine(),
        "tokenizer": TOKENIZER,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "validation_bytes": run.val_bytes,
        "steps": steps,
        "bits_per_byte": curve[-1]["bits_per_byte"],
        "curve": curve,
    }
    save("seed_demo", {"texts": kept.get("texts", {}) | {key(text): result}})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", default="handbook")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--time", type=int, help="measure so many steps, keep nothing")
    args = parser.parse_args()
    try:
        if args.time:
            print(json.dumps({"seconds": seconds_per_step(args.text, args.time)}))
        else:
            train(args.text, args.steps)
    except UserError as error:
        sys.exit(f"The demo cannot run: {error}")


if __name__ == "__main__":
    main()
