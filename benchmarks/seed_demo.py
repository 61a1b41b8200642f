"""The 240-line demo that this course grew out of, written plainly: the baseline.

Its habits are kept on purpose, the slow ones too: every head has three linear layers of
its own, the table of positions is built anew in every forward pass, one AdamW moves
everything, and every 20 steps 2 x 20 batches are evaluated. Windows are drawn at random
with replacement, ids are those of cl100k_base (or handbook-4k where that vocabulary
cannot be had), and the tables have a row for every id up to the largest.

What 5,000 steps end with is kept in results/seed_demo.json. How long they take is
measured beside our own training, by time_to_quality.py.

    python benchmarks/seed_demo.py          about half an hour
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
import torch.nn.functional as F
from side_by_side import machine, save
from torch import Tensor, nn

from tinygpt.errors import UserError
from tinygpt.text.corpora import load_text
from tinygpt.text.tokenizer import Tokenizer, get_tokenizer

D_MODEL, N_HEADS, N_BLOCKS, CONTEXT, BATCH = 64, 4, 8, 16, 4
LEARNING_RATE, DROPOUT, STEPS, SEED = 1e-3, 0.1, 5000, 1337
EVAL_INTERVAL, EVAL_BATCHES = 20, 20


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


def vocabulary() -> tuple[str, Tokenizer]:
    """cl100k_base where it can be had, else the vocabulary that ships."""
    try:
        return "cl100k_base", get_tokenizer("cl100k_base")
    except UserError:
        return "handbook-4k", get_tokenizer("handbook-4k")


class Run:
    """The demo's run, step by step, as `main` below and the benchmark take it."""

    def __init__(self) -> None:
        self.tokenizer_name, tokenizer = vocabulary()
        ids = torch.tensor(tokenizer.encode(load_text("handbook")))
        cut = int(0.9 * len(ids))
        self.train, self.val = ids[:cut], ids[cut:]
        self.val_bytes = sum(tokenizer.byte_lengths[i] for i in self.val[1:].tolist())
        torch.manual_seed(SEED)
        self.model = Demo(int(ids.max()) + 1)
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
        nats = 0.0
        for at in range(0, len(self.val) - 1, CONTEXT):
            x = self.val[at : at + CONTEXT][None]
            y = self.val[at + 1 : at + CONTEXT + 1][None]
            nats += self.model.loss(x[:, : y.size(1)], y).item() * y.size(1)
        self.model.train()
        return nats / math.log(2) / self.val_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    run = Run()
    log = []
    for step, losses in run.steps(args.steps):
        if losses:
            log.append({"step": step, **{k: round(v, 4) for k, v in losses.items()}})
            if step % 100 == 0:
                print(json.dumps(log[-1]), flush=True)
    result = {
        "machine": machine(),
        "tokenizer": run.tokenizer_name,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "steps": args.steps,
        "bits_per_byte": round(run.bits_per_byte(), 4),
        "log": log,
    }
    print({k: v for k, v in result.items() if k != "log"})
    save("seed_demo", result)


if __name__ == "__main__":
    main()
