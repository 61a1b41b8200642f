"""kv_cache: what was computed before, plus what is new, equals all at once."""

import pytest
import torch

from tinygpt.config import GPTConfig
from tinygpt.model.gpt import GPT
from tinygpt.model.kv_cache import KVCache

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


def test_a_full_cache_refuses_one_more() -> None:
    gpt = model()
    cache = gpt.new_cache(B)
    with torch.no_grad():
        gpt(torch.randint(V, (B, CONTEXT)), cache=cache)
        with pytest.raises(ValueError, match="12 tokens, but the context holds 11"):
            gpt(torch.randint(V, (B, 1)), cache=cache)
