"""kv_cache: what was computed before, plus what is new, equals all at once."""

import re
from collections.abc import Callable

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from tinygpt.config import GPTConfig
from tinygpt.model.gpt import GPT
from tinygpt.model.kv_cache import KVCache
from tinygpt.model.masking import causal_mask

B, H, D, LAYERS, CONTEXT, C, V = 4, 3, 6, 2, 11, 18, 23


def model(**changes: object) -> GPT:
    """A GPT with weights large enough that every token matters."""
    shape = {
        "vocab_size": V,
        "context_length": CONTEXT,
        "d_model": C,
        "n_heads": H,
        "n_layers": LAYERS,
    }
    gpt = GPT(GPTConfig(**(shape | changes))).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(std=0.3)
    return gpt


def test_extend_gives_back_all_keys_and_values_of_its_layer() -> None:
    cache = KVCache(LAYERS, B, H, CONTEXT, D, like=torch.empty(0))
    k, v = torch.randn(2, LAYERS, B, H, CONTEXT, D)
    for start, end in [(0, 5), (5, 6), (6, CONTEXT)]:
        for layer in range(LAYERS):
            new = k[layer, :, :, start:end], v[layer, :, :, start:end]
            keys, values = cache.extend(layer, *new)
            assert torch.equal(keys, k[layer, :, :, :end])
            assert torch.equal(values, v[layer, :, :, :end])
        cache.advance(end - start)
        assert cache.length == end


def test_too_many_tokens_do_not_fit() -> None:
    cache = KVCache(LAYERS, B, H, CONTEXT, D, like=torch.empty(0))
    cache.advance(9)
    new = torch.randn(B, H, 3, D)
    with pytest.raises(ValueError, match="12 tokens do not fit into a cache of 11"):
        cache.extend(0, new, new)


def test_tables_have_the_type_they_are_told() -> None:
    cache = model().to(torch.bfloat16).new_cache(B)
    assert cache.table.dtype == torch.bfloat16
    assert cache.table.shape == (LAYERS, 2, B, H, CONTEXT, D)
    assert cache.length == 0


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-12)], ids=str
)
@pytest.mark.parametrize(
    "chunks", [(1,) * 11, (11,), (5, 1, 5), (2, 9), (4, 3, 4), (10, 1)], ids=str
)
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_cached_equals_uncached(
    positions: str, chunks: tuple, dtype: torch.dtype, tolerance: float
) -> None:
    gpt = model(positions=positions).to(dtype)
    ids, cache, parts = torch.randint(V, (B, CONTEXT)), gpt.new_cache(B), []
    with torch.no_grad():
        for part in ids.split(chunks, dim=1):
            parts.append(gpt(part, cache=cache))
        expected = gpt(ids)
    assert cache.length == CONTEXT
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": True, "norm": "rmsnorm", "activation": "relu2", "bias": False},
        {"norm_placement": "post", "activation": "swiglu", "embedding_norm": True},
        {"tie_head": False, "head_bias": True, "logit_softcap": 15.0},
    ],
    ids=str,
)
def test_cached_equals_uncached_with_every_switch(changes: dict) -> None:
    gpt = model(positions="rotary", **changes).double()
    ids, cache = torch.randint(V, (B, CONTEXT)), gpt.new_cache(B)
    with torch.no_grad():
        parts = [gpt(part, cache=cache) for part in ids.split((3, 1, 7), dim=1)]
        expected = gpt(ids)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-12)


def filled(gpt: GPT, n_tokens: int, batch: int = B) -> tuple[KVCache, Tensor]:
    """A cache with `n_tokens` random tokens, and a text that begins with them."""
    ids, cache = torch.randint(V, (batch, CONTEXT)), gpt.new_cache(batch)
    with torch.no_grad():
        gpt(ids[:, :n_tokens], cache=cache)
    return cache, ids


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("n_new", [1, 3])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_mask_and_positions_are_obeyed_beside_a_filled_cache(
    positions: str, n_new: int, training: bool
) -> None:
    gpt = model(positions=positions).double()
    places = torch.randperm(CONTEXT).expand(B, CONTEXT)
    mask = torch.rand(B, 1, CONTEXT, CONTEXT) < 0.5
    mask |= torch.eye(CONTEXT, dtype=torch.bool)
    gpt.train(training)
    new = slice(5, 5 + n_new)
    with torch.no_grad():
        ids, cache = torch.randint(V, (B, 5 + n_new)), gpt.new_cache(B)
        seen = mask & causal_mask(CONTEXT)  # the cached tokens saw no later ones
        gpt(ids[:, :5], seen[:, :, :5, :5], places[:, :5], cache)
        ours = gpt(ids[:, new], seen[:, :, new, : new.stop], places[:, new], cache)
        n = new.stop
        wanted = gpt(ids, seen[:, :, :n, :n], places[:, :n])[:, new]
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
        for options in ({"mask": seen[:, :, :n, :n]}, {"positions": places[:, :n]}):
            other = gpt(ids, **options)[:, new]
            assert not torch.allclose(ours, other, atol=1e-3)  # each one counts


@pytest.mark.parametrize("n_new", [1, 3])
def test_a_mask_may_show_later_tokens_and_be_for_all_heads_and_texts(
    n_new: int,
) -> None:
    gpt = model().double()
    cache, ids = filled(gpt, 5)
    last = [model_cache(gpt, ids) for _ in range(3)]
    mask = torch.rand(n_new, 5 + n_new) < 0.5
    mask[:, 0] = True
    new = ids[:, 5 : 5 + n_new]
    with torch.no_grad():
        ours = gpt(new, mask=mask, cache=cache)
        for same, given in zip(
            last,
            (mask[None, None], mask.expand(B, 1, -1, -1), mask.expand(B, H, -1, -1)),
            strict=True,
        ):
            assert torch.equal(gpt(new, mask=given, cache=same), ours)


def model_cache(gpt: GPT, ids: Tensor) -> KVCache:
    """A cache that holds the first five tokens of `ids`."""
    cache = gpt.new_cache(len(ids))
    with torch.no_grad():
        gpt(ids[:, :5], cache=cache)
    return cache


ONES = torch.ones(99, 99, dtype=torch.bool)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("n_new", [1, 3])
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (lambda n: {"ids": torch.full((B, n), -1)}, "token ids must be in 0..22"),
        (lambda n: {"ids": torch.full((B, n), V)}, "token ids must be in 0..22"),
        (lambda n: {"mask": ONES[:n, :n]}, "name every key"),  # past keys, too
        (lambda n: {"mask": ONES[:n, : 6 + n]}, "name every key"),
        (lambda n: {"mask": ONES[:1, :1]}, "name every key"),
        (lambda n: {"mask": ONES[: n + 1, : 5 + n]}, "must broadcast"),
        (lambda n: {"mask": ONES[None, :n, : 5 + n]}, "must broadcast"),
        (lambda n: {"mask": ONES[:n, : 5 + n].expand(3, 1, -1, -1)}, "must broadcast"),
        (lambda n: {"mask": ONES[:n, : 5 + n].expand(B, 2, -1, -1)}, "must broadcast"),
        (lambda n: {"positions": torch.full((n,), -1)}, "positions must be in 0..10"),
        (lambda n: {"positions": torch.full((n,), 11)}, "positions must be in 0..10"),
        (lambda n: {"positions": torch.zeros(n + 1).long()}, "positions must be"),
        (lambda n: {"positions": torch.zeros(2, n).long()}, "positions must be"),
        (lambda n: {"positions": torch.zeros(1, B, n).long()}, "positions must be"),
    ],
)
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_what_cannot_be_obeyed_is_refused(
    options: Callable[[int], dict],
    sentence: str,
    n_new: int,
    training: bool,
    positions: str,
) -> None:
    gpt = model(positions=positions)
    cache, ids = filled(gpt, 5)
    before = cache.table[..., :5, :].clone()
    given = {"ids": ids[:, :n_new], **options(n_new)}
    with torch.no_grad(), pytest.raises(ValueError, match=re.escape(sentence)):
        gpt.train(training)(**given, cache=cache)
    assert cache.length == 5
    assert torch.equal(cache.table[..., :5, :], before)


def test_a_mask_of_numbers_is_refused() -> None:
    gpt = model()
    forward = getattr(GPT.features, "__wrapped__", GPT.features)
    with pytest.raises((ValueError, TypeCheckError)):
        forward(gpt, torch.zeros(1, 2, dtype=torch.long), torch.zeros(2, 2))


@pytest.mark.parametrize("n_new", [1, 3])
@pytest.mark.parametrize("batch", [1, B + 1])
def test_a_cache_of_another_batch_is_refused(batch: int, n_new: int) -> None:
    gpt = model()
    for n_tokens in (0, 5):
        cache = filled(gpt, n_tokens)[0] if n_tokens else gpt.new_cache(B)
        with torch.no_grad(), pytest.raises(ValueError, match="for a batch of 4, not"):
            gpt(torch.zeros(batch, n_new, dtype=torch.long), cache=cache)


@pytest.mark.parametrize("changes", [{"n_layers": 3}, {"n_layers": 1}, {"n_heads": 2}])
def test_a_cache_of_another_model_is_refused(changes: dict) -> None:
    cache = model(**changes).new_cache(B)
    with torch.no_grad(), pytest.raises(ValueError, match="the cache is for layers"):
        model()(torch.zeros(B, 2, dtype=torch.long), cache=cache)


def test_a_full_cache_refuses_one_more() -> None:
    gpt = model()
    cache = gpt.new_cache(B)
    with torch.no_grad():
        gpt(torch.randint(V, (B, CONTEXT)), cache=cache)
        with pytest.raises(ValueError, match="12 tokens, but the context holds 11"):
            gpt(torch.randint(V, (B, 1)), cache=cache)
