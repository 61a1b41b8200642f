"""What each way of training does to the answers: the checks of chapter 08 in one table.

    python benchmarks/answers.py [--only NAME ...] [--table]

pocket-gpt2 practises copying, and is then trained on the shop's chats for two epochs:
all its weights, LoRA beside all its matrices, or the same shape from random weights;
the first of these then learns from rewards. They stand beside pocket-gpt2 as it was and
pocket-chat as it ships. Each answers every prompt of the test part three times. Runs
lie in build/answers; those and rows that are there are not made again. What it leaves
out: several trainings of each (see LOG.md), and time.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "resources")]
from models import PRACTICE, ROOT, TUNE, train, write_practice
from side_by_side import RESULTS, load, machine, save

from tinygpt.finetuning.answers import evaluate_answers, loss_on_answers
from tinygpt.finetuning.chat_data import chat_parts
from tinygpt.finetuning.run import load_model
from tinygpt.finetuning.shop import load_questions
from tinygpt.text.corpora import load_chats

RUNS = ROOT / "build" / "answers"
SEEDS = 3  # answers to each prompt
PRACTISE = f"{PRACTICE} --dtype bfloat16"
CHATS = (
    f"finetune shop-chats --model build/models/practice --epochs 2 {TUNE} "
    "--eval-interval 50 --dtype bfloat16"
)
ALL = f"{CHATS} --lr 0.001 --embedding-lr 0.004 --weight-decay 0.1 --dropout 0.1"
LORA = (
    f"{CHATS} --lora --lora-targets qkv attention.output feed_forward.input "
    "feed_forward.output head --lora-rank 7 --lora-alpha 14 --lr 0.004 --dropout 0"
)
REWARD = (
    "reward --model build/models/all --steps 60 --lr 1e-4 --kl-weight 0.1 "
    "--schedule linear --warmup-steps 10 --eval-interval 60 --eval-windows 128"
)
# A row's name, its model, and the commands that train it, in turn.
MODELS: dict[str, tuple[str, dict[str, str]]] = {
    "pocket-gpt2": ("pocket-gpt2", {}),
    "from scratch": (
        "scratch",
        {
            "scratch-practice": f"{PRACTISE} --scratch",
            "scratch": ALL.replace("models/practice", "models/scratch-practice"),
        },
    ),
    "LoRA": ("lora", {"practice": PRACTISE, "lora": LORA}),
    "all weights": ("all", {"practice": PRACTISE, "all": ALL}),
    "after rewards": (
        "rewarded",
        {"practice": PRACTISE, "all": ALL, "rewarded": REWARD},
    ),
    "pocket-chat": ("pocket-chat", {}),
}


def measure(name: str) -> dict[str, Any]:
    """Train what a row needs, and check its answers."""
    last, commands = MODELS[name]
    write_practice(RUNS / "practice.jsonl")
    for run, command in commands.items():
        train(command, run, RUNS)
    model, tokenizer = load_model(RUNS / last if commands else last)
    test = chat_parts(load_chats("shop-chats")).test
    loss = loss_on_answers(model, tokenizer, test)
    report = evaluate_answers(model, tokenizer, test, load_questions(), SEEDS)
    return {
        "commands": [c.replace("models", "answers") for c in commands.values()],
        "bits_per_byte": round(loss.bits_per_byte, 4),
        "rates": {check: [rate.right, rate.of] for check, rate in report.rates.items()},
    }


def print_table(rows: dict[str, Any]) -> None:
    """The rows as Markdown."""
    checks = [check for row in rows.values() for check in row["rates"]]
    names = list(dict.fromkeys(checks))
    print(f"| model | bits per byte | {' | '.join(names)} |")
    print("|---" * (len(names) + 2) + "|")
    for name in [name for name in MODELS if name in rows]:
        row = rows[name]
        shares = [f"{right / of:.1%}" for right, of in row["rates"].values()]
        print(f"| {name} | {row['bits_per_byte']:.3f} | {' | '.join(shares)} |")


def main() -> None:
    """Make the rows that are missing, and print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=MODELS, help="rows to make")
    parser.add_argument("--table", action="store_true", help="show, run nothing")
    args = parser.parse_args()
    kept = (RESULTS / "answers.json").exists()
    rows = load("answers")["models"] if kept else {}
    for name in [] if args.table else args.only or MODELS:
        if name not in rows:
            rows[name] = measure(name)
            save("answers", {"machine": machine(), "seeds": SEEDS, "models": rows})
    print_table(rows)


if __name__ == "__main__":
    main()
