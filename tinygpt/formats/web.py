"""The weight file that the page's own model reads (book/_static/tinygpt.js).

`export_web` writes one script, model.js, that assigns config, vocabulary and weights to
a global name: a page opened from a file may run a script, but not fetch data. Behind
the assignment stands plain JSON, so a file dropped on the page is read without running
it. A matrix is whole numbers and a scale per row, two weights a character ("tinygpt web
3"), or float16, one weight a character ("tinygpt web 2"); vectors are float16 in both.
What it leaves out: adapters (merge them first), patterns that are not among
`bpe.OUR_PATTERNS`.

The text is UTF-16. UTF-8 would not do: a character carries less than 7.2 bits per byte
there, so 16 bits take 2.24 bytes or more. In UTF-16 only the surrogates U+D800 to
U+DFFF may not stand alone, 2,048 in a row, and 2,048 float16 patterns are no finite
number. `characters` lays the ones upon the others; `pairs` steps over the surrogates.
The byte order mark at the start of the file tells every browser what it is, whatever
the server says.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinygpt.config import asdict
from tinygpt.errors import UserError, require
from tinygpt.files import write_atomically
from tinygpt.model.gpt import GPT
from tinygpt.text.bpe import OUR_PATTERNS
from tinygpt.text.tokenizer import Tokenizer

FILE = "model.js"
FORMATS = {"float16": "tinygpt web 2", "int8": "tinygpt web 3"}
START = "globalThis.tinygptModel = "
LARGEST = 1 << 27  # bytes of file or of cache; tinygpt.js draws the same line
LEVELS = 251  # of a whole number: -125 to 125; two make 63,001, less than 2^16 - 2,048
VOCABULARY = 1 << 22  # bytes kept free for it; GPT-2's takes less than 1 MiB


def characters(weights: Float[Tensor, "..."]) -> str:
    """One character per number, which is rounded to float16.

    The 16 bits are turned by one, so that the sign comes last, and bit 13 is flipped:
    a pattern whose exponent is all ones (infinities, nan) becomes a surrogate, every
    finite number another character. Zero is U+2000.

    Raises:
        UserError: a number does not fit into float16.

    >>> [hex(ord(c)) for c in characters(torch.tensor([0.0, 1.0, -1.0]))]
    ['0x2000', '0x5800', '0x5801']
    """
    half = weights.detach().cpu().to(torch.float16)
    require(
        bool(half.isfinite().all()),
        "A weight does not fit into float16 (it is above 65,504 or no number): train "
        "with a smaller learning rate.",
    )
    bits = half.flatten().numpy().view(np.uint16)
    turned = (bits << 1 | bits >> 15) ^ 0x2000
    return turned.astype("<u2").tobytes().decode("utf-16-le")


def whole_numbers(
    weight: Float[Tensor, "O I"],
) -> tuple[Int[Tensor, "O I"], Float[Tensor, "O 1"]]:
    """Whole numbers from -125 to 125, and a scale for each row.

    A scale has 4 binary digits and a whole number 7, so their product has 11 at most:
    it is a float16 to the last bit, and the page multiplies it as any other.

    >>> numbers, scale = whole_numbers(torch.tensor([[0.5, -1.25, 0.004, 0.0]]))
    >>> numbers.tolist(), scale.tolist()
    ([[47, -116, 0, 0]], [[0.0107421875]])
    """
    weight = weight.detach().cpu().float()
    least = weight.abs().amax(dim=1, keepdim=True) / (LEVELS // 2)
    exponent = (least.frexp().exponent - 4).clamp_min(-24)  # float16 has no smaller one
    digit = torch.ldexp(torch.ones_like(least), exponent)
    scale = (least / digit).ceil() * digit
    divisor = torch.where(scale == 0, 1.0, scale)  # a row of zeros
    return (weight / divisor).round().int(), scale


def as_written(weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What the page reads for a weight that is written as "int8"."""
    if weight.dim() != 2:
        return weight.detach().half().float()
    numbers, scale = whole_numbers(weight)
    return numbers * scale


def pairs(numbers: Int[Tensor, "O I"]) -> str:
    """One character for two whole numbers, row after row; none is a surrogate."""
    digits = numbers.flatten().numpy() + LEVELS // 2
    first, second = np.append(digits, [0] * (len(digits) % 2)).reshape(-1, 2).T
    code = first * LEVELS + second
    code += (code >= 0xD800) * 0x800
    return code.astype("<u2").tobytes().decode("utf-16-le")


def _written(weight: Float[Tensor, "..."], kind: str) -> str:
    half = characters(weight)
    if kind == "float16" or weight.dim() != 2:
        return half
    numbers, scale = whole_numbers(weight)
    return characters(scale) + pairs(numbers)


def _vocabulary(tokenizer: Tokenizer) -> dict[str, Any]:
    """The token of every id, its bytes as characters U+0000 to U+00FF; None in gaps."""
    tokens: list[str | None] = [None] * (max(tokenizer.ranks.values()) + 1)
    for token, i in tokenizer.ranks.items():
        tokens[i] = token.decode("latin-1")
    return {
        "name": tokenizer.name,
        "pattern": tokenizer.pattern,
        "vocabulary": tokens,
        "special_tokens": tokenizer.special_tokens,
    }


def script(
    model: GPT, tokenizer: Tokenizer, kind: Literal["int8", "float16"] = "int8"
) -> bytes:
    """The file's content: a byte order mark, then UTF-16; `kind` is the matrices'.

    Raises:
        UserError: the page cannot run this model.
    """
    c = model.config
    require(
        tokenizer.pattern in OUR_PATTERNS,
        f"The page splits words as handbook-4k or course-4k does, the tokenizer "
        f"{tokenizer.name!r} in another way: train with one that has such a pattern.",
    )
    require(
        tokenizer.vocab_size <= c.vocab_size,
        f"The tokenizer {tokenizer.name!r} has {tokenizer.vocab_size} ids, the model "
        f"only {c.vocab_size}: they do not belong together.",
    )
    weights = dict(model.named_parameters())
    strange = [name for name in weights if "lora" in name]
    require(not strange, "The model has adapters: merge and remove them first.")
    size = 2 * model.n_parameters()
    cached = 4 * 2 * c.n_layers * c.context_length * c.d_model
    require(
        max(size + VOCABULARY, cached) <= LARGEST,
        f"A page can hold {LARGEST >> 20} MiB; this model has {size >> 20} of weights "
        f"and {cached >> 20} of keys and values: choose a smaller one.",
    )
    content = {
        "format": FORMATS[kind],
        "config": asdict(c),
        "tokenizer": _vocabulary(tokenizer),
        "tensors": [[name, list(weight.shape)] for name, weight in weights.items()],
        "weights": "".join(_written(weight, kind) for weight in weights.values()),
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"\ufeff{START}{text};\n".encode("utf-16-le")


def export_web(
    model: GPT,
    tokenizer: Tokenizer,
    folder: str | Path,
    kind: Literal["int8", "float16"] = "int8",
) -> Path:
    """Write `folder`/model.js for book/_static/tinygpt.js; the path comes back.

    A byte per parameter ("float16": two) and the vocabulary. The file is put in
    place whole or not at all.

    Raises:
        UserError: the page cannot run this model, or the folder cannot be written.
    """
    path = Path(folder) / FILE
    content = script(model, tokenizer, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda part: part.write_bytes(content))
    except OSError as error:
        raise UserError(
            f"Cannot write {path} ({error}): choose another folder or make room."
        ) from error
    return path
