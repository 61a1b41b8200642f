"""gpt: causality under every switch, exact sizes, the start, no weight saved twice."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tinygpt.config import GPTConfig
from tinygpt.model.block import rms_norm
from tinygpt.model.gpt import GPT
from tinygpt.model.masking import causal_mask, document_mask
from tinygpt.presets import PRESETS

B, H, T, D, LAYERS, CONTEXT, C, V = 4, 3, 5, 6, 2, 11, 18, 23

POSITIONS = ["learned", "sinusoidal", "rotary"]
NORMS = ["layernorm", "rmsnorm"]
ACTIVATIONS = ["relu", "gelu", "relu2", "swiglu"]
SWITCHES = [
    {"positions": p, "norm": n, "activation": a, "norm_placement": place}
    for p, n, a, place in product(POSITIONS, NORMS, ACTIVATIONS, ["pre", "post"])
] + [
    {"bias": False, "qk_norm": True, "tie_head": False, "logit_softcap": 15.0},
    {"embedding_norm": True, "qkv_bias": False, "tie_head": False, "head_bias": True},
    {"d_ff": 31, "init": "zero"},
]


def config(**changes: object) -> GPTConfig:
    shape = {
        "vocab_size": V,
        "context_length": CONTEXT,
        "d_model": C,
        "n_heads": H,
        "n_layers": LAYERS,
    }
    return GPTConfig(**(shape | changes))


def model(**changes: object) -> GPT:
    """A GPT with weights large enough that every token matters."""
    gpt = GPT(config(**changes)).eval()
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(std=0.3)
    return gpt


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_a_later_token_never_changes_an_earlier_logit(switches: dict) -> None:
    gpt, ids = model(**switches), torch.randint(V, (B, CONTEXT))
    with torch.no_grad():
        before = gpt(ids)
        for t in (1, 6, CONTEXT - 1):
            changed = ids.clone()
            changed[:, t:] = (ids[:, t:] + 1 + torch.randint(V - 1, (1,))) % V
            after = gpt(changed)
            torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
            assert ((after - before)[:, t:].abs().amax(dim=-1) > 1e-4).all()


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_gradient_flows_from_an_earlier_logit_to_a_later_token(
    positions: str,
) -> None:
    gpt = model(positions=positions, tie_head=False)
    ids = torch.arange(CONTEXT).unsqueeze(0)  # token t stands at place t only
    gpt(ids)[0, T].sum().backward()
    touched = gpt.token_embedding.weight.grad.abs().sum(dim=1) > 0
    assert touched.tolist() == [token <= T for token in range(V)]


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_parameter_learns(switches: dict) -> None:
    gpt = model(**switches)
    ids = torch.randint(V, (B, CONTEXT))
    F.cross_entropy(gpt(ids).flatten(0, 1), ids.flatten()).backward()
    for name, parameter in gpt.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum().item() > 0, name


@pytest.mark.parametrize("positions", POSITIONS)
def test_forward_is_its_steps_with_an_explicit_mask(positions: str) -> None:
    gpt, ids = model(positions=positions), torch.randint(V, (B, T))
    mask = causal_mask(T).expand(B, 1, T, T)
    expected = gpt(ids, mask=mask, positions=torch.arange(T))
    torch.testing.assert_close(gpt(ids), expected, rtol=0, atol=2e-6)
    if positions != "rotary":
        x = gpt.token_embedding(ids) + gpt.positions(torch.arange(T))
        for block in gpt.blocks:
            x = block(x, is_causal=True)
        expected = gpt.norm(x) @ gpt.token_embedding.weight.mT
        torch.testing.assert_close(gpt(ids), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_rotary_positions_are_relative(positions: str) -> None:
    """Queries and keys turn alike: only their distance is left."""
    gpt, ids = model(positions=positions), torch.randint(V, (B, T))
    later = gpt(ids, positions=torch.arange(6, 6 + T))
    same = torch.allclose(gpt(ids), later, rtol=0, atol=5e-6)
    assert same == (positions == "rotary")
    wider = gpt(ids, positions=2 * torch.arange(T))
    assert not torch.allclose(gpt(ids), wider, atol=1e-2)


DOCUMENTS = torch.tensor([[0] * 3 + [1] * 7 + [2]])
PLACES = torch.tensor([[*range(3), *range(7), 0]])


@pytest.mark.parametrize("positions", POSITIONS)
def test_packed_documents_equal_separate_ones(positions: str) -> None:
    gpt, ids = model(positions=positions), torch.randint(V, (1, CONTEXT))
    packed = gpt(ids, mask=document_mask(DOCUMENTS), positions=PLACES)
    separate = [gpt(part) for part in ids.split((3, 7, 1), dim=1)]
    torch.testing.assert_close(packed, torch.cat(separate, 1), rtol=0, atol=5e-6)
    assert not torch.allclose(packed, gpt(ids), atol=1e-2)


@pytest.mark.parametrize("positions", POSITIONS)
def test_documents_do_not_see_each_other(positions: str) -> None:
    gpt, ids = model(positions=positions), torch.randint(V, (1, CONTEXT))
    mask = document_mask(DOCUMENTS)
    changed = ids.clone()
    changed[:, :3] = (ids[:, :3] + 1) % V
    before, after = gpt(ids, mask=mask), gpt(changed, mask=mask)
    torch.testing.assert_close(after[:, 3:], before[:, 3:], rtol=0, atol=1e-6)
    assert ((after - before)[:, :3].abs().amax(dim=-1) > 1e-4).all()
    seen = (gpt(changed) - gpt(ids))[:, 3:].abs().amax(dim=-1)
    assert (seen > 1e-4).all()  # without the mask they do


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("seed", 13_334_197),
        ("tiny", 1_638_400),  # 2 tables of 4096 x 128, 3 blocks of 12 x 128^2
    ],
)
def test_presets_have_their_exact_size(preset: str, count: int) -> None:
    with torch.device("meta"):  # shapes without numbers: nothing is allocated
        gpt = GPT(PRESETS[preset].model)
    assert gpt.n_parameters() == count


@pytest.mark.parametrize("preset", ["gpt2", "seed", "tiny"])
def test_presets_run_on_the_meta_device(preset: str) -> None:
    c = PRESETS[preset].model
    with torch.device("meta"):
        gpt = GPT(replace(c, n_layers=1))
        logits = gpt(torch.zeros(B, T, dtype=torch.long))
    assert logits.shape == (B, T, c.vocab_size)


@pytest.mark.parametrize("positions", POSITIONS)
def test_state_dict_holds_parameters_only(positions: str) -> None:
    gpt = GPT(config(positions=positions, tie_head=False))
    assert set(gpt.state_dict()) == {name for name, _ in gpt.named_parameters()}


def test_a_tied_head_is_the_embedding() -> None:
    tied, free = GPT(config()), GPT(config(tie_head=False))
    assert tied.head.weight is tied.token_embedding.weight
    assert free.head.weight.data_ptr() != free.token_embedding.weight.data_ptr()
    assert free.n_parameters() - tied.n_parameters() == V * C
    other = GPT(config())
    other.load_state_dict(tied.state_dict())
    assert other.head.weight is other.token_embedding.weight
    ids = torch.randint(V, (B, T))
    torch.testing.assert_close(other(ids), tied(ids), rtol=0, atol=0)


def linears(gpt: GPT) -> dict[str, nn.Linear]:
    return {n: m for n, m in gpt.named_modules() if isinstance(m, nn.Linear)}


def test_gpt2_init() -> None:
    gpt = GPT(config(vocab_size=997, d_model=96, tie_head=False, head_bias=True))
    for name, layer in linears(gpt).items():
        residual = name.endswith(("attention.output", "feed_forward.output"))
        std = 0.02 / math.sqrt(2 * LAYERS) if residual else 0.02
        assert layer.weight.std().item() == pytest.approx(std, rel=0.03), name
        assert layer.weight.mean().item() == pytest.approx(0, abs=0.03 * std), name
        assert not layer.bias.any()
    assert gpt.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert gpt.positions.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_zero_init() -> None:
    """Blocks begin as the identity and an untied head says nothing."""
    gpt = GPT(config(d_model=96, tie_head=False, init="zero"))
    ids, x = torch.randint(V, (B, T)), torch.randn(B, T, 96)
    assert not gpt(ids).any()
    for block in gpt.blocks:
        torch.testing.assert_close(block(x), x, rtol=0, atol=0)
    for name, layer in linears(gpt).items():
        if name.endswith(("output", "head")):
            assert not layer.weight.any(), name
        else:  # uniform: the deviation is the bound over sqrt(3)
            bound = math.sqrt(3 / layer.in_features)
            assert layer.weight.abs().max().item() <= bound
            std = layer.weight.std().item()
            assert std == pytest.approx(bound / math.sqrt(3), rel=0.03), name
    assert GPT(config(init="zero"))(ids).any()  # a tied head is no zero


@pytest.mark.parametrize("switches", SWITCHES[::7], ids=str)
def test_initial_loss_is_that_of_a_blind_guess(switches: dict) -> None:
    gpt = GPT(config(**switches))
    ids, targets = torch.randint(V, (2, B, CONTEXT))
    loss = F.cross_entropy(gpt(ids).flatten(0, 1), targets.flatten()).item()
    assert loss == pytest.approx(math.log(V), abs=0.1)


def test_softcap_squashes_logits_smoothly() -> None:
    gpt, capped = model(), model(logit_softcap=0.9)
    capped.load_state_dict(gpt.state_dict())
    ids = torch.randint(V, (B, T))
    free = gpt(ids)
    torch.testing.assert_close(capped(ids), 0.9 * torch.tanh(free / 0.9))
    assert free.abs().max().item() > 0.9 > capped(ids).abs().max().item()


def test_embedding_norm_acts_before_the_first_block() -> None:
    gpt = model(embedding_norm=True, norm="rmsnorm", positions="rotary")
    ids = torch.randint(V, (B, T))
    x = gpt.embed(ids, torch.arange(T))
    torch.testing.assert_close(x, rms_norm(gpt.token_embedding(ids)))


def test_dropout_only_while_training() -> None:
    gpt, ids = model(dropout=0.3), torch.randint(V, (B, T))
    assert torch.equal(gpt(ids), gpt(ids))
    gpt.train()
    assert not torch.equal(gpt(ids), gpt(ids))


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="12 tokens, but the context holds 11"):
        model()(torch.zeros(B, CONTEXT + 1, dtype=torch.long))


def naive_gpt2(gpt: GPT, ids: Tensor) -> Tensor:
    """GPT-2 (2019) written out for one text, head by head, token by token."""
    weights = gpt.state_dict()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].mT + weights[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["token_embedding.weight"][ids]
    x = x + weights["positions.weight"][: len(ids)]
    for i in range(LAYERS):
        name = f"blocks.{i}"
        q, k, v = linear(norm(x, f"{name}.norm1"), f"{name}.attention.qkv").chunk(3, -1)
        mixed = torch.zeros_like(x)
        for head in range(H):
            here = slice(head * D, (head + 1) * D)
            for t in range(len(ids)):
                scores = k[: t + 1, here] @ q[t, here] / math.sqrt(D)
                mixed[t, here] = scores.softmax(0) @ v[: t + 1, here]
        x = x + linear(mixed, f"{name}.attention.output")
        hidden = linear(norm(x, f"{name}.norm2"), f"{name}.feed_forward.input")
        bent = F.gelu(hidden, approximate="tanh")
        x = x + linear(bent, f"{name}.feed_forward.output")
    return norm(x, "norm") @ weights["token_embedding.weight"].mT


def test_equals_gpt2_written_out() -> None:
    gpt, ids = model().double(), torch.randint(V, (1, CONTEXT))
    expected = naive_gpt2(gpt, ids[0])
    torch.testing.assert_close(gpt(ids)[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recomputing_runs_each_block_again_and_gives_the_same_gradients(
    dropout: float,
) -> None:
    """Activations are forgotten and made again in backward, with the same chances."""
    sizes = {"vocab_size": 13, "context_length": 5, "d_model": 8, "n_heads": 2}
    model, ids = GPT(GPTConfig(**sizes, n_layers=3, dropout=dropout)), torch.arange(5)
    runs = [0, 0, 0]
    for layer, block in enumerate(model.blocks):

        def count(*_: object, layer: int = layer) -> None:
            runs[layer] += 1

        block.attention.register_forward_hook(count)

    gradients = []
    for model.recompute, expected in ((False, [1, 1, 1]), (True, [2, 2, 2])):
        torch.manual_seed(5)
        runs[:] = [0, 0, 0]
        loss = model(ids[None]).square().mean()
        assert runs == [1, 1, 1]
        every = list(model.parameters())
        gradients.append(torch.autograd.grad(loss, every))
        assert runs == expected
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)

    runs[:] = [0, 0, 0]
    model.eval()(ids[None]).square().mean().backward()
    assert runs == [1, 1, 1]  # only training forgets
