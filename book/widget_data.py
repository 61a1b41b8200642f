"""Make the data of the pages' interactive figures, in book/_static/widgets/.

    python book/widget_data.py

Scores of every layer and head on one sentence, the logits of all next tokens after a
prompt, neighbours in a trained table, and the merges that make a word: all from the
models in data/. Scripts, not JSON, for a page opened from a file may not fetch. What it
leaves out: drawing.
"""

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tinygpt.llm import LLM, load
from tinygpt.text.bpe import merge_word
from tinygpt.text.tokenizer import Tokenizer

FOLDER = Path(__file__).resolve().parent / "_static" / "widgets"
SENTENCE = "Tom gave the dog a bone because it was hungry."
SELLING = "The customer asks a question, and the salesperson listens."
PROMPT = "The salesperson asks the"
NAMED = 200  # tokens whose text the page may show; the rest count by score only
NEAR = 5
WORDS = """
dog cat bird fish mouse fox bear horse boy girl man woman mother father king queen
house garden river forest village kitchen school shop bread soup cake apple milk tea
red blue green white black old young small big happy sad tired hungry warm cold said
asked told walked ran looked took gave made found one two three four morning evening
night day winter summer he she they it his her
"""
GROWING = (" customer", " because", " remembered", " garden", " listens", " question")


@torch.no_grad()
def attention(llm: LLM, sentence: str) -> dict[str, Any]:
    """Scores [layers][heads][T][T] of all pairs, before any mask."""
    ids = torch.tensor([llm.tokenizer.encode(sentence)])
    model, layers = llm.model.eval(), []
    x = model.embed(ids, torch.arange(ids.size(1)))  # [1, T, C]
    for block in model.blocks:
        q, k, _ = block.attention.heads(block.norm1(x))
        scores = (q @ k.transpose(-2, -1))[0] / block.attention.head_dim**0.5
        layers.append(rounded(scores))
        x = block(x, is_causal=True)
    tokens = [llm.tokenizer.decode([i]) for i in ids[0].tolist()]
    return {"tokens": tokens, "head_dim": model.config.head_dim, "scores": layers}


@torch.no_grad()
def sampling(llm: LLM) -> dict[str, Any]:
    """The logits of the whole vocabulary after a prompt, the likeliest first."""
    ids = torch.tensor([llm.tokenizer.encode(PROMPT)])
    ranked, order = llm.model.eval()(ids)[0, -1].sort(descending=True)
    named = [llm.tokenizer.decode([i]) for i in order[:NAMED].tolist()]
    return {"prompt": PROMPT + " …", "tokens": named, "logits": rounded(ranked)}


@torch.no_grad()
def neighbours(llm: LLM) -> dict[str, Any]:
    """A few tokens, their places on a map, and the `NEAR` nearest of each by cosine.

    The map's axes are the two directions in which these rows differ most, stretched so
    that the tokens are spread evenly.
    """
    coded = {word: llm.tokenizer.encode(f" {word}") for word in WORDS.split()}
    ids = [code[0] for code in coded.values() if len(code) == 1]
    rows = F.normalize(llm.model.token_embedding.weight[ids], dim=1)  # [N, C]
    cosine = rows @ rows.T
    best, at = cosine.fill_diagonal_(-1).topk(NEAR)
    _, _, v = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    spread = (rows @ v[:2].T).argsort(dim=0).argsort(dim=0) / (len(ids) - 1)  # [N, 2]
    pairs = zip(at.tolist(), rounded(best), strict=True)
    return {
        "tokens": [llm.tokenizer.decode([i]) for i in ids],
        "places": rounded(spread, 3),
        "nearest": [list(zip(places, near, strict=True)) for places, near in pairs],
    }


def merges(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """For a few words: the pieces after each merge, and the numbers of the merges."""
    found, ranks = [], tokenizer.ranks
    for word in GROWING:
        raw = word.encode()
        parts = {raw[i:j] for j in range(len(raw) + 1) for i in range(j - 1)}
        steps, numbers = [merge_word(raw, ranks, below=256)], list[int]()
        for rank in sorted(ranks[part] for part in parts & ranks.keys()):
            if (pieces := merge_word(raw, ranks, below=rank + 1)) != steps[-1]:
                steps.append(pieces)
                numbers.append(rank - 255)  # the first 256 tokens are single bytes
        words = [[piece.decode() for piece in step] for step in steps]
        found.append({"steps": words, "ranks": numbers})
    return found


def rounded(values: torch.Tensor, digits: int = 2) -> Any:
    """Numbers that read well and hold on another CPU."""
    return torch.round(values.double(), decimals=digits).tolist()


def widget_data() -> dict[str, Any]:
    """All data by the names of their files."""
    story, pocket = load("story"), load("pocket-gpt2")
    return {
        "attention_story": attention(story, SENTENCE),
        "attention_pocket": attention(pocket, SELLING),
        "sampling_pocket": sampling(pocket),
        "neighbours_story": neighbours(story),
        "merges_course": merges(story.tokenizer),
    }


def main() -> None:
    """Write the files."""
    for name, data in widget_data().items():
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        made = "// Made by book/widget_data.py. Do not edit.\n"
        path = FOLDER / f"{name}.js"
        path.write_text(f"{made}tinygptWidgets.data.{name}={text};\n", encoding="utf-8")


if __name__ == "__main__":
    main()
