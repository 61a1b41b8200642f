"""positional: sines worked by hand, turning as complex numbers, Llama's rotation."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tinygpt.model.positional import (
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
    sinusoidal_positions,
)

B, H, T, D, C, CONTEXT = 2, 3, 5, 8, 12, 37


def test_sinusoids_by_hand() -> None:
    table = sinusoidal_positions(CONTEXT, C)
    for t in range(CONTEXT):
        for i in range(C // 2):
            angle = t / 10_000 ** (2 * i / C)
            # float32 angles: an error of about angle * 2^-23
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=5e-6)
            assert table[t, 2 * i + 1].item() == pytest.approx(
                math.cos(angle), abs=5e-6
            )


def test_sinusoidal_module_looks_up_its_table_and_saves_nothing() -> None:
    module = SinusoidalPositions(CONTEXT, C)
    places = torch.tensor([[3, 0, 36], [1, 1, 2]])
    expected = sinusoidal_positions(CONTEXT, C)[places]
    torch.testing.assert_close(module(places), expected, rtol=0, atol=0)
    assert not module.state_dict()
    assert not list(module.parameters())


def test_learned_positions_equal_an_embedding_with_gradients() -> None:
    ours, theirs = LearnedPositions(CONTEXT, C), nn.Embedding(CONTEXT, C)
    theirs.load_state_dict(ours.state_dict())
    places, upstream = torch.randint(CONTEXT, (B, T)), torch.randn(B, T, C)
    torch.testing.assert_close(ours(places), theirs(places), rtol=0, atol=0)
    ours(places).backward(upstream)
    theirs(places).backward(upstream)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("positions", [(5, 0, 9, 2, 36), (0, 1, 2, 3, 4)])
def test_turning_is_multiplication_of_complex_numbers(positions: tuple) -> None:
    x, places = torch.randn(B, H, T, D), torch.tensor(positions)
    turned = RotaryPositions(CONTEXT, D)(x, places)
    first, second = x.double().chunk(2, dim=-1)
    frequency = 10_000 ** (-2 * torch.arange(D // 2, dtype=torch.float64) / D)
    turn = torch.exp(1j * places.unsqueeze(1) * frequency)  # [T, D/2]
    product = torch.complex(first, second) * turn
    expected = torch.cat([product.real, product.imag], dim=-1).float()
    torch.testing.assert_close(turned, expected, rtol=0, atol=2e-5)


@given(st.integers(0, 17), st.integers(0, 17), st.integers(0, 19))
def test_scores_depend_on_distance_only(query: int, key: int, shift: int) -> None:
    rotary = RotaryPositions(CONTEXT, D)
    generator = torch.Generator().manual_seed(query)
    q, k = torch.randn(2, 1, 1, 1, D, generator=generator)

    def score(m: int, n: int) -> Tensor:
        return (rotary(q, torch.tensor([m])) * rotary(k, torch.tensor([n]))).sum()

    here, there = score(query, key), score(query + shift, key + shift)
    torch.testing.assert_close(here, there, rtol=0, atol=5e-5)


def test_turning_keeps_lengths_and_leaves_position_zero_alone() -> None:
    x, rotary = torch.randn(B, H, T, D), RotaryPositions(CONTEXT, D)
    turned = rotary(x, torch.arange(7, 7 + T))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-5, atol=0)
    still = rotary(x, torch.zeros(T, dtype=torch.long))
    torch.testing.assert_close(still, x, rtol=0, atol=0)


def test_each_row_of_a_batch_may_have_its_own_positions() -> None:
    x, rotary = torch.randn(B, H, T, D), RotaryPositions(CONTEXT, D)
    places = torch.tensor([[0, 1, 2, 0, 1], [4, 5, 6, 7, 8]])
    together = rotary(x, places)
    for row in range(B):
        alone = rotary(x[row : row + 1], places[row])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=0)


def test_rotary_keeps_the_type_of_its_input_and_saves_nothing() -> None:
    rotary = RotaryPositions(CONTEXT, D)
    x = torch.randn(B, H, T, D, dtype=torch.bfloat16)
    assert rotary(x, torch.arange(T)).dtype == torch.bfloat16
    assert not rotary.state_dict()


def test_rotary_equals_llama() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import (
        LlamaRotaryEmbedding,
        apply_rotary_pos_emb,
    )

    config = LlamaConfig(
        hidden_size=H * D, num_attention_heads=H, max_position_embeddings=CONTEXT
    )
    q, k = torch.randn(2, B, H, T, D)
    places = torch.tensor([[0, 1, 2, 3, 4], [30, 31, 9, 8, 36]])
    cos, sin = LlamaRotaryEmbedding(config)(q, places)
    theirs = apply_rotary_pos_emb(q, k, cos, sin)
    rotary = RotaryPositions(CONTEXT, D)
    torch.testing.assert_close(rotary(q, places), theirs[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(rotary(k, places), theirs[1], rtol=0, atol=2e-5)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="even d_model, not 7"):
        sinusoidal_positions(CONTEXT, 7)
    with pytest.raises(ValueError, match="even head_dim, not 7"):
        RotaryPositions(CONTEXT, 7)
