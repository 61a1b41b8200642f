"""quantized: rounding by hand, products beside their plain twin, whole models."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tinygpt.config import GPTConfig
from tinygpt.fast import quantized
from tinygpt.fast.quantized import (
    Int8Embedding,
    Int8Linear,
    convert_weights,
    dequantize,
    quantize_rows,
)
from tinygpt.generation.generate import generate
from tinygpt.model.embeddings import TokenEmbedding
from tinygpt.model.gpt import GPT
from tinygpt.training.loss import NextTokenLoss

B, T, V, I, O = 3, 8, 29, 24, 40  # noqa: E741


def test_a_row_by_hand() -> None:
    rows, scale = quantize_rows(torch.tensor([[0.2, -2.54, 1.0, 0.0], [0.0] * 4]))
    assert rows.tolist() == [[10, -127, 50, 0], [0] * 4]
    torch.testing.assert_close(scale, torch.tensor([0.02, 0.0]))
    back = dequantize(rows, scale)
    torch.testing.assert_close(back[0], torch.tensor([0.2, -2.54, 1.0, 0.0]))
    assert back[1].tolist() == [0.0] * 4


def test_rounding_is_at_most_half_a_scale() -> None:
    weight = torch.randn(O, I) * torch.logspace(-4, 4, O).unsqueeze(1)
    rows, scale = quantize_rows(weight)
    assert (rows.abs().amax(dim=1) == 127).all()
    away = (dequantize(rows, scale) - weight).abs()
    assert (away <= 0.501 * scale.unsqueeze(1)).all()


def relative(ours: Tensor, expected: Tensor) -> float:
    return ((ours - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (B, 1), (B, T)])
def test_the_product_is_that_of_the_dequantized_weights(
    shape: tuple[int, int], bias: bool, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packed product rounds its inputs to 7 bits: a hundredth or two."""
    if not packed:
        monkeypatch.setattr(quantized, "pack", lambda *_: None)
    linear = nn.Linear(I, O, bias=bias)
    x = torch.randn(*shape, I) * torch.logspace(-2, 2, shape[0])[:, None, None]
    layer = Int8Linear(linear)
    with torch.no_grad():
        linear.weight.copy_(dequantize(*quantize_rows(linear.weight)))
        for ours, expected in zip(layer(x), linear(x), strict=True):
            limit = 1e-6 if layer.packed is None else 0.03
            assert relative(ours, expected) < limit
        assert torch.isfinite(layer(torch.zeros(*shape, I))).all()


def test_the_embedding_is_its_dequantized_table() -> None:
    embedding, ids = TokenEmbedding(V, I), torch.randint(V, (B, T))
    expected = dequantize(*quantize_rows(embedding.weight.detach()))[ids]
    assert torch.equal(Int8Embedding(embedding)(ids), expected)


def model(**changes: Any) -> GPT:
    shape = {"vocab_size": V, "context_length": T, "d_model": I, "n_heads": 3}
    shape["n_layers"] = 2
    gpt = GPT(GPTConfig(**(shape | changes))).float().eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(std=0.2)
    return gpt


HEAD = {"tie_head": False, "head_bias": True}
SWITCHES = [
    {},
    {"positions": "rotary", "norm": "rmsnorm", "qk_norm": True, "tie_head": False},
    {"positions": "sinusoidal", "activation": "swiglu", "logit_softcap": 15.0},
    {
        "norm_placement": "post",
        "embedding_norm": True,
        "tie_head": False,
        "head_bias": True,
    },
]


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_a_whole_model_predicts_nearly_the_same(changes: dict, weights: str) -> None:
    gpt, ids = model(**changes), torch.randint(V, (B, T))
    with torch.no_grad():
        logits, loss = gpt(ids), NextTokenLoss(gpt)(ids, ids)
        convert_weights(gpt, weights)
        assert relative(gpt(ids).float(), logits) < 0.1
        ours = NextTokenLoss(gpt)(ids, ids)
    assert ours.dtype == torch.float32
    assert abs(ours - loss) < 0.05 * loss
    for rows in (1, B):  # the caches and decoders take it, also past the context
        tokens = torch.stack(list(generate(gpt, ids[:rows, :3], 12, temperature=0.0)))
        assert tokens.shape == (12, rows)
    with pytest.raises(ValueError, match=r"token ids must be in 0\.\.28"):
        gpt(ids + V)


def test_a_byte_for_each_weight() -> None:
    gpt = model(d_model=96, n_layers=1)
    convert_weights(gpt, "int8")
    stored = sum(p.numel() for p in gpt.parameters())
    assert stored < 96 * 40  # scales, biases, norms, positions
    assert gpt.token_embedding.rows.dtype == torch.int8
    assert not any(type(part) is nn.Linear for part in gpt.modules())


def test_other_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights are float32, bfloat16, int8, not"):
        convert_weights(model(), "int4")
