"""decode_torch, decode_numpy: the logits of the model's own way, or they step aside."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tinygpt.config import GPTConfig
from tinygpt.fast.decode_numpy import NumpyDecoder
from tinygpt.fast.decode_torch import TorchDecoder
from tinygpt.finetuning.lora import add_lora
from tinygpt.model.attention import MultiHeadAttention
from tinygpt.model.gpt import GPT
from tinygpt.presets import PRESETS

B, CONTEXT, C, H, V = 4, 11, 18, 3, 23

SWITCHES = [
    {},
    {"positions": "rotary", "qk_norm": True, "norm": "rmsnorm", "activation": "relu2"},
    {"positions": "sinusoidal", "activation": "swiglu", "bias": False, "d_ff": 31},
    {"tie_head": False, "head_bias": True, "embedding_norm": True, "qkv_bias": False},
    {"logit_softcap": 15.0, "activation": "relu"},
    PRESETS["tiny"].model.__dict__ | {"vocab_size": V, "context_length": CONTEXT},
]


def model(**changes: object) -> GPT:
    """A GPT with weights large enough that every token matters."""
    shape = {
        "vocab_size": V,
        "context_length": CONTEXT,
        "d_model": C,
        "n_heads": H,
        "n_layers": 2,
    }
    gpt = GPT(GPTConfig(**(shape | changes))).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(std=0.3)
    return gpt


def compare(gpt: GPT, decoder: Callable[..., Tensor], batch: int, atol: float) -> None:
    """Feed a text to the model, and to the model and `decoder` in turn."""
    ids = torch.randint(V, (batch, CONTEXT))
    plain, quick = gpt.new_cache(batch), gpt.new_cache(batch)
    with torch.no_grad():
        for part in ids.split((3, 1, 1, 5, 1), dim=1):
            expected = gpt(part, cache=plain)
            if part.size(1) == 1:
                ours = decoder(part, quick)
                assert ours.dtype == expected.dtype
                torch.testing.assert_close(ours, expected, rtol=0, atol=atol)
            else:
                gpt(part, cache=quick)
    assert plain.length == quick.length == CONTEXT


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_torch_decoder_equals_the_model(switches: dict) -> None:
    gpt = model(**switches).double()
    for batch in (1, B):
        compare(gpt, TorchDecoder(gpt), batch, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_the_numpy_decoder_equals_the_model(switches: dict, dtype: torch.dtype) -> None:
    gpt = model(**switches).to(dtype)
    compare(gpt, NumpyDecoder(gpt), 1, 5e-5 if dtype == torch.float32 else 1e-12)


def test_the_torch_decoder_goes_through_adapters() -> None:
    gpt = model()
    assert NumpyDecoder.fits(gpt)
    add_lora(gpt, rank=2, alpha=4.0)
    assert not NumpyDecoder.fits(gpt)
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            if "lora" in name:
                parameter.normal_(std=0.3)
    compare(gpt, TorchDecoder(gpt), B, atol=5e-5)


def replace_feed_forward(gpt: GPT) -> None:
    gpt.blocks[1].feed_forward = nn.Identity()


def subclass_attention(gpt: GPT) -> None:
    class Own(MultiHeadAttention):
        pass

    gpt.blocks[0].attention = Own(C, H)


def override_forward(gpt: GPT) -> None:
    gpt.blocks[0].feed_forward.forward = lambda x: 2 * x


def override_model(gpt: GPT) -> None:
    gpt.forward = lambda *_, **__: torch.zeros(1, 1, V)


@pytest.mark.parametrize(
    "change",
    [replace_feed_forward, subclass_attention, override_forward, override_model],
)
def test_no_decoder_fits_another_block(change: Callable[[GPT], None]) -> None:
    gpt = model()
    assert NumpyDecoder.fits(gpt) and TorchDecoder.fits(gpt)
    change(gpt)
    assert not NumpyDecoder.fits(gpt) and not TorchDecoder.fits(gpt)


def torch_norm(gpt: GPT) -> None:
    gpt.norm = nn.LayerNorm(C, eps=0.1)


def other_head(gpt: GPT) -> None:
    gpt.head = nn.Sequential(nn.Linear(C, V))


def exact_gelu(gpt: GPT) -> None:
    gpt.blocks[1].feed_forward.activation = nn.functional.gelu


@pytest.mark.parametrize("change", [torch_norm, other_head, exact_gelu])
def test_the_torch_decoder_takes_other_leaves(change: Callable[[GPT], None]) -> None:
    gpt = model()
    change(gpt)
    gpt = gpt.double()
    assert not NumpyDecoder.fits(gpt)
    compare(gpt, TorchDecoder(gpt), B, atol=1e-12)


@pytest.mark.parametrize("gpt", [model(norm_placement="post"), nn.Linear(3, 3)])
@pytest.mark.parametrize("decoder", [TorchDecoder, NumpyDecoder])
def test_a_decoder_refuses_what_does_not_fit(decoder: type, gpt: nn.Module) -> None:
    assert not decoder.fits(gpt)
    with pytest.raises(ValueError, match="this decoder needs"):
        decoder(gpt)


def test_numpy_is_for_small_models_in_one_precision_on_the_cpu() -> None:
    assert not NumpyDecoder.fits(model(vocab_size=600_000))
    assert not NumpyDecoder.fits(model().to(torch.bfloat16))
    assert not NumpyDecoder.fits(model().to("meta"))
    mixed = model()
    mixed.norm.double()
    assert not NumpyDecoder.fits(mixed)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not NumpyDecoder.fits(model())


@pytest.mark.parametrize("decoder", [TorchDecoder, NumpyDecoder])
def test_a_decoder_refuses_what_the_model_refuses(decoder: type) -> None:
    gpt = model()
    step, cache = decoder(gpt), gpt.new_cache(1)
    with torch.no_grad():
        gpt(torch.randint(V, (1, CONTEXT - 1)), cache=cache)
        for wrong in (-1, V):
            with pytest.raises(ValueError, match=r"token ids must be in 0\.\.22"):
                step(torch.tensor([[wrong]]), cache)
        assert cache.length == CONTEXT - 1
        with pytest.raises(ValueError, match="for a batch of 2, not of 1"):
            step(torch.tensor([[0]]), gpt.new_cache(2))
        step(torch.tensor([[0]]), cache)
        with pytest.raises(ValueError, match="12 tokens do not fit into a cache of 11"):
            step(torch.tensor([[0]]), cache)
