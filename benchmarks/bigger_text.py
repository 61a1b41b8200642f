"""A text of 1 GB: memory while it is prepared and read, and what reading it costs.

The text is the handbook over and over, in each copy its paragraphs in another order and
the words of a fiftieth of them changed. `tinygpt data prepare` cuts it into tokens with
two processes, and another process draws batches from all over the token file; the
memory of each is measured from outside. Then smaller parts of it are prepared by one
process and by two in turn, and the default model takes steps with batches from the file
and from memory in turn. What it leaves out: texts too big for this machine's disk.

    python benchmarks/bigger_text.py [--quick]     --quick: 20 MB
"""

import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from side_by_side import (
    arguments,
    in_a_process,
    machine,
    median,
    pairs,
    print_rows,
    ratio,
    row,
    save,
    span,
)

BIG, SMALL, PART = 1_000_000_000, 20_000_000, 40_000_000
MOST = 600  # MB
WORDS = "agree ask buyer call decide listen offer price question reason seller trust"
STEPS = 5  # of training, per turn
SAMPLES_PER_SECOND = 20


def copies(text: str) -> Iterator[bytes]:
    """Copies of the text without end, each changed a little."""
    chance, paragraphs = random.Random(1), text.split("\n\n")
    words = WORDS.split()
    while True:
        chance.shuffle(paragraphs)
        for _ in range(len(paragraphs) // 50):
            i = chance.randrange(len(paragraphs))
            kept = paragraphs[i].split(" ")
            kept[chance.randrange(len(kept))] = chance.choice(words)
            paragraphs[i] = " ".join(kept)
        yield ("\n\n".join(paragraphs) + "\n\n").encode()


def write_text(path: Path, size: int) -> None:
    """A text of at least `size` bytes."""
    from tinygpt.text.corpora import load_text

    with path.open("wb") as file:
        for copy in copies(load_text("handbook")):
            file.write(copy)
            if file.tell() >= size:
                return


def resident(pid: int) -> float:
    """MB of the process and those it started; pages that they share count each time."""
    import psutil

    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total / 1e6


def watched(words: list[str], **environment: str) -> dict[str, Any]:
    """Run a command; its time, its last line, and the most memory it had at once."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    peak, over = [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(1 / SAMPLES_PER_SECOND):
            peak[0] = max(peak[0], resident(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    over.set()
    watcher.join()
    assert process.returncode == 0, words
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "peak_mb": round(peak[0]),
        "said": said.splitlines()[-1],
    }


def processes(text: str, n: int) -> None:
    """In a process of its own: tokens per second of one process and of two, in turn.

    The clock starts when every process has answered, so the start-up is left out.
    """
    import json

    from tinygpt.text.parallel_encode import encode_pieces, pieces
    from tinygpt.text.tokenizer import get_tokenizer

    tokenizer = get_tokenizer("handbook-4k")

    def side(workers: int) -> Callable[[], float]:
        def measure() -> float:
            todo = encode_pieces(pieces([Path(text)]), tokenizer, "uint16", workers)
            for _ in range(workers):
                next(todo)
            start = time.perf_counter()
            tokens = sum(made.n_ids for _, made in todo)
            return tokens / (time.perf_counter() - start)

        return measure

    speed = pairs({"1": side(1), "2": side(2)}, n)
    print(
        json.dumps(
            {
                "tokens_per_second": {k: median(v) for k, v in speed.items()},
                "ratio": ratio(speed["2"], speed["1"]),
            }
        )
    )


def read(path: str) -> None:
    """In a process of its own: draw as many windows as there are, by random places.

    The default preset's corpus, batches and model, so that its memory is training's.
    """
    from tinygpt.presets import PRESETS
    from tinygpt.training.run import pretrain

    run = pretrain(Path("no-run"), *recipe(path, PRESETS))
    next(run.trainer.run())
    batches, before = run.trainer.batches, time.perf_counter()
    n = min(20_000, batches.n_windows // batches.batch_size)
    for step in range(n):
        batches.at(step)
    print(f"{n * batches.batch_size / (time.perf_counter() - before):.0f}")


def recipe(path: str, presets: dict[str, Any]) -> tuple[Any, Any]:
    """The default preset on the token file."""
    from dataclasses import replace

    preset = presets["tiny"]
    train = replace(preset.train, data=path, device="cpu", steps=10**6)
    return preset.model, replace(train, eval_interval=10**6)


def train(path: str, n: int) -> None:
    """In a process of its own: steps with batches from the file and from memory."""
    import json
    from dataclasses import replace

    import numpy as np
    import torch

    from tinygpt.presets import PRESETS
    from tinygpt.text.dataset import Batches
    from tinygpt.training.run import pretrain

    model, config = recipe(path, PRESETS)
    run = pretrain(Path("no-run"), model, replace(config, eval_windows=1))
    mapped = run.trainer.batches
    held = torch.from_numpy(np.asarray(run.trainer.batches.tokens).astype(np.int64))
    memory = Batches(held, model.context_length, config.batch_size, config.seed)
    step = [0]

    def side(batches: Batches) -> Callable[[], float]:
        def measure() -> float:
            run.trainer.batches = batches
            start = time.perf_counter()
            for _ in range(STEPS):
                run.trainer._take_step(run.trainer.loss)
            tokens = STEPS * config.batch_size * model.context_length
            return tokens / (time.perf_counter() - start)

        return measure

    def drawing(batches: Batches) -> Callable[[], float]:
        def measure() -> float:
            start = time.perf_counter()
            for _ in range(50):
                step[0] += 1
                batches.at(step[0])
            return 1e6 * (time.perf_counter() - start) / 50

        return measure

    speed = pairs({"file": side(mapped), "memory": side(memory)}, n, warmup=2)
    draw = pairs({"file": drawing(mapped), "memory": drawing(memory)}, n, warmup=2)
    tokens = config.batch_size * model.context_length
    result = {
        "tokens_per_second": {k: median(v) for k, v in speed.items()},
        "ratio": ratio(speed["file"], speed["memory"]),
        "microseconds_per_batch": {k: median(v) for k, v in draw.items()},
        "microseconds_per_step": 1e6 * tokens / median(speed["memory"]),
    }
    result["share_of_a_step"] = round(
        (median(draw["file"]) - median(draw["memory"]))
        / result["microseconds_per_step"],
        4,
    )
    print(json.dumps(result))


def main() -> None:
    """Prepare, read, compare."""
    args = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        text, part = Path(folder, "big.txt"), Path(folder, "part.txt")
        write_text(text, SMALL if args.quick else BIG)
        write_text(part, PART // 4 if args.quick else PART)
        size, out = text.stat().st_size, text.with_suffix(".tokens")
        words = ["-m", "tinygpt", "data", "prepare", str(text), "--out", str(out)]
        done = watched([*words, "--workers", "2"])
        from tinygpt.text.token_file import read_head

        told = read_head(out)
        done["tokens_per_second"] = round(told.tokens / done["seconds"])
        done["said"] = done["said"].removeprefix(f"{folder}/")
        print(done, flush=True)
        reading = watched([__file__, "read", str(out)])
        print(reading, flush=True)
        n = 3 if args.quick else 5
        two = in_a_process(__file__, "processes", str(part), str(n))
        print(two, flush=True)
        same = in_a_process(__file__, "train", str(out), str(8 * n))
        print(same, flush=True)
    rows = [
        row(
            f"bigger text, {size / 1e9:.2g} GB: memory while preparing",
            f"under {MOST} MB",
            f"{done['peak_mb']} MB",
            done["peak_mb"] < MOST,
        ),
        row(
            "bigger text: memory while reading",
            f"under {MOST} MB",
            f"{reading['peak_mb']} MB",
            reading["peak_mb"] < MOST,
        ),
        row("bigger text: preparing, 2 processes against 1", "", span(two["ratio"])),
        row(
            "bigger text: training speed, from the file against from memory",
            "within 3 %",
            span(same["ratio"]),
            same["ratio"]["median"] >= 0.97,
        ),
    ]
    print_rows(rows)
    result = {
        "machine": machine(),
        "text_bytes": size,
        "tokens": told.tokens,
        "token_file_bytes": size_of(told),
        "preparing": done,
        "reading": reading,
        "processes": two,
        "training": same,
        "rows": rows,
    }
    save("bigger_text", result, args.quick)


def size_of(told: Any) -> int:
    """Bytes of the token file."""
    from tinygpt.text.token_file import HEAD

    return HEAD + told.tokens * told.itemsize


if __name__ == "__main__":
    if sys.argv[1:2] == ["read"]:
        read(sys.argv[2])
    elif sys.argv[1:2] == ["processes"]:
        processes(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["train"]:
        train(sys.argv[2], int(sys.argv[3]))
    else:
        main()
