"""Make the data of the pages' interactive figures: book/_static/widget_data.js.

    python book/widget_data.py

Attention weights of every layer and head on one sentence, and the scores of all next
tokens after a prompt, both from the trained model in data/pocket-gpt2. A script, not
JSON, for a page opened from a file may not fetch. What it leaves out: drawing.
"""

import json
from pathlib import Path

import torch

from tinygpt.formats.huggingface import load_gpt2
from tinygpt.model.attention import attention_weights

ROOT = Path(__file__).resolve().parent.parent
SENTENCE = "The customer asks a question, and the salesperson listens."
PROMPT = "The salesperson asks the"
NAMED = 24  # tokens whose text the page may show; the rest count by score only


@torch.no_grad()
def widget_data() -> dict[str, dict[str, object]]:
    """Numbers rounded so that they read well and hold on another CPU."""
    model, tokenizer = load_gpt2(ROOT / "data" / "pocket-gpt2")
    model.eval()

    ids = tokenizer.encode(SENTENCE)
    x = model.embed(torch.tensor([ids]), torch.arange(len(ids)))  # [1, T, C]
    layers = []
    for block in model.blocks:
        q, k, _ = block.attention.heads(block.norm1(x))
        weights = attention_weights(q, k, is_causal=True)[0]  # [H, T, T]
        layers.append([[[round(w, 2) for w in r] for r in h] for h in weights.tolist()])
        x = block(x, is_causal=True)
    tokens = [tokenizer.decode([i]) for i in ids]

    logits = model(torch.tensor([tokenizer.encode(PROMPT)]))[0, -1]  # [V]
    ranked, order = logits.sort(descending=True)
    return {
        "attention": {"tokens": tokens, "weights": layers},
        "sampling": {
            "prompt": PROMPT + " …",
            "tokens": [tokenizer.decode([i]) for i in order[:NAMED].tolist()],
            "logits": [round(v, 2) for v in ranked.tolist()],
        },
    }


def main() -> None:
    """Write the file."""
    text = json.dumps(widget_data(), ensure_ascii=False, separators=(",", ":"))
    path = ROOT / "book" / "_static" / "widget_data.js"
    made = "// Made by book/widget_data.py from data/pocket-gpt2. Do not edit.\n"
    path.write_text(f"{made}window.tinygptData={text};\n", encoding="utf-8")


if __name__ == "__main__":
    main()
