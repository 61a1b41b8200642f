"""What a reader should know of a model: its card, a README.md as Hugging Face shows it.

The card begins with metadata in YAML, of which the Hub makes its tables, and goes on in
Markdown. What it leaves out: finding out how a model was trained (see
`training.history`).
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.files import exists, read_file, write_atomically
from tinygpt.formats.model_files import REPOSITORIES

CARD = "README.md"
_MARK = "\n<!-- written by tinygpt export, "  # then sha256 of what stands above
_VERBS = {
    "train": "trained on {data}",
    "finetune": "fine-tuned on {data}",
    "reward": "rewarded for its own answers to {data}",
}


@dataclass(frozen=True)
class Stage:
    """One run in the life of a model."""

    kind: str
    """train, finetune or reward."""
    data: str
    """What it learned from, without folders."""
    steps: int
    """Optimizer steps of the weights that were kept."""
    seconds: float
    """Training time of the whole run."""
    date: str = ""
    tokens: int | None = None
    """Tokens of the training part."""
    bits_per_byte: float | None = None
    """On the validation part, with the weights that were kept."""
    perplexity: float | None = None
    whole_split: bool = True
    """Whether the two cover all of the validation part, or a sample of it."""
    base: str | None = None
    """The model it began with, without folders."""

    def __str__(self) -> str:
        what = _VERBS[self.kind].format(data=self.data)
        tokens = f" ({self.tokens:,} tokens)" if self.tokens else ""
        minutes = max(1, round(self.seconds / 60))
        time = f"{minutes} minute{'s' * (minutes > 1)}"
        when = f", {self.date}" if self.date else ""
        return f"{what}{tokens}: {self.steps:,} steps, {time}{when}"

    @property
    def result(self) -> str:
        """How good it was at the end, as a sentence; empty if nobody measured."""
        if self.bits_per_byte is None:
            return ""
        part = "" if self.whole_split else "a sample of "
        return (
            f"{self.bits_per_byte:.4f} bits per byte (perplexity "
            f"{self.perplexity or 0:.1f}) on {part}the part of {self.data} that it did "
            "not learn from."
        )


def model_card(
    name: str,
    config: GPTConfig,
    n_parameters: int,
    stages: list[Stage],
    *,
    model_type: str,
    picture: str | None = None,
) -> str:
    """The card of a model that went through `stages`, the oldest first.

    Args:
        name: what the model is called.
        config: its shape.
        n_parameters: how many there are.
        stages: its runs; none if they are not known.
        model_type: transformers' name of the architecture, or "web" for a page's model.
        picture: file name of a figure of the losses beside the card.
    """
    c, base = config, next((s.base for s in stages if s.base in REPOSITORIES), None)
    lines = [
        "---",
        f"library_name: {'tinygpt' if model_type == 'web' else 'transformers'}",
        "pipeline_tag: text-generation",
        f"tags: [tinygpt, {model_type}]",
        *([f"base_model: {REPOSITORIES[base]}"] if base else []),
        *_index(name, stages),
        "---",
        "",
        f"# {name}",
        "",
        f"A language model of {n_parameters:,} parameters, made with TinyGPT: "
        f"{c.n_layers} blocks, {c.n_heads} heads, d_model {c.d_model}, a context of "
        f"{c.context_length} tokens, a vocabulary of {c.vocab_size:,}.",
        "",
        "## How it was trained",
        "",
        *([f"- begins as {stages[0].base}"] if stages and stages[0].base else []),
        *(f"- {stage}" for stage in stages),
        *([] if stages else ["Nothing is recorded about its training."]),
        "",
    ]
    if picture:
        lines += [f"![The losses of the last run, step by step]({picture})", ""]
    results = [f"- {stage.result}" for stage in stages if stage.result]
    lines += ["## How good it is", "", *results] if results else []
    needs = "  # 5.0 or newer" if model_type == "nanochat" else ""
    use = [line.replace("{needs}", needs) for line in _USE[model_type == "web"]]
    lines += ["", *use, *_limits(config, stages)]
    return "\n".join(lines).replace("\n\n\n", "\n\n")


def _index(name: str, stages: list[Stage]) -> list[str]:
    """The results as the Hub's model-index; JSON's strings are YAML's, too."""
    results: list[dict[str, Any]] = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"type": "text", "name": f"{stage.data}, validation part"},
            "metrics": [
                {"type": kind, "name": kind.replace("_", " "), "value": round(value, 4)}
                for kind in ("bits_per_byte", "perplexity")
                if (value := getattr(stage, kind)) is not None
            ],
        }
        for stage in stages
        if stage.bits_per_byte is not None
    ]
    if not results:
        return []
    index = [{"name": name, "results": results}]
    return [f"model-index: {json.dumps(index, ensure_ascii=False)}"]


_USE = {
    False: [
        "## How to use it",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer{needs}",
        "",
        'name = "."  # this folder, or its name on the Hub',
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        "model = AutoModelForCausalLM.from_pretrained(name)",
        'ids = tokenizer("Once", return_tensors="pt").input_ids',
        "print(tokenizer.decode(model.generate(ids, max_new_tokens=50)[0]))",
        "```",
        "",
    ],
    True: [
        "## How to use it",
        "",
        "`model.js` is for TinyGPT's page *Playground*: choose it there, or drop it on "
        "the page.",
        "",
    ],
}


def _limits(config: GPTConfig, stages: list[Stage]) -> list[str]:
    lines = [
        "## Limits",
        "",
        "- It writes what sounds like its texts. It knows no facts, and what it says "
        "must not be relied on.",
        f"- It sees the last {config.context_length} tokens and nothing before them.",
        "- It may recite: `tinygpt eval` shows the longest run of words that a sample "
        "shares with the training text.",
    ]
    if any(stage.result for stage in stages):
        lines.append(
            "- The numbers above hold for text of the same kind; for another text, "
            "measure it."
        )
    lines.append(
        "- No licence is given here: whoever publishes it should name one that its "
        "texts allow."
    )
    return [*lines, ""]


def write_card(folder: Path, text: str) -> bool:
    """Write README.md, unless somebody has edited the one that is there.

    Returns:
        Whether it was written.

    Raises:
        UserError: the folder cannot be written.
    """
    path = folder / CARD
    if exists(path) and not _untouched(path):
        return False
    whole = f"{text}{_MARK}{hashlib.sha256(text.encode()).hexdigest()} -->\n"
    write_atomically(path, lambda part: part.write_bytes(whole.encode()))
    return True


def _untouched(path: Path) -> bool:
    """Whether a card is as `write_card` wrote it."""
    try:
        text, _, mark = read_file(path).decode().rpartition(_MARK)
    except (UserError, UnicodeDecodeError):
        return False
    return mark.partition(" ")[0] == hashlib.sha256(text.encode()).hexdigest()
