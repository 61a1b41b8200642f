"""Train the small models that ship in data/, and state what they are.

    python resources/models.py [tiny] [pocket-chat]

`tiny` is the preset of that name, which chapter 07 trains; `pocket-chat` is pocket-gpt2
after the support chats. Each is trained by the `tinygpt` command, stored in float16,
described in a card, and entered with its fingerprint in data/README.md. Minutes on a
CPU. What it leaves out: pocket-gpt2 itself, which `make pocket` trains.
"""

import hashlib
import re
import shutil
import sys
from pathlib import Path
from textwrap import TextWrapper

import torch

from tinygpt.cli.main import main as tinygpt
from tinygpt.config import FinetuneConfig
from tinygpt.finetuning.chat_data import ChatData
from tinygpt.finetuning.run import load_model, load_run
from tinygpt.presets import PRESETS
from tinygpt.training.checkpoint import RunFolder
from tinygpt.training.evaluation import Evaluation
from tinygpt.training.tensor_file import save_tensors
from tinygpt.training.text_data import TextData

ROOT = Path(__file__).resolve().parent.parent
DATA, RUNS = ROOT / "data", ROOT / "build" / "models"

CARD = """\
---
language: en
license: cc0-1.0
bits_per_byte: {loss.bits_per_byte:.4f}
---

# {name}

{what} {parameters:,} parameters, stored in float16 ({size:.1f} MB).

- **Data:** {data}.
- **Command:** `make models ARGS={name}`, which runs `{command}` and stores the best \
weights.
- **Seed:** {seed}; the weights are those of step {step}. Another processor or number \
of threads gives slightly different ones.
- **Result:** {loss.bits_per_byte:.4f} bits per byte \
(perplexity {loss.perplexity:.1f}) on {held_back}.
- **Intended use:** {use}.
- **Limits:** {limits}

CC0, like the text it was trained on.
"""
TINY = "train --preset tiny --dtype float32"
CHAT = "finetune support-chats --model pocket-gpt2"


def train_tiny() -> None:
    """The preset `tiny`, as a run folder without what only training needs."""
    run, to = RUNS / "tiny", DATA / "tiny"
    tinygpt([*TINY.split(), "--prompt=", "--name=tiny", f"--out={RUNS}"])
    model, _, metadata = load_run(run)
    to.mkdir(exist_ok=True)
    for file in [run / "run.json", *run.glob("tokenizer.*")]:
        shutil.copyfile(file, to / file.name)
    half = {name: p.to(torch.float16) for name, p in model.named_parameters()}
    save_tensors(to / "best.safetensors", half, {"step": metadata["step"]})


def tiny_card() -> dict[str, object]:
    """What the card of `tiny` says."""
    model, tokenizer, metadata = load_run(DATA / "tiny")
    c = model.config
    return {
        "what": f"The model that chapter 07 trains, the preset `tiny`: {c.n_layers} "
        f"blocks, {c.n_heads} heads, d_model {c.d_model}, context {c.context_length};",
        "parameters": model.n_parameters(),
        "data": "the first 90 % of the tokens of `data/sales_handbook.txt`",
        "command": f"tinygpt {TINY}",
        "seed": PRESETS["tiny"].train.seed,
        "step": metadata["step"],
        "loss": TextData("handbook", tokenizer, c.context_length).evaluate(model),
        "held_back": "the last 10 % of the handbook",
        "use": "a model small enough to load into a page, to look inside and play with",
        "limits": "it has read one book about selling. It writes sentences that sound "
        "like that book and mean little; it knows no facts.",
    }


def train_chat() -> None:
    """pocket-gpt2 fine-tuned on the support chats, in GPT-2's format."""
    tinygpt([*CHAT.split(), "--name=pocket-chat", f"--out={RUNS}"])
    to = DATA / "pocket-chat"
    tinygpt(
        ["export", "--model", f"{RUNS / to.name}", f"--out={to}", "--dtype=float16"]
    )


def chat_card() -> dict[str, object]:
    """What the card of `pocket-chat` says."""
    model, _ = load_model(DATA / "pocket-chat")
    log = RunFolder(RUNS / "pocket-chat").read_log()
    return {
        "what": "pocket-gpt2 after support chats: it answers in the form `User: ...`, "
        "`Assistant: ...`, and stops.",
        "parameters": model.n_parameters(),
        "data": "the first 90 % of the 537 conversations in `data/support_chats.jsonl`",
        "command": f"tinygpt {CHAT}",
        "seed": FinetuneConfig().seed,
        "step": min(log, key=lambda line: line["selection_loss"])["step"],
        "loss": answer_loss(DATA / "pocket-chat"),
        "held_back": "the answers in the last 10 %",
        "use": "to see what fine-tuning changes, in the terminal and in a page",
        "limits": "it has read one book and some hundred short chats. It answers like "
        "a shop's support and knows no shop, no order and no facts.",
    }


def answer_loss(folder: Path) -> Evaluation:
    """The stored model's loss on the answers of the chats that were held back."""
    model, tokenizer = load_model(folder)
    chats = ChatData("support-chats", tokenizer, model.config.context_length)
    return chats.evaluate(model)


def write_card(name: str, entries: dict[str, object]) -> None:
    """Write the model's README.md, in lines that fit a page."""
    files = [file for file in (DATA / name).iterdir() if file.name != "README.md"]
    size = sum(file.stat().st_size for file in files) / 1e6
    card = CARD.format(name=name, size=size, **entries)
    wrap = TextWrapper(88, break_long_words=False, break_on_hyphens=False)
    for n, line in enumerate(lines := card.splitlines()):
        wrap.subsequent_indent = "  " if line.startswith("- ") else ""
        lines[n] = wrap.fill(line)
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


MODELS = {"tiny": (train_tiny, tiny_card), "pocket-chat": (train_chat, chat_card)}


def main() -> None:
    """Train those that are named, or both."""
    for name in sys.argv[1:] or MODELS:
        train, card = MODELS[name]
        shutil.rmtree(RUNS / name, ignore_errors=True)
        train()
        write_card(name, card())
    write_rows()


if __name__ == "__main__":
    main()
