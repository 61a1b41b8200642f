"""One token after another: what the model has written becomes its next input.

What it leaves out: how one token is chosen (see `sampling`), ids to text (see
`streaming`).
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinygpt.fast.decode_numpy import NumpyDecoder
from tinygpt.fast.decode_torch import TorchDecoder
from tinygpt.fast.plain import is_plain_part
from tinygpt.generation.sampling import sample_next_token
from tinygpt.model.kv_cache import KVCache


@runtime_checkable
class LanguageModel(Protocol):
    """What `generate` needs of a model; `GPT` has it."""

    training: bool

    @property
    def config(self) -> Any:
        """Its `context_length` is the most tokens that the model takes."""

    def new_cache(self, batch_size: int) -> KVCache:
        """An empty cache for this many texts."""

    def __call__(
        self, ids: Int[Tensor, "B T"], *, cache: KVCache | None
    ) -> Float[Tensor, "B T V"]:
        """Logits for the token after each of `ids`."""

    def train(self, mode: bool) -> Any:
        """Turn dropout on or off."""


def window_start(n_tokens: int, context_length: int) -> int:
    """Where the model's window begins when the text has grown to `n_tokens`.

    Up to the context length, at 0. After that the window drops half a context at a
    time: it starts at the smallest multiple of half the context that makes the rest
    fit. So the model always sees the last tokens, between half and all of its context,
    their positions counted from 0, and the cache is refilled only once in half a
    context.

    >>> [window_start(n, 8) for n in (8, 9, 12, 13)]
    [0, 4, 4, 8]
    """
    half = max(1, context_length // 2)
    excess = max(0, n_tokens - context_length)
    return -(-excess // half) * half


def make_decoder(
    model: LanguageModel, batch_size: int
) -> NumpyDecoder | TorchDecoder | None:
    """The fastest decoder for one more token of each text; None if none fits.

    One fits a `GPT` without forward hooks or replaced parts (see `tinygpt.fast`).
    """
    kinds = (NumpyDecoder, TorchDecoder) if batch_size == 1 else (TorchDecoder,)
    for kind in kinds:
        with suppress(ValueError):  # it does not fit
            return kind(model)
    return None


def last_logits(
    model: LanguageModel, ids: Int[Tensor, "B T"], cache: KVCache | None
) -> Float[Tensor, "B V"]:
    """Logits for the token after the last of `ids`; a plain `GPT` makes no others."""
    if not is_plain_part(model, "GPT"):
        return model(ids, cache=cache)[:, -1]
    gpt: Any = model
    x = gpt.features(ids, cache=cache)[:, -1:]  # [B, 1, C]
    x = x.contiguous()  # of a slice, PyTorch would copy the head's weights for each row
    return gpt.softcap(gpt.head(x))[:, 0]


def new_generators(
    seed: int | None, n: int, device: torch.device
) -> list[torch.Generator]:
    """Random generators with the seeds `seed`, `seed` + 1, ...; or with a fresh one."""
    generators = [torch.Generator(device) for _ in range(n)]
    for i, generator in enumerate(generators):
        if seed is None:
            generator.seed()
        else:
            generator.manual_seed(seed + i)
    return generators


def generate(
    model: LanguageModel,
    ids: Int[Tensor, "B T"],
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_token: int | None = None,
    use_cache: bool = True,
    samples: int = 1,
) -> Iterator[Int[Tensor, " S*B"]]:
    """Continue the texts `ids`; every step yields the next token of each row.

    With S `samples`, each of the B texts is read once and continued S times: rows 0 to
    B - 1 are the first continuation of each text, the next B rows the second, drawn
    with `seed` + 1, and so on. Each is what that seed would draw alone (up to rounding:
    more rows are computed in another order).

    Past its context length the model sees the window that begins at `window_start`,
    with the cache and without it, so both give the same tokens. Dropout is off while a
    token is computed and restored afterwards. A batch stops when every row has reached
    `stop_token` (which is yielded too); rows that are done go on yielding it.

    Args:
        model: forward hooks on its parts are run if registered before the first token.
        ids: the prompts, of 1 to context_length tokens.
        max_new_tokens: how many steps at most.
        temperature: see `next_token_probabilities`; so are `top_k` and `top_p`.
        top_k: only so many of the likeliest tokens.
        top_p: only the likeliest tokens that together reach this probability.
        seed: of a random generator for this call; fresh if None.
        stop_token: the end of a text.
        use_cache: keep keys and values in place of recomputing them.
        samples: how often each text is continued.

    Raises:
        ValueError: `ids` is empty, longer than the context, or not in the vocabulary;
            an option of the sampling is out of range.
    """
    context_length = model.config.context_length
    if not 1 <= ids.size(1) <= context_length:
        raise ValueError(
            f"a prompt needs 1 to {context_length} tokens, not {ids.size(1)}"
        )
    generators = new_generators(seed, samples, ids.device)
    cache, start = model.new_cache(ids.size(0)) if use_cache else None, 0
    n_rows = samples * ids.size(0)
    decoder = make_decoder(model, n_rows) if use_cache else None
    done = torch.zeros(n_rows, dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        moved = window_start(ids.size(1), context_length)
        if cache and moved != start:
            cache.length = 0  # the window moved: every position changed
        start, past = moved, cache.length if cache else 0
        fresh = ids[:, start + past :]
        if was_training := model.training:  # each walk goes through every module
            model.train(False)
        with torch.inference_mode():  # a decorator does not reach every generator
            if decoder and past and fresh.size(1) == 1:
                logits = decoder(fresh, cache)[:, -1]
            else:
                logits = last_logits(model, fresh, cache)
        if was_training:
            model.train(True)
        if len(ids) < n_rows:  # the prompt has been read
            ids, logits = ids.repeat(samples, 1), logits.repeat(samples, 1)
            cache = cache and cache.repeat(samples)
        token = sample_next_token(logits, temperature, top_k, top_p, generators)
        if stop_token is not None:
            token = token.masked_fill(done, stop_token)
            done |= token == stop_token
        yield token
        if stop_token is not None and done.all():
            return
        ids = torch.cat([ids, token.unsqueeze(1)], dim=1)
