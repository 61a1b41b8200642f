"""kv_cache: what was computed before, plus what is new, equals all at once."""

import pytest
import torch

from tinygpt.config import GPTConfig
from tinygpt.fast.decode_torch import QuickStep
from tinygpt.finetuning.lora import add_lora
from tinygpt.model.gpt import GPT
from tinygpt.model.kv_cache import KVCache
from tinygpt.presets import PRESETS

B, H, D, LAYERS, CONTEXT, C, V = 4, 3, 6, 2, 11, 18, 23

SWITCHES = [
    {},
    {"positions": "rotary", "qk_norm": True, "norm": "rmsnorm", "activation": "relu2"},
    {"positions": "sinusoidal", "activation": "swiglu", "bias": False, "d_ff": 31},
    {"tie_head": False, "head_bias": True, "embedding_norm": True, "qkv_bias": False},
    {"logit_softcap": 15.0, "norm_placement": "post"},
    PRESETS["tiny"].model.__dict__ | {"vocab_size": V, "context_length": CONTEXT},
]


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
            parts.append(gpt(part, cache))
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
        parts = [gpt(part, cache) for part in ids.split((3, 1, 7), dim=1)]
        expected = gpt(ids)
    torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_quick_step_equals_the_way_through_the_blocks(switches: dict) -> None:
    gpt = model(**switches).double()
    ids, plain, quick = torch.randint(V, (B, CONTEXT)), *map(gpt.new_cache, (B, B))
    plain.quick_step = None
    with torch.no_grad():
        for part in ids.split((3, 1, 1, 5, 1), dim=1):
            expected = gpt(part, plain)
            torch.testing.assert_close(gpt(part, quick), expected, rtol=0, atol=1e-12)
    assert plain.length == quick.length == CONTEXT


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_numpy_step_equals_the_way_through_the_blocks(
    switches: dict, dtype: torch.dtype
) -> None:
    gpt, atol = model(**switches).to(dtype), 5e-5 if dtype == torch.float32 else 1e-12
    ids, plain, quick = torch.randint(V, (1, CONTEXT)), *map(gpt.new_cache, (1, 1))
    plain.quick_step = None
    assert (quick.numpy_step is None) == (gpt.config.norm_placement == "post")
    with torch.no_grad():
        for part in ids.split((3, 1, 1, 5, 1), dim=1):
            expected, mine = gpt(part, plain), gpt(part, quick)
            assert mine.dtype == dtype
            torch.testing.assert_close(mine, expected, rtol=0, atol=atol)
    if quick.numpy_step:
        with pytest.raises(ValueError, match="the cache of 11 tokens is full"):
            quick.numpy_step(0, quick)


def test_the_quick_step_is_taken_and_only_when_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = []
    step = QuickStep.__call__
    monkeypatch.setattr(
        QuickStep, "__call__", lambda self, *a: taken.append(1) or step(self, *a)
    )
    gpt, ids = model(), torch.randint(V, (B, 1))
    cache = gpt.new_cache(B)
    with torch.no_grad():
        gpt(ids, cache)  # there is no past yet
        gpt(ids.repeat(1, 2), cache)
        gpt.train()(ids, cache)
        gpt.eval()(ids, cache, positions=torch.tensor([3]))
        assert not taken
        gpt(ids, cache)
    assert taken == [1]
    assert model(norm_placement="post").new_cache(B).quick_step is None
    with pytest.raises(ValueError, match="norms before"):
        QuickStep(model(norm_placement="post"))


def test_the_quick_step_goes_through_adapters() -> None:
    gpt = model()
    assert gpt.new_cache(1).numpy_step
    add_lora(gpt, rank=2, alpha=4.0)
    assert not gpt.new_cache(1).numpy_step
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            if "lora" in name or parameter.requires_grad:
                parameter.normal_(std=0.3)
        ids, cache = torch.randint(V, (B, 7)), gpt.new_cache(B)
        parts = [gpt(part, cache) for part in ids.split((3, 1, 1, 1, 1), dim=1)]
        torch.testing.assert_close(torch.cat(parts, 1), gpt(ids), rtol=0, atol=5e-5)


def test_a_full_cache_refuses_one_more() -> None:
    gpt = model()
    cache = gpt.new_cache(B)
    with torch.no_grad():
        gpt(torch.randint(V, (B, CONTEXT)), cache)
        with pytest.raises(ValueError, match="12 tokens, but the context holds 11"):
            gpt(torch.randint(V, (B, 1)), cache)
