"""Choosing the next token, one after another.

One `sample_next_token`, one `generate`, and `stream_text`, which turns ids into text
as they come. What it leaves out: beam search, and everything that knows files.
"""

import codecs
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinygpt.kv_cache import KVCache


@runtime_checkable
class LanguageModel(Protocol):
    """What `generate` needs of a model: what `GPT` has."""

    training: bool

    @property
    def config(self) -> Any:
        """Knows the `context_length`."""

    def new_cache(self, batch_size: int) -> KVCache:
        """An empty cache."""

    def __call__(self, ids: Tensor, cache: KVCache | None) -> Tensor:
        """Logits [B, T, V] of ids [B, T]."""

    def train(self, mode: bool) -> Any:
        """Dropout on or off."""


@runtime_checkable
class Decoder(Protocol):
    """What `stream_text` needs of a tokenizer."""

    def token_bytes(self, token: int) -> bytes:
        """The bytes of one token."""


def _check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raise ValueError for an option that is out of range."""
    if not temperature >= 0:  # nan is refused too
        raise ValueError(f"temperature must be at least 0, not {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must be more than 0 and at most 1, not {top_p}")


def next_token_probabilities(
    logits: Float[Tensor, "B V"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "B V"]:
    """The distribution that `sample_next_token` draws from.

    Logits are divided by `temperature` (0: all on the largest, the lowest id among
    equals); then only the `top_k` largest stay; then only the smallest set of the
    likeliest tokens whose probabilities reach `top_p`. The rest is scaled to sum to 1.

    Source: Fan et al. (2018), "Hierarchical Neural Story Generation", section 5.4
    (top-k); Holtzman et al. (2020), "The Curious Case of Neural Text Degeneration",
    section 3.1 (top-p).

    Raises:
        ValueError: temperature < 0 or nan, top_k < 1 or top_p outside (0, 1].

    >>> next_token_probabilities(torch.tensor([[2.0, 2.0, 1.0]]), top_k=2).tolist()
    [[0.5, 0.5, 0.0]]
    """
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        winner = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter(-1, winner, 1.0)
    scores = logits / temperature
    if top_k is not None and top_k < scores.size(-1):
        # No sorting: what is below the k-th largest goes, of its equals the later ones.
        least = scores.topk(top_k).values[:, -1:]
        equal = scores == least
        room = top_k - (scores > least).sum(dim=-1, keepdim=True)
        excess = equal & (equal.cumsum(dim=-1) > room)
        scores = scores.masked_fill((scores < least) | excess, -torch.inf)
    probabilities = scores.softmax(dim=-1)
    if top_p is not None and top_p < 1:  # at 1, rounding must not drop the tail
        # Stable: of equal scores, the lower id counts as the likelier.
        order = scores.argsort(dim=-1, descending=True, stable=True)
        ranked = probabilities.gather(-1, order)
        before = ranked.cumsum(dim=-1) - ranked
        ranked = ranked.where(before < top_p, 0.0)
        ranked = ranked / ranked.sum(dim=-1, keepdim=True)
        probabilities = probabilities.scatter(-1, order, ranked)
    return probabilities


def sample_next_token(
    logits: Float[Tensor, "B V"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " B"]:
    """Draw one token per row from `next_token_probabilities`; same arguments."""
    if temperature == 0:  # nothing to draw
        _check_sampling(temperature, top_k, top_p)
        return logits.argmax(dim=-1)
    probabilities = next_token_probabilities(logits, temperature, top_k, top_p)
    return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)


def window_start(n_tokens: int, context_length: int) -> int:
    """Where the model's view begins when the text has grown to `n_tokens`.

    Up to the context length, at 0. After that the view lets go of half a context at a
    time: it starts at the smallest multiple of half the context that makes the rest
    fit. So the model always sees the last tokens, between half and all of its context,
    their positions counted from 0, and the cache is filled anew only once in half a
    context.

    >>> [window_start(n, 8) for n in (8, 9, 12, 13)]
    [0, 4, 4, 8]
    """
    half = max(1, context_length // 2)
    excess = max(0, n_tokens - context_length)
    return -(-excess // half) * half


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
) -> Iterator[Int[Tensor, " B"]]:
    """Go on writing after `ids`; every step yields the next token of each row.

    Past its context length the model sees what `window_start` says,
    with the cache and without it, so both give the same tokens. Dropout is off while
    a token is computed and back as it was afterwards. A batch stops when every row
    has met `stop_token` (which is yielded too); rows that are done go on yielding it.

    Raises:
        ValueError: `ids` is empty, or longer than the context.
    """
    context_length = model.config.context_length
    if not 1 <= ids.size(1) <= context_length:
        raise ValueError(
            f"a prompt needs 1 to {context_length} tokens, not {ids.size(1)}"
        )
    generator = torch.Generator(device=ids.device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    cache, start = model.new_cache(ids.size(0)) if use_cache else None, 0
    done = torch.zeros(ids.size(0), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        moved = window_start(ids.size(1), context_length)
        if cache and moved != start:
            cache.length = 0  # the view moved on: every position changed
        start = moved
        fresh = ids[:, start + (cache.length if cache else 0) :]
        if was_training := model.training:  # each walk goes through every module
            model.train(False)
        with torch.inference_mode():  # a decorator does not reach every generator
            logits = model(fresh, cache)[:, -1]
        if was_training:
            model.train(True)
        token = sample_next_token(logits, temperature, top_k, top_p, generator)
        if stop_token is not None:
            token = token.masked_fill(done, stop_token)
            done |= token == stop_token
        yield token
        if stop_token is not None and done.all():
            return
        ids = torch.cat([ids, token.unsqueeze(1)], dim=1)


def stream_text(tokens: Iterable[int], tokenizer: Decoder) -> Iterator[str]:
    """Text of `tokens` piece by piece, never half a character.

    Bytes of a character that is not complete wait for the next token; bytes that can
    never be a character come out as the replacement mark U+FFFD.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if piece := decoder.decode(tokenizer.token_bytes(token)):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest
