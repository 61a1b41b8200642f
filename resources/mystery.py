"""Make the runs of the page "Mystery runs": book/mystery_runs.json.

    python resources/mystery.py [NAME ...]

`experiment` trains a tiny GPT on sentences of data/stories.txt; that is the healthy
run. Each of the twelve FAULTS is one other line in its source, and what the page shows
as the changed line is what ran. Besides the losses and a sample, the same measurements
are taken of every run, by which they can be told apart. All runs have one seed and one
thread and take some seconds each; given names, only those runs are made anew.

What it leaves out: explaining them (book/mystery_runs.md) and drawing them
(book/mystery.py).
"""

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from tinygpt.config import GPTConfig
from tinygpt.course.exercises import body, instead
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe import END_OF_TEXT as END
from tinygpt.text.bpe_training import train_bpe
from tinygpt.text.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "book" / "mystery_runs.json"
C, H, T, V = 48, 4, 32, 384  # d_model, heads, context length, tokens
D = C // H
STEPS, EVERY, BATCH = 300, 15, 32
PROMPT = "The old"
FAULTS = {
    "rate": "schedule = OneCycleLR(optimizer, max_lr=1.0, total_steps=STEPS)",
    "mask": "mask = torch.ones(T, T, dtype=torch.bool).tril(1)",
    "shift": "    inputs, targets = ids[:, :-1], ids[:, :-1]",
    "positions": "positions = torch.zeros(T, dtype=torch.long)",
    "leak": "train, val, new = texts[:1500], texts[1000:1128], texts[5128:5256]",
    "tokenizer": "tokenizer = train_bpe(times_tables(), V, special_tokens=[END])",
    "dropout": "    model.train(True)",
    "embedding": "nn.init.normal_(model.token_embedding.weight, std=1.0)",
    "decay": 'groups = [{"params": [p], "weight_decay": 0.5} for p in weights]',
    "loss": "    y = y.masked_fill(x != end, -100)",
    "overfit": "train, val, new = texts[:100], texts[5000:5128], texts[5128:5256]",
    "head": "silent = [output, attention.qkv.weight.data[2 * C : 2 * C + D]]",
}


def sentences() -> list[str]:
    """The sentences of the stories, in their order, neither short nor long."""
    stories = (ROOT / "data" / "stories.txt").read_text(encoding="utf-8")
    found = re.split(r"(?<=[.!?])\s+", stories.replace(END, " "))
    return [text for text in found if 20 <= len(text) <= 80 and '"' not in text]


def times_tables() -> str:
    """Another text to learn a tokenizer from."""
    lines = [f"{a} times {b} is {a * b}" for a in range(100) for b in range(100)]
    return "\n".join(lines)


def experiment() -> dict[str, Any]:
    """Train and measure; every fault is another line in the place of one of these."""
    torch.manual_seed(1)
    texts = sentences()
    train, val, new = texts[:1500], texts[5000:5128], texts[5128:5256]
    tokenizer = train_bpe("\n".join(train), V, special_tokens=[END])
    end = tokenizer.end_of_text
    model = GPT(GPTConfig(V, T, C, H, n_layers=2, dropout=0.1, init="zero"))
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    attention = model.blocks[0].attention
    output = attention.output.weight.data
    silent = [output]  # every head begins silent, and finds its voice
    for part in silent:
        nn.init.zeros_(part)
    weights = list(model.parameters())
    gains = [p for n, p in model.named_parameters() if re.search("norm.*weight", n)]
    groups = [{"params": [p], "weight_decay": 0.5 * (p.ndim > 1)} for p in weights]
    optimizer = torch.optim.AdamW(groups)
    schedule = OneCycleLR(optimizer, max_lr=0.01, total_steps=STEPS)
    mask = torch.ones(T, T, dtype=torch.bool).tril()
    positions = torch.arange(T)

    def encode(texts: list[str]) -> Tensor:
        ids = [tokenizer.encode(text)[:T] for text in texts]
        return torch.tensor([text + [end] * (T + 1 - len(text)) for text in ids])

    def shift(ids: Tensor) -> tuple[Tensor, Tensor]:
        inputs, targets = ids[:, :-1], ids[:, 1:]
        return inputs, targets

    def predict(x: Tensor) -> Tensor:
        n = x.size(1)
        return model(x, mask=mask[:n, :n], positions=positions[:n])

    def losses(ids: Tensor) -> Tensor:  # of each token that follows a word
        x, y = shift(ids)
        each = F.cross_entropy(predict(x).transpose(1, 2), y, reduction="none")
        return each[x != end]

    @torch.no_grad()
    def evaluate(texts: list[str]) -> float:
        model.train(False)
        return losses(encode(texts)).mean().item()

    batches = encode(train)
    curve = [(0, evaluate(train[:128]), evaluate(val))]
    model.train(True)
    for step in range(1, STEPS + 1):
        x, y = shift(batches[torch.randint(len(batches), (BATCH,))])
        y = y.masked_fill(x == end, -100)
        loss = F.cross_entropy(predict(x).transpose(1, 2), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % EVERY == 0:
            curve.append((step, evaluate(train[:128]), evaluate(val)))
            model.train(True)
    first, second, fresh = evaluate(val), evaluate(val), evaluate(new)
    model.train(False)
    ids = encode(val)
    return {
        "curve": curve,
        "samples": [write(predict, tokenizer, seed) for seed in range(3)],
        "bytes per token": bytes_per_token(tokenizer, val),
        "the same twice": abs(first - second),
        "new text": fresh,
        "repeated": repeated(predict, ids),
        "next token changed": next_token_changed(predict, ids, end),
        "mean gain": torch.cat(gains).mean(),
        "heads": output.view(C, H, D).norm(dim=(0, 2)),
    }


def bytes_per_token(tokenizer: Tokenizer, texts: list[str]) -> float:
    """Of whole texts, however long."""
    n_bytes = sum(len(text.encode("utf-8")) for text in texts)
    return n_bytes / sum(len(tokenizer.encode(text)) for text in texts)


@torch.no_grad()
def write(predict: Any, tokenizer: Tokenizer, seed: int) -> str:
    """Twenty-five tokens at most after PROMPT, drawn at temperature 0.5."""
    chance = torch.Generator().manual_seed(seed)
    ids = tokenizer.encode(PROMPT)
    while len(ids) < 25 and ids[-1] != tokenizer.end_of_text:
        p = (predict(torch.tensor([ids]))[0, -1] / 0.5).softmax(dim=-1)
        ids.append(int(p.multinomial(1, generator=chance)))
    return tokenizer.decode(ids)


@torch.no_grad()
def repeated(predict: Any, ids: Tensor) -> float:
    """The largest change of a logit along a text that repeats one token."""
    logits = predict(ids[:, :1].expand(-1, 10))
    return (logits - logits[:, :1]).abs().max().item()


@torch.no_grad()
def next_token_changed(predict: Any, ids: Tensor, end: int) -> float:
    """The largest change of a logit when the token after its own is another one."""
    x = ids[:, :10].clone()
    before = predict(x)[:, 8]
    x[:, 9] = (x[:, 9] + 1) % end
    return (predict(x)[:, 8] - before).abs().max().item()


def rounded(value: Any) -> Any:
    """Numbers with four digits, wherever they are."""
    if isinstance(value, Tensor):
        return rounded(value.tolist())
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    """Read the command line, run, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=["healthy", *FAULTS, []])
    names = parser.parse_args().names or ["healthy", *FAULTS]
    torch.set_num_threads(1)
    for name in names:
        started = time.perf_counter()
        run = instead(experiment, FAULTS[name]) if name in FAULTS else experiment
        made = {key: rounded(value) for key, value in run().items()}
        if name in FAULTS:
            changed = zip(body(experiment), run.lines, strict=True)
            ((right, wrong),) = ((a, b) for a, b in changed if a != b)
            made["lines"] = [right.strip(), wrong.strip()]
        stored = json.loads(RUNS.read_text()) if RUNS.exists() else {"runs": {}}
        stored["runs"][name] = made
        RUNS.write_text(json.dumps(stored, indent=1) + "\n")
        took = time.perf_counter() - started
        sys.stdout.write(f"{name}: {took:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
