"""A text and what a model writes after it: from characters to characters.

What it leaves out: conversations (see `tinygpt.finetuning.chat`) and the defaults of
the sampling (see `tinygpt.llm`).
"""

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tinygpt.errors import require
from tinygpt.generation.generate import generate
from tinygpt.generation.streaming import stream_text
from tinygpt.model.gpt import GPT
from tinygpt.settings import check_sampling
from tinygpt.text.tokenizer import Tokenizer


def prompt_ids(prompt: str, tokenizer: Tokenizer, context_length: int) -> list[int]:
    """The tokens of a prompt.

    Raises:
        UserError: there are none, or more than the context holds.
    """
    ids = tokenizer.encode(prompt)
    require(bool(ids), "the prompt is empty: give the model a word to go on with")
    require(
        len(ids) <= context_length,
        f"the prompt has {len(ids)} tokens, but the model's context holds "
        f"{context_length}: give it a shorter prompt",
    )
    return ids


def _steps(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    samples: int,
    stop: int | None,
    options: dict[str, Any],
) -> Iterator[Int[Tensor, " S"]]:
    """The next token of each sample, step by step; bad options are refused at once."""
    checked = {name: value for name, value in options.items() if name != "use_cache"}
    check_sampling(**checked, samples=samples)
    ids = prompt_ids(prompt, tokenizer, model.config.context_length)
    prompts = torch.tensor([ids], device=model.device)
    return generate(model, prompts, **options, stop_token=stop, samples=samples)


def _pieces(
    ids: Iterator[int], tokenizer: Tokenizer, stop: int | None
) -> Iterator[str]:
    """The text of `ids` up to the first `stop`."""
    return stream_text(takewhile(lambda i: i != stop, ids), tokenizer)


def continue_text(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    stop_at_end: bool = True,
    **options: Any,
) -> Iterator[str]:
    """What the model writes after the prompt, piece by piece.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        prompt: at least one token, at most as many as the context holds.
        stop_at_end: stop at the first `<|endoftext|>`, which is not written; or write
            the mark and go on with another document.
        options: of `generate`: max_new_tokens, temperature, top_k, top_p, seed, and
            use_cache if it is False.

    Raises:
        UserError: the prompt is empty or too long, or an option is out of range; at
            once and not at the first piece.
    """
    stop = tokenizer.end_of_text if stop_at_end else None
    steps = _steps(model, tokenizer, prompt, 1, stop, options)
    return _pieces((int(token) for token in steps), tokenizer, stop)


def continue_samples(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str,
    samples: int,
    *,
    stop_at_end: bool = True,
    **options: Any,
) -> list[str]:
    """So many continuations of the prompt, written together.

    The prompt is read once, and so are the weights for each next token of all samples.
    The first is what `continue_text` writes with the same seed, the second what it
    writes with `seed` + 1, and so on; rarely, rounding changes a token.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        prompt: as in `continue_text`.
        samples: from 1 to 256.
        stop_at_end: as in `continue_text`.
        options: as in `continue_text`.

    Raises:
        UserError: as `continue_text`.
    """
    stop = tokenizer.end_of_text if stop_at_end else None
    steps = list(_steps(model, tokenizer, prompt, samples, stop, options))
    rows = torch.stack(steps, dim=1).tolist() if steps else [[]] * samples
    return ["".join(_pieces(iter(row), tokenizer, stop)) for row in rows]
