"""generation: sampling against a plain reference, cached equal to uncached, streams."""

import math
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_run import PARTS
from torch import Tensor, nn

from tinygpt.config import GPTConfig
from tinygpt.fast.decode_numpy import NumpyDecoder
from tinygpt.fast.decode_torch import TorchDecoder
from tinygpt.generation.generate import generate, last_logits, window_start
from tinygpt.generation.sampling import (
    draw,
    next_token_probabilities,
    sample_next_token,
)
from tinygpt.generation.streaming import stream_text
from tinygpt.model.gpt import GPT
from tinygpt.model.kv_cache import KVCache

B, H, C, V = 2, 3, 18, 23


def model(context_length: int, **changes: object) -> GPT:
    """A GPT with weights large enough that every token matters."""
    shape = {"vocab_size": V, "d_model": C, "n_heads": H, "n_layers": 1}
    gpt = GPT(GPTConfig(context_length=context_length, **(shape | changes)))
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(std=0.5)
    return gpt.double()


def text(*arguments: object, **options: object) -> list[list[int]]:
    """What `generate` yields, as one list of tokens per step."""
    return [token.tolist() for token in generate(*arguments, **options)]


# The distribution.


def naive_probabilities(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> list[float]:
    """One row, with lists and loops."""
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if temperature == 0:
        return [float(i == ranked[0]) for i in range(len(logits))]
    kept = ranked[:top_k]
    weights = {i: math.exp((logits[i] - logits[ranked[0]]) / temperature) for i in kept}
    share = {i: weight / sum(weights.values()) for i, weight in weights.items()}
    if top_p is not None and top_p < 1:
        nucleus, reached = [], 0.0
        for i in kept:
            nucleus.append(i)
            reached += share[i]
            assume(abs(reached - top_p) > 1e-9)  # not on the edge of rounding
            if reached >= top_p:
                break
        share = {i: share[i] / reached for i in nucleus}
    return [share.get(i, 0.0) for i in range(len(logits))]


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(st.integers(-3, 3).map(float), st.floats(-9, 9)),
        min_size=1,
        max_size=8,
    ),
    st.one_of(st.sampled_from([0.0, 1e-300, 1e-45, 1e-30]), st.floats(0.05, 5)),
    st.one_of(st.none(), st.integers(1, 10)),
    st.one_of(st.none(), st.sampled_from([1.0, 1e-300]), st.floats(1e-6, 1)),
)
def test_probabilities_equal_a_plain_reference(
    logits: list[float], temperature: float, top_k: int | None, top_p: float | None
) -> None:
    expected = naive_probabilities(logits, temperature, top_k, top_p)
    rows = torch.tensor([logits, logits[::-1]], dtype=torch.float64)
    row = next_token_probabilities(rows, temperature, top_k, top_p)[0]
    assert row.tolist() == pytest.approx(expected, abs=1e-9)
    assert [p > 0 for p in row.tolist()] == [p > 0 for p in expected]


LOGITS = torch.log(torch.tensor([[0.1, 0.4, 0.2, 0.3]]))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.2, 0.3]),
        ({"temperature": 0.0}, [0, 1, 0, 0]),
        ({"temperature": 0.5}, [1 / 30, 16 / 30, 4 / 30, 9 / 30]),  # squares
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_k": 99}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0]),
        ({"top_p": 0.41}, [0, 4 / 7, 0, 3 / 7]),
        ({"top_p": 0.8}, [0, 4 / 9, 2 / 9, 3 / 9]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.2, 0.3]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7]),  # of 4/9, 3/9, 2/9
    ],
    ids=str,
)
def test_probabilities_by_hand(options: dict, expected: list[float]) -> None:
    row = next_token_probabilities(LOGITS, **options)[0]
    assert row.tolist() == pytest.approx(expected, abs=1e-6)


def test_at_temperature_zero_nothing_is_drawn() -> None:
    """Chance is left as it was, so that what is drawn next does not depend on it."""
    generator = torch.Generator().manual_seed(5)
    before = generator.get_state()
    token = sample_next_token(LOGITS, 0.0, generators=[generator])
    assert token.tolist() == [1]
    assert torch.equal(generator.get_state(), before)
    sample_next_token(LOGITS, 1.0, generators=[generator])
    assert not torch.equal(generator.get_state(), before)


INF = math.inf
TINY = [1e-30, 1e-38, 1e-45, 1e-60, 5e-324]
EXTREME = [
    [0.0, 1.0, -2.0, 1.0],
    [3e38, -3e38, 3.1e38, 0.0],
    [-3e38, -3e38, -3.1e38, -3.2e38],
    [-INF, 2.0, -INF, 1.0],
    [-INF, -INF, -INF, -INF],
    [INF, 2.0, INF, -INF],
    [1e-45, 0.0, -1e-45, 1e-44],
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("temperature", [*TINY, 1e-3, 1.0, 1e30, 1e300, INF])
@pytest.mark.parametrize("logits", EXTREME, ids=str)
def test_extreme_numbers_give_a_distribution(
    logits: list[float], temperature: float, dtype: torch.dtype
) -> None:
    row = torch.tensor([logits, [0.0, 1.0, 2.0, 3.0]], dtype=dtype)
    for top_k in (None, 1, 2):
        for top_p in (None, *TINY, 0.5):
            options = (temperature, top_k, top_p)
            probabilities = next_token_probabilities(row, *options)
            assert (probabilities >= 0).all(), options
            sums = probabilities.sum(dim=-1)
            torch.testing.assert_close(sums, torch.ones_like(sums))
            kept = (probabilities > 0).sum(dim=-1)
            assert top_k is None or (kept <= top_k).all()
            if top_p in TINY:  # the likeliest alone, the lowest id among equals
                assert kept.tolist() == [1, 1]
                assert probabilities[0].argmax() == row[0].argmax()
            tokens = sample_next_token(row, *options)
            assert (probabilities.gather(1, tokens[:, None]) > 0).all()


@pytest.mark.parametrize(
    ("logits", "temperature", "expected"),
    [
        ([0.0, 1.0, 0.999, 1.0], 1e-30, [0, 0.5, 0, 0.5]),  # equals share
        ([0.0, 1.0, 0.999, 1.0], 1e-45, [0, 0.5, 0, 0.5]),
        ([-3e38, -3.1e38, -INF, -3e38], 1.0, [0.5, 0, 0, 0.5]),
        ([-INF, -INF, 0.0, 0.0], 2.0, [0, 0, 0.5, 0.5]),
        ([INF, 1.0, INF, -INF], 1.0, [0.5, 0, 0.5, 0]),
        ([-INF] * 4, 1.0, [0.25] * 4),
        ([1.0, -INF, 3.0, 2.0], INF, [1 / 3, 0, 1 / 3, 1 / 3]),
    ],
    ids=str,
)
def test_extreme_numbers_by_hand(
    logits: list[float], temperature: float, expected: list[float]
) -> None:
    row = next_token_probabilities(torch.tensor([logits]), temperature)[0]
    assert row.tolist() == pytest.approx(expected, abs=1e-6)


def test_logits_that_round_to_the_same_probability_keep_their_rank() -> None:
    row = torch.tensor([[0.0, 1.0, 1e-25]])
    for options in ({"top_k": 2}, {"top_p": 0.7}):
        assert next_token_probabilities(row, **options)[0, 0] == 0
        assert next_token_probabilities(row, **options)[0, 2] > 0.2


def test_a_logit_that_is_no_number_is_not_sampled_from() -> None:
    rows = torch.tensor([[0.0, 1.0, 1.0], [0.0, math.nan, math.nan]])
    for options in ({}, {"top_k": 1}, {"top_k": 2}, {"top_p": 0.5}):
        with pytest.raises(RuntimeError, match="nan"):
            sample_next_token(rows, **options)


def test_of_equal_logits_the_lower_ids_stay() -> None:
    equal = torch.zeros(1, 5)
    assert next_token_probabilities(equal, 0.0).tolist() == [[1, 0, 0, 0, 0]]
    assert next_token_probabilities(equal, top_k=2).tolist() == [[0.5, 0.5, 0, 0, 0]]
    behind = next_token_probabilities(torch.tensor([[0.0, 9, 0, 0]]), top_k=2)
    assert (behind > 0).tolist() == [[True, True, False, False]]
    many = next_token_probabilities(torch.zeros(1, 50_257), top_k=4)
    assert many[0].nonzero().flatten().tolist() == [0, 1, 2, 3]
    assert next_token_probabilities(equal, top_p=0.3).tolist() == [[0.5, 0.5, 0, 0, 0]]
    four = torch.zeros(1, 4)  # two quarters reach a half: a third is one too many
    assert next_token_probabilities(four, top_p=0.5).tolist() == [[0.5, 0.5, 0, 0]]


def test_top_p_of_one_keeps_even_what_rounding_would_lose() -> None:
    logits = torch.tensor([[40.0, 0.0, 1.0]])  # exp(-40) vanishes beside 1
    every = next_token_probabilities(logits, top_p=1.0)
    assert torch.equal(every, next_token_probabilities(logits))
    assert (every > 0).all()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, not -0.1"),
        ({"temperature": math.nan}, "temperature must be at least 0, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_p": 0.0}, "top_p must be more than 0 and at most 1, not 0.0"),
        ({"top_p": -0.5}, "top_p must be more than 0 and at most 1, not -0.5"),
        ({"top_p": 1.1}, "top_p must be more than 0 and at most 1, not 1.1"),
        ({"top_p": math.nan}, "top_p must be more than 0 and at most 1, not nan"),
    ],
    ids=str,
)
def test_options_out_of_range(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        next_token_probabilities(LOGITS, **{"temperature": 1.0, **options})


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}], ids=str
)
def test_frequencies_match_the_probabilities(options: dict) -> None:
    """Chi-square of 20,000 draws; 6 degrees of freedom exceed 28 once in 10,000."""
    n, logits = 20_000, torch.tensor([[0.3, -1.2, 2.0, 0.0, 1.1, -0.4, 0.9]])
    expected = n * next_token_probabilities(logits, **options)[0].double()
    generator = torch.Generator().manual_seed(11)
    draws = sample_next_token(logits.expand(n, 7), **options, generators=[generator])
    assert chi_square(draws, expected) < 28


def chi_square(draws: Tensor, expected: Tensor) -> float:
    """How far the counts are from what is expected; nothing impossible was drawn."""
    counts, possible = torch.bincount(draws, minlength=len(expected)), expected > 0
    assert (counts[~possible] == 0).all()
    return ((counts - expected).square() / expected)[possible].sum().item()


@pytest.mark.slow
def test_frequencies_match_in_a_whole_vocabulary() -> None:
    """Chi-square of 150,000 draws of 4,096 tokens, each expected at least 5 times.

    With 4,095 degrees of freedom it exceeds 4,437 once in 10,000 (mean 4,095, standard
    deviation 90.5).
    """
    n, generator = 150_000, torch.Generator().manual_seed(12)
    p = torch.rand(1, 4096, generator=generator) + 0.1
    u = torch.rand(n, 1, generator=generator, dtype=torch.float64)
    expected = (n * p / p.sum())[0].double()
    assert expected.min() > 5
    draws = torch.cat([draw(p.expand(len(part), -1), part) for part in u.split(1000)])
    assert chi_square(draws, expected) < 4437


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 1e-300, 1e-60, 1e-9, 0.1, 1.0, 7.0]), min_size=1),
    st.one_of(
        st.sampled_from([0.0, 5e-324, 0.5, 1 - 2**-53]), st.floats(0, 1 - 2**-53)
    ),
)
def test_what_has_no_probability_is_never_drawn(weights: list[float], u: float) -> None:
    """Also at both ends of chance; and the index is that of a plain walk."""
    assume(sum(weights) > 0)
    row = torch.tensor([weights], dtype=torch.float64)
    index = int(draw(row, torch.tensor([[u]], dtype=torch.float64)))
    sums = list(accumulate(weights))
    assert index == next(i for i, s in enumerate(sums) if s > u * sums[-1])
    assert weights[index] > 0


def test_a_row_takes_one_number_of_its_generator() -> None:
    """As much for one token as for all, and the same beside other rows."""
    logits, seeds = torch.randn(6, 50), (3, 4, 5)
    for options in ({}, {"top_k": 4}, {"top_p": 0.7}):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        together = sample_next_token(logits, **options, generators=generators)
        for i, seed in enumerate(seeds):
            alone, rows = torch.Generator().manual_seed(seed), logits[2 * i : 2 * i + 2]
            drawn = sample_next_token(rows, **options, generators=[alone])
            assert torch.equal(drawn, together[2 * i : 2 * i + 2])
            assert torch.equal(alone.get_state(), generators[i].get_state())
            plain = torch.Generator().manual_seed(seed)
            u = torch.rand(2, 1, generator=plain, dtype=torch.float64)
            assert torch.equal(plain.get_state(), alone.get_state())
            assert torch.equal(
                draw(next_token_probabilities(rows, **options), u), drawn
            )


# The window past the context.


@given(st.integers(1, 40), st.integers(1, 200))
def test_window_start(context_length: int, n_tokens: int) -> None:
    start = window_start(n_tokens, context_length)
    half, seen = max(1, context_length // 2), n_tokens - start
    assert start % half == 0
    assert 1 <= seen <= context_length  # it fits
    if start:
        assert seen + half > context_length  # and no smaller multiple would
        assert seen >= context_length // 2
    else:
        assert n_tokens <= context_length
    assert window_start(n_tokens + 1, context_length) - start in (0, half)


def naive_generate(gpt: GPT, ids: Tensor, n: int) -> list[list[int]]:
    """Greedy, with the whole window recomputed for every token."""
    gpt.eval()
    tokens = []
    for _ in range(n):
        start = window_start(ids.size(1), gpt.config.context_length)
        token = gpt(ids[:, start:])[:, -1].argmax(dim=-1)
        tokens.append(token.tolist())
        ids = torch.cat([ids, token.unsqueeze(1)], dim=1)
    return tokens


CONTEXTS = [1, 2, 3, 8]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("context_length", CONTEXTS)
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_greedy_is_argmax_also_past_the_context(
    positions: str, context_length: int, use_cache: bool
) -> None:
    gpt, n = model(context_length, positions=positions), 2 * context_length + 3
    for length in {1, context_length}:
        ids = torch.randint(V, (B, length))
        ours = text(gpt, ids, n, temperature=0.0, use_cache=use_cache)
        assert ours == naive_generate(gpt, ids, n)


@pytest.mark.parametrize("context_length", CONTEXTS)
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
def test_sampled_text_is_the_same_with_and_without_the_cache(
    positions: str, context_length: int
) -> None:
    gpt, n = model(context_length, positions=positions), 2 * context_length + 3
    ids = torch.randint(V, (B, (context_length + 1) // 2))
    options = {"temperature": 0.9, "top_k": 15, "top_p": 0.95, "seed": 3}
    cached = text(gpt, ids, n, **options)
    assert cached == text(gpt, ids, n, **options, use_cache=False)
    assert len(cached) == n
    assert len({token for step in cached for token in step}) > 2


# The loop.


def test_a_seed_repeats_and_leaves_the_global_generator_alone() -> None:
    gpt, ids = model(8), torch.randint(V, (B, 3))
    state = torch.get_rng_state()
    first = text(gpt, ids, 20, seed=5)
    free = text(gpt, ids, 20)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert text(gpt, ids, 20, seed=5) == first
    assert text(gpt, ids, 20, seed=6) != first
    assert text(gpt, ids, 20) != free  # without a seed, chance


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    gpt, ids = model(7), torch.randint(V, (B, 4))
    together = text(gpt, ids, 16, temperature=0.0)
    for row in range(B):
        alone = text(gpt, ids[row : row + 1], 16, temperature=0.0)
        assert [step[row] for step in together] == [step[0] for step in alone]


@pytest.mark.parametrize("use_cache", [True, False])
def test_samples_are_what_their_seeds_draw_alone(use_cache: bool) -> None:
    """Also past the context, and until all of them have reached the end."""
    gpt, ids = model(8), torch.randint(V, (B, 3))
    options = {"temperature": 0.9, "use_cache": use_cache, "stop_token": 4}
    together = torch.tensor(text(gpt, ids, 30, seed=7, samples=3, **options))
    assert together.shape[1] == 3 * B
    for i in range(3):
        alone = torch.tensor(text(gpt, ids, 30, seed=7 + i, **options))
        rows = together[:, i * B : (i + 1) * B]
        assert torch.equal(rows[: len(alone)], alone)
        assert (rows[len(alone) :] == 4).all()


@pytest.mark.parametrize("cap", [0.0, 15.0])
def test_a_prompt_computes_the_logits_of_its_last_position(cap: float) -> None:
    gpt, ids, seen = model(8, logit_softcap=cap), torch.randint(V, (B, 5)), []
    with torch.no_grad():
        expected = gpt(ids)[:, -1]
    ours = last_logits(gpt, ids, None)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    with gpt.head.register_forward_hook(lambda *a: seen.append(a[1][0].shape)):
        next(generate(gpt, ids, 1, samples=2))
    assert seen == [(B, 1, C)]


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored_even_if_nobody_reads_on(training: bool) -> None:
    gpt, seen = model(8, dropout=0.5).train(training), []
    gpt.register_forward_hook(
        lambda module, *_: seen.append((module.training, torch.is_grad_enabled()))
    )
    steps = generate(gpt, torch.randint(V, (B, 3)), 5)
    for _ in range(2):
        next(steps)
        assert gpt.training == training
        assert torch.is_grad_enabled()
    assert seen == [(False, False)] * 2
    steps.close()
    assert gpt.training == training


# The decoders, which generate makes for one call.


def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of the decoder of each token that one has made."""
    calls: list[str] = []
    for kind in (TorchDecoder, NumpyDecoder):

        def counting(self: Any, *arguments: Any, step: Any = kind.__call__) -> Tensor:
            calls.append(type(self).__name__)
            return step(self, *arguments)

        monkeypatch.setattr(kind, "__call__", counting)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "batch", "name"),
    [
        ({}, 1, "NumpyDecoder"),
        ({}, B, "TorchDecoder"),
        ({"d_ff": 300_000}, 1, "TorchDecoder"),  # too large for NumPy
        ({"norm_placement": "post"}, 1, None),
    ],
    ids=str,
)
def test_the_quickest_decoder_that_fits_is_taken(
    changes: dict, batch: int, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, gpt = decoded(monkeypatch), model(8, **changes)
    text(gpt, torch.randint(V, (batch, 3)), 12, temperature=0.0)
    # The prompt, and what is left of the view when it moves, go through the model.
    assert calls == ([] if name is None else [name] * 9)
    calls.clear()
    text(gpt, torch.randint(V, (batch, 3)), 12, use_cache=False)
    assert not calls


@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("name", PARTS)
def test_forward_hooks_of_every_part_are_run(name: str, batch: int) -> None:
    switches = {"positions": "rotary" if name == "rotary" else "learned"}
    gpt = model(9, embedding_norm=True, **switches)
    ids, part, seen = torch.randint(V, (batch, 3)), gpt.get_submodule(name), []
    plain = text(gpt, ids, 20, seed=3)
    with part.register_forward_pre_hook(lambda *_: seen.append(1)):
        assert text(gpt, ids, 20, seed=3) == plain
    # Rotary positions turn queries and keys, dropout acts on both sub-layers.
    assert len(seen) == (40 if name in ("rotary", "blocks.0.dropout") else 20)

    def negate(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return -output

    with part.register_forward_hook(negate):
        changed = text(gpt, ids, 20, seed=3)
        assert changed == text(gpt, ids, 20, seed=3, use_cache=False)
    if name != "rotary":  # both negated: their product is the same
        assert changed != plain
    assert text(gpt, ids, 20, seed=3) == plain


@pytest.mark.parametrize("batch", [1, B])
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("wrong", [-1, V])
def test_ids_outside_the_vocabulary_are_refused(
    wrong: int, use_cache: bool, batch: int
) -> None:
    ids = torch.full((batch, 4), 2)
    ids[-1, 1] = wrong
    with pytest.raises(ValueError, match=r"token ids must be in 0\.\.22"):
        text(model(8), ids, 5, use_cache=use_cache)


@pytest.mark.parametrize("length", [0, 9])
def test_a_prompt_must_fit(length: int) -> None:
    with pytest.raises(ValueError, match=f"needs 1 to 8 tokens, not {length}"):
        text(model(8), torch.zeros(B, length, dtype=torch.long), 5)


class Counting(nn.Module):
    """Says that the next token is the last one plus 1."""

    config = GPTConfig(vocab_size=V, context_length=5)

    def new_cache(self, batch_size: int) -> KVCache:
        raise AssertionError("it has no memory")

    def forward(self, ids: Tensor, cache: None) -> Tensor:
        return 50 * nn.functional.one_hot((ids + 1) % V, V).float()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_met_the_stop_token_repeats_it(temperature: float) -> None:
    options = {"temperature": temperature, "use_cache": False, "stop_token": 9}
    ids = torch.tensor([[6], [4]])
    steps = text(Counting(), ids, 20, **options)
    assert steps == [[7, 5], [8, 6], [9, 7], [9, 8], [9, 9]]  # and then no more
    assert text(Counting(), ids, 4, **options) == steps[:4]
    assert text(Counting(), ids, 0, **options) == []
    del options["stop_token"]
    assert text(Counting(), ids, 20, **options)[-1] == [3, 1]  # counts on, modulo 23


# The stream.


class Pieces:
    """Token i is the i-th piece."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    def token_bytes(self, token: int) -> bytes:
        return self.pieces[token]


def streamed(*pieces: bytes) -> list[str]:
    return list(stream_text(range(len(pieces)), Pieces(*pieces)))


@given(st.text())
def test_a_stream_cut_at_every_byte_never_breaks_a_character(text: str) -> None:
    pieces = streamed(*(bytes([byte]) for byte in text.encode()))
    assert pieces == list(text)  # whole characters, as soon as they are whole


@given(st.text(), st.lists(st.integers(0, 60)))
def test_a_stream_cut_anywhere_gives_the_text(text: str, cuts: list[int]) -> None:
    data = text.encode()
    ends = sorted(min(cut, len(data)) for cut in cuts)
    pieces = streamed(
        *(data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True))
    )
    assert "".join(pieces) == text
    assert all(pieces)


@given(st.lists(st.binary(max_size=3)))
def test_bytes_that_are_no_text_become_replacement_marks(parts: list[bytes]) -> None:
    expected = b"".join(parts).decode("utf-8", errors="replace")
    assert "".join(streamed(*parts)) == expected


def test_a_stream_does_not_wait_for_the_end() -> None:
    taken = []

    def tokens() -> Iterator[int]:
        for token in range(4):
            taken.append(token)
            yield token

    euro = "€".encode()
    pieces = stream_text(tokens(), Pieces(b"5 ", euro[:1], euro[1:], b"!"))
    assert next(pieces) == "5 "
    assert taken == [0]
    assert next(pieces) == "€"
    assert taken == [0, 1, 2]
    assert list(pieces) == ["!"]
    assert streamed(b"5 ", euro[:2]) == ["5 ", "\N{REPLACEMENT CHARACTER}"]
