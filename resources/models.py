"""Train the small models that ship in data/, and state what they are.

    python resources/models.py [tiny] [story] [pocket-gpt2] [pocket-chat]

`tiny` is the preset that chapter 07 trains. `story` has GPT-2's shape and has read the
stories, the larger `pocket-gpt2` the handbook too; `pocket-chat` is pocket-gpt2 after
copying practice, the shop's chats, and rewards for right answers. Each is trained by
the `tinygpt` command, stored in float16, described in a card, and entered with its
fingerprint in data/README.md; if it was interrupted, it goes on where it stopped.
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
from tinygpt.training.dial import bits_by_counting
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
STORY = "train --preset story --dtype bfloat16"
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
REWARD = (
    "reward --model build/models/tuned --steps 120 --batch-size 6 --lr 5e-5 "
    "--kl-weight 0.1 --schedule linear --warmup-steps 10 --eval-interval 120 "
    "--eval-windows 400"
)
PRACTISED = 2000  # conversations
BEFORE = {"pocket-chat": ("practice", "tuned")}  # runs that a model's own begins with
SIMPLE = ("unigram", "bigram", "Kneser-Ney", "xz")


# --- Training ---------------------------------------------------------------------


def train(command: str, name: str, runs: Path = RUNS) -> Path:
    """The run `name`, trained by a command; if it was interrupted, it goes on."""
    resume = ["--resume"] if RunFolder(runs / name).exists else []
    words = command.replace("build/models", str(runs)).split()
    tinygpt([*words, f"--name={name}", f"--out={runs}", *resume])
    return runs / name


def train_tiny() -> None:
    """The preset `tiny`, as a run folder without what only training needs."""
    run, to = train(TINY, "tiny"), DATA / "tiny"
    model, _, metadata = load_run(run)
    to.mkdir(exist_ok=True)
    for file in [run / "run.json", *run.glob("tokenizer.*")]:
        shutil.copyfile(file, to / file.name)
    half = {name: p.to(torch.float16) for name, p in model.named_parameters()}
    save_tensors(to / "best.safetensors", half, {"step": metadata["step"]})


def train_story() -> None:
    """GPT-2's shape after the stories, in GPT-2's format."""
    export(train(STORY, "story"))


def train_pocket() -> None:
    """GPT-2's shape, larger, after the stories and the handbook, in GPT-2's format."""
    export(train(POCKET, "pocket-gpt2"))


def train_chat() -> None:
    """pocket-gpt2 after practice, chats and rewards, in GPT-2's format."""
    write_practice(RUNS / "practice.jsonl")
    train(PRACTICE, "practice")
    train(CHAT, "tuned")
    export(train(REWARD, "pocket-chat"))


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
    (to / "losses.png").unlink(missing_ok=True)  # the card says it in words


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


def story_card() -> dict[str, object]:
    """What the card of `story` says."""
    card = gpt2_card("story", "story", ["stories"])
    return card | {
        "what": f"The model of chapters 01 to 07: {card['what']}",
        "data": "the training part of `data/stories.txt`, in tokens of `course-4k`",
        "command": f"`tinygpt {STORY}`",
        "use": "a trained model small enough to look into every part of it",
        "limits": "it has read short stories in simple words, and nothing else. Its "
        "stories lose their thread; it knows no facts.",
    }


def pocket_card() -> dict[str, object]:
    """What the card of `pocket-gpt2` says."""
    card = gpt2_card("pocket-gpt2", "pocket", ["stories", "handbook"])
    return card | {
        "what": f"A model to start from: {card['what']}",
        "data": "the training parts of `data/stories.txt` and, twice as often, of "
        "`data/sales_handbook.txt`, in tokens of `course-4k`",
        "command": f"`tinygpt {POCKET}`",
        "use": "a trained model to look inside, and a start for fine-tuning, on any "
        "laptop and without a network",
        "limits": "it has read short stories in simple words and one book about "
        "selling, and nothing else. Its sentences are whole, its stories lose their "
        "thread; it knows no facts, and its answers must not be used as advice.",
    }


def gpt2_card(name: str, preset: str, read: list[str]) -> dict[str, object]:
    """What the card of a model says that has GPT-2's shape and has `read` these."""
    model, tokenizer = load_model(DATA / name)
    c = model.config
    rows, on = [], []
    for text in [TextData(source, tokenizer, c.context_length) for source in read]:
        bits = text.evaluate(model).bits_per_byte
        simple = text.baselines() | {"Kneser-Ney": bits_by_counting(text)}
        others = " | ".join(f"{simple[kind]:.2f}" for kind in SIMPLE)
        rows.append(f"| {text.name} | {bits:.4f} | {others} |\n")
        on.append(f"{bits:.4f} for the {text.name}")
    places = " and of ten in that of the ".join(read)
    return {
        "what": f"GPT-2's shape with {c.n_layers} blocks, {c.n_heads} heads, d_model "
        f"{c.d_model}, context {c.context_length}, learned positions, pre-norm, tanh "
        f'GELU, tied head; `tinygpt.load("{name}")` and transformers\' '
        f'`AutoModelForCausalLM.from_pretrained("data/{name}")` both load it.',
        "parameters": model.n_parameters(),
        "seed": PRESETS[preset].train.seed,
        "bits_per_byte": bits,
        "result": f"{', '.join(on)}: bits per byte on what was held back (see below)",
        "more": "## Bits per byte beside predictors without a network\n\n"
        "Kneser-Ney counts sequences of four tokens.\n\n"
        f"| validation part | this model | {' | '.join(SIMPLE)} |\n"
        f"|---|---|---|---|---|---|\n{''.join(rows)}\n"
        f"## {10 * len(read)} samples, none of them picked\n\n"
        f"The first words of ten places in the validation part of the {places}, in "
        "**bold**, and what the model writes after them at temperature 0.8 (seeds from "
        "1 up, at most 60 tokens).\n\n" + "\n\n".join(samples(name, read)) + "\n",
    }


def samples(name: str, read: list[str]) -> Iterator[str]:
    """Ten beginnings from the validation part of each text, and what the model adds."""
    llm = LLM.load(DATA / name)
    starts = []
    for source in read:
        _, of = split_text(source)
        if len(of) == 1:  # a text in one piece
            of = [part for part in of[0].split("\n") if len(part.split()) > 20]
        starts += [" ".join(of[i * len(of) // 10].split()[:5]) for i in range(10)]
    for seed, start in enumerate(starts, start=1):
        written = llm.generate(start, 60, seed=seed).removeprefix(start)
        yield f"{seed}. **{start}** {' '.join(written.split())}"


BEYOND = ("What is the capital of France?", "Write me a poem about the sea.")


def chat_card() -> dict[str, object]:
    """What the card of `pocket-chat` says."""
    model, tokenizer = load_model(DATA / "pocket-chat")
    window = model.config.context_length
    loss = ChatData("shop-chats", tokenizer, window).evaluate(model)
    test = chat_parts(load_chats("shop-chats")).test
    report = evaluate_answers(model, tokenizer, test, load_questions())
    tuned, _ = load_model(RUNS / "tuned")
    early = evaluate_answers(tuned, tokenizer, test, load_questions()).rates
    rates = "\n".join(
        f"| {name} | {early[name]} | {rate} |" for name, rate in report.rates.items()
    )
    before, _ = load_model(DATA / "pocket-gpt2")
    kept = "\n".join(
        f"| {name} | {text.evaluate(before).bits_per_byte:.4f} | "
        f"{text.evaluate(model).bits_per_byte:.4f} |"
        for name in ("stories", "handbook")
        for text in [TextData(name, tokenizer, window)]
    )
    talks = "\n\n".join(chat_samples())
    return {
        "what": "pocket-gpt2 after copying practice, the chats of one invented shop, "
        "and rewards for right answers: it answers questions about orders, and stops.",
        "parameters": model.n_parameters(),
        "data": "the training part of `data/shop_chats.jsonl`, with new order numbers "
        f"in every epoch, after {PRACTISED:,} conversations of copying practice; then "
        "its users' messages, to which the model's own answers were rewarded",
        "command": f"`tinygpt {PRACTICE}`, `tinygpt {CHAT}` and `tinygpt {REWARD}`",
        "seed": FinetuneConfig().seed,
        "bits_per_byte": loss.bits_per_byte,
        "result": f"{loss.bits_per_byte:.4f} bits per byte (perplexity "
        f"{loss.perplexity:.1f}) on the answers of the validation part",
        "use": "to see what fine-tuning changes, in the terminal and in a page",
        "limits": "it has read short stories, one book about selling and a few "
        "thousand short chats. It knows the rules of one shop that does not exist, no "
        "order and no other facts.",
        "more": f"## Is it right?\n\nAnswers to the {report.prompts} prompts of the "
        f"test part, {report.seeds} to each at temperature 0.7, judged by the checks "
        "of `tinygpt/finetuning/rewards.py`, as `tinygpt eval shop-chats` does it. "
        f"They see patterns, not sense.\n\n| | before rewards | after |\n"
        f"|---|---|---|\n{rates}\n\n"
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
    logs = [RunFolder(RUNS / run).read_log() for run in (*BEFORE.get(name, ()), name)]
    record = RunFolder(RUNS / name).settings()
    best = min(logs[-1], key=lambda line: line["selection_loss"])
    made = record["record"]
    n = made["threads"]
    entries |= {
        "step": best["step"],
        "minutes": sum(log[-1]["seconds"] for log in logs) / 60,
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
    "story": (train_story, story_card),
    "pocket-gpt2": (train_pocket, pocket_card),
    "pocket-chat": (train_chat, chat_card),
}


def main() -> None:
    """Train those that are named, or all."""
    for name in sys.argv[1:] or MODELS:
        train_model, card = MODELS[name]
        train_model()
        write_card(name, card())
        for done in (name, *BEFORE.get(name, ())):  # so that it is trained anew
            shutil.rmtree(RUNS / done, ignore_errors=True)
    write_rows()


if __name__ == "__main__":
    main()
