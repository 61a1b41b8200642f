"""Train the small models that ship in data/, and state what they are.

    python resources/models.py [tiny] [pocket-gpt2] [pocket-chat]

`tiny` is the preset of that name, which chapter 07 trains. `pocket-gpt2` has GPT-2's
shape and has read the stories and the handbook; `pocket-chat` is pocket-gpt2 after
copying practice and the shop's chats. Each is trained by the `tinygpt` command, stored
in float16, described in a card, and entered with its fingerprint in data/README.md. A
training that was interrupted goes on where it stopped.
"""

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import TextWrapper

import numpy as np
import torch

from tinygpt.cli.main import main as tinygpt
from tinygpt.config import FinetuneConfig
from tinygpt.finetuning.answers import evaluate_answers
from tinygpt.finetuning.chat_data import ChatData, chat_parts
from tinygpt.finetuning.practice import copying_practice
from tinygpt.finetuning.run import load_model, load_run
from tinygpt.finetuning.shop import load_questions
from tinygpt.llm import LLM
from tinygpt.presets import PRESETS
from tinygpt.text.corpora import load_chats
from tinygpt.text.documents import split_text
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.tensor_file import save_tensors
from tinygpt.training.text_data import TextData

ROOT = Path(__file__).resolve().parent.parent
DATA, RUNS = ROOT / "data", ROOT / "build" / "models"

CARD = """\
---
language: en
license: cc0-1.0
bits_per_byte: {bits_per_byte:.4f}
---

# {name}

{what} {parameters:,} parameters, stored in float16 ({size:.1f} MB).

- **Data:** {data}.
- **Command:** `make models ARGS={name}`, which runs {command} and stores the best \
weights.
- **Seed:** {seed}; the weights are those of step {step}, after {minutes:.0f} minutes \
on {threads}. Another processor or number of threads gives slightly different ones.
- **Result:** {result}.
- **Intended use:** {use}.
- **Limits:** {limits}

CC0, like the texts it was trained on.
"""
TINY = "train --preset tiny --dtype float32"
POCKET = "train --preset pocket"
TUNE = (
    "--optimizer muon --muon-lr 0.01 --beta1 0.8 --batch-size 16 --warmup-steps 10 "
    "--schedule linear --renumber --patience None"
)
PRACTICE = (
    "finetune build/models/practice.jsonl --model pocket-gpt2 --steps 220 --lr 0.002 "
    f"--embedding-lr 0.012 --weight-decay 0.1 --dropout 0 {TUNE}"
)
CHAT = (
    "finetune shop-chats --model build/models/practice --epochs 10 --lr 0.001 "
    "--embedding-lr 0.004 --weight-decay 0.5 --dropout 0.1 --average-fraction 0.1 "
    f"--eval-interval 100 {TUNE}"
)
PRACTISED = 2000  # conversations


# --- Training ---------------------------------------------------------------------


def train(command: str, name: str) -> Path:
    """The run `name`, trained by a command; if it was interrupted, it goes on."""
    resume = ["--resume"] if RunFolder(RUNS / name).exists else []
    words = command.replace("build/models", str(RUNS)).split()
    tinygpt([*words, f"--name={name}", f"--out={RUNS}", *resume])
    return RUNS / name


def train_tiny() -> None:
    """The preset `tiny`, as a run folder without what only training needs."""
    run, to = train(TINY, "tiny"), DATA / "tiny"
    model, _, metadata = load_run(run)
    to.mkdir(exist_ok=True)
    for file in [run / "run.json", *run.glob("tokenizer.*")]:
        shutil.copyfile(file, to / file.name)
    half = {name: p.to(torch.float16) for name, p in model.named_parameters()}
    save_tensors(to / "best.safetensors", half, {"step": metadata["step"]})


def train_pocket() -> None:
    """GPT-2's shape after the stories and the handbook, in GPT-2's format."""
    export(train(POCKET, "pocket-gpt2"))


def train_chat() -> None:
    """pocket-gpt2 after copying practice and the shop's chats, in GPT-2's format."""
    write_practice(RUNS / "practice.jsonl")
    train(PRACTICE, "practice")
    export(train(CHAT, "pocket-chat"))


def write_practice(path: Path) -> None:
    """Copying practice in the words of the chats that train."""
    train, _, _ = chat_parts(load_chats("shop-chats"))
    said = (message["content"] for chat in train for message in chat)
    words = [word for text in said for word in text.split() if word.isalpha()]
    chats = copying_practice(words, PRACTISED, np.random.default_rng(1337))
    lines = [json.dumps({"messages": chat}) + "\n" for chat in chats]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def export(run: Path) -> None:
    """Write the best weights into data/, in float16."""
    to = DATA / run.name
    tinygpt(["export", f"--model={run}", f"--out={to}", "--dtype=float16"])


# --- Cards ------------------------------------------------------------------------


def tiny_card() -> dict[str, object]:
    """What the card of `tiny` says."""
    model, tokenizer, _ = load_run(DATA / "tiny")
    c = model.config
    loss = TextData("handbook", tokenizer, c.context_length).evaluate(model)
    return {
        "what": f"The model that chapter 07 trains, the preset `tiny`: {c.n_layers} "
        f"blocks, {c.n_heads} heads, d_model {c.d_model}, context {c.context_length};",
        "parameters": model.n_parameters(),
        "data": "the first 90 % of the characters of `data/sales_handbook.txt`",
        "command": f"`tinygpt {TINY}`",
        "seed": PRESETS["tiny"].train.seed,
        "bits_per_byte": loss.bits_per_byte,
        "result": f"{loss.bits_per_byte:.4f} bits per byte (perplexity "
        f"{loss.perplexity:.1f}) on the last 10 % of the handbook",
        "use": "a model small enough to load into a page, to look inside and play with",
        "limits": "it has read one book about selling. It writes sentences that sound "
        "like that book and mean little; it knows no facts.",
    }


def pocket_card() -> dict[str, object]:
    """What the card of `pocket-gpt2` says."""
    model, tokenizer = load_model(DATA / "pocket-gpt2")
    c = model.config
    rows, bits = [], {}
    for name in ("stories", "handbook"):
        text = TextData(name, tokenizer, c.context_length)
        bits[name] = text.evaluate(model).bits_per_byte
        others = text.baselines()
        kinds = " | ".join(
            f"{others[kind]:.2f}" for kind in ("unigram", "bigram", "xz")
        )
        rows.append(f"| {name} | {bits[name]:.4f} | {kinds} |")
    samples = "\n\n".join(pocket_samples())
    return {
        "what": "A GPT-2-shaped model small enough to ship with a course: "
        f"{c.n_layers} blocks, {c.n_heads} heads, d_model {c.d_model}, context "
        f"{c.context_length}, learned positions, pre-norm, tanh GELU, tied head; "
        '`tinygpt.load("pocket-gpt2")` and transformers\' '
        '`AutoModelForCausalLM.from_pretrained("data/pocket-gpt2")` both load it.',
        "parameters": model.n_parameters(),
        "data": "the training parts of `data/stories.txt` and, twice as often, of "
        "`data/sales_handbook.txt`, in tokens of `course-4k`",
        "command": f"`tinygpt {POCKET}`",
        "seed": PRESETS["pocket"].train.seed,
        "bits_per_byte": bits["handbook"],
        "result": f"{bits['stories']:.4f} bits per byte on the validation part of the "
        f"stories, {bits['handbook']:.4f} on that of the handbook (see below)",
        "use": "a trained model to look inside, and a start for fine-tuning, on any "
        "laptop and without a network",
        "limits": "it has read short stories in simple words and one book about "
        "selling, and nothing else. Its sentences are whole, its stories lose their "
        "thread; it knows no facts, and its answers must not be used as advice.",
        "more": "## Bits per byte beside predictors without a network\n\n"
        "| validation part | this model | unigram | bigram | xz |\n"
        "|---|---|---|---|---|\n"
        + "\n".join(rows)
        + "\n\n## Twenty samples, none of them picked\n\nThe first words of "
        "ten validation stories and of ten places in the validation part of the "
        "handbook, in **bold**, and what the model writes after them at temperature "
        f"0.8 (seeds 1 to 20, at most 60 tokens).\n\n{samples}\n",
    }


def pocket_samples() -> Iterator[str]:
    """Twenty beginnings from both validation parts, and what the model adds."""
    llm = LLM.load(DATA / "pocket-gpt2")
    _, stories = split_text("stories")
    _, (handbook,) = split_text("handbook")
    paragraphs = [p for p in handbook.split("\n") if len(p.split()) > 20]
    texts = [of[i * len(of) // 10] for of in (stories, paragraphs) for i in range(10)]
    for seed, text in enumerate(texts, start=1):
        start = " ".join(text.split()[:5])
        written = llm.generate(start, 60, seed=seed).removeprefix(start)
        said = " ".join(written.split())
        yield f"{seed}. **{start}** {said}"


BEYOND = ("What is the capital of France?", "Write me a poem about the sea.")


def chat_card() -> dict[str, object]:
    """What the card of `pocket-chat` says."""
    model, tokenizer = load_model(DATA / "pocket-chat")
    window = model.config.context_length
    loss = ChatData("shop-chats", tokenizer, window).evaluate(model)
    test = chat_parts(load_chats("shop-chats")).test
    report = evaluate_answers(model, tokenizer, test, load_questions())
    rates = "\n".join(f"| {name} | {rate} |" for name, rate in report.rates.items())
    before, _ = load_model(DATA / "pocket-gpt2")
    kept = "\n".join(
        f"| {name} | {text.evaluate(before).bits_per_byte:.4f} | "
        f"{text.evaluate(model).bits_per_byte:.4f} |"
        for name in ("stories", "handbook")
        for text in [TextData(name, tokenizer, window)]
    )
    talks = "\n\n".join(chat_samples())
    return {
        "what": "pocket-gpt2 after copying practice and the chats of one invented "
        "shop: it answers questions about orders, and stops.",
        "parameters": model.n_parameters(),
        "data": "the training part of `data/shop_chats.jsonl`, with new order numbers "
        f"in every epoch, after {PRACTISED:,} conversations of copying practice",
        "command": f"`tinygpt {PRACTICE}`, then `tinygpt {CHAT}`",
        "seed": FinetuneConfig().seed,
        "bits_per_byte": loss.bits_per_byte,
        "result": f"{loss.bits_per_byte:.4f} bits per byte (perplexity "
        f"{loss.perplexity:.1f}) on the answers of the validation part",
        "use": "to see what fine-tuning changes, in the terminal and in a page",
        "limits": "it has read short stories, one book about selling and some thousand "
        "short chats. It knows the rules of one shop that does not exist, no order and "
        "no other facts.",
        "more": f"## Is it right?\n\nAnswers to the {report.prompts} prompts of the "
        f"test part, {report.seeds} to each at temperature 0.7, judged by the checks "
        "of `tinygpt/finetuning/rewards.py`, as `tinygpt eval shop-chats` does it. "
        f"They see patterns, not sense.\n\n| | answers |\n|---|---|\n{rates}\n\n"
        "What it has forgotten, in bits per byte:\n\n"
        f"| | pocket-gpt2 | pocket-chat |\n|---|---|---|\n{kept}\n\n"
        "## Ten first messages of the test part, and two from beyond the shop\n"
        f"\nNone of them picked; temperature 0.7, seeds 1 to 12.\n\n{talks}\n",
    }


def chat_samples() -> Iterator[str]:
    """Answers to ten messages of the test part, and to two that no shop expects."""
    llm = LLM.load(DATA / "pocket-chat")
    test = chat_parts(load_chats("shop-chats")).test
    asked = [chat[0]["content"] for chat in test[::20]]
    for seed, question in enumerate([*asked, *BEYOND], start=1):
        yield f"{seed}. **{question}** {llm.reply(question, seed=seed)}"


def write_card(name: str, entries: dict[str, object]) -> None:
    """Write the model's README.md, in lines that fit a page."""
    log, record = RunFolder(RUNS / name).read_log(), RunFolder(RUNS / name).settings()
    best = min(log, key=lambda line: line["selection_loss"])
    made = record["record"]
    n = made["threads"]
    entries |= {
        "step": best["step"],
        "minutes": log[-1]["seconds"] / 60,
        "threads": f"{n} thread{'s' * (n > 1)} in {made['dtype']}",
    }
    more = str(entries.pop("more", ""))
    files = [file for file in (DATA / name).iterdir() if file.name != "README.md"]
    size = sum(file.stat().st_size for file in files) / 1e6
    card = CARD.format(name=name, size=size, **entries) + (more and f"\n{more}")
    wrap = TextWrapper(88, break_long_words=False, break_on_hyphens=False)
    for i, line in enumerate(lines := card.splitlines()):
        if line.startswith("|"):
            continue
        listed = re.match(r"- |\d+\. ", line)
        wrap.subsequent_indent = " " * len(listed[0]) if listed else ""
        lines[i] = wrap.fill(line)
    text = "\n".join(lines) + "\n"
    (DATA / name / "README.md").write_text(text, encoding="utf-8")


def write_rows() -> None:
    """Size and sha256 of every file in the table of data/README.md."""
    readme = DATA / "README.md"

    def row(found: re.Match[str]) -> str:
        raw = (DATA / found[1]).read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        return f"| `{found[1]}` | {len(raw):,} | `{digest}` |"

    table, *rest = readme.read_text(encoding="utf-8").split("\n\n**Source.**")
    table = re.sub(r"\| `([\w./-]+)` \| [\d,]+ \| `\w+` \|", row, table)
    readme.write_text("\n\n**Source.**".join([table, *rest]), encoding="utf-8")


MODELS: dict[str, tuple[Callable[[], None], Callable[[], dict[str, object]]]] = {
    "tiny": (train_tiny, tiny_card),
    "pocket-gpt2": (train_pocket, pocket_card),
    "pocket-chat": (train_chat, chat_card),
}


def main() -> None:
    """Train those that are named, or all."""
    for name in sys.argv[1:] or MODELS:
        train_model, card = MODELS[name]
        train_model()
        write_card(name, card())
        for done in (name, "practice"):  # so that next time it is trained anew
            shutil.rmtree(RUNS / done, ignore_errors=True)
    write_rows()


if __name__ == "__main__":
    main()
