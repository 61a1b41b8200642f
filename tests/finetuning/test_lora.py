"""LoRA: the identity at first, only adapters train, merge and unmerge, peft's twin."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.testing import assert_close

from tinygpt.config import GPTConfig
from tinygpt.errors import UserError
from tinygpt.finetuning.lora import (
    LoRALinear,
    add_lora,
    load_lora,
    lora_state,
    merge,
    remove_lora,
    save_lora,
    unmerge,
)
from tinygpt.formats.huggingface import export_hf
from tinygpt.model.gpt import GPT
from tinygpt.text.tokenizer import Tokenizer
from tinygpt.training.tensor_file import load_tensors, save_tensors

ALL = ("qkv", "attention.output", "feed_forward.input", "feed_forward.output")
THEIRS = dict(
    zip(ALL, ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"), strict=True)
)
SHAPE = {
    "vocab_size": 29,
    "context_length": 13,
    "d_model": 10,
    "n_heads": 2,
    "n_layers": 3,
}


@pytest.fixture
def model() -> GPT:
    return GPT(GPTConfig(**SHAPE)).eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(SHAPE["vocab_size"], (4, 11))


def scramble(model: nn.Module) -> None:
    """Adapters as if they had been trained."""
    for tensor in lora_state(model).values():
        tensor.normal_(std=0.3)


@pytest.mark.parametrize("bias", [True, False])
def test_layer_is_equation_3_and_starts_as_the_identity(bias: bool) -> None:
    linear, x = nn.Linear(7, 5, bias=bias), torch.randn(2, 3, 7)
    before = linear(x)
    layer = LoRALinear(linear, rank=2, alpha=3.0)
    assert torch.equal(layer(x), before)
    nn.init.normal_(layer.lora_b)
    assert not torch.allclose(layer(x), before)
    assert_close(layer(x), before + 3.0 / 2 * x @ (layer.lora_b @ layer.lora_a).T)
    assert_close(layer.delta(), 1.5 * layer.lora_b @ layer.lora_a)
    assert not layer.delta().requires_grad
    trained = {name for name, p in layer.named_parameters() if p.requires_grad}
    assert trained == {"lora_a", "lora_b"}
    assert layer.n_stacked == 1


def test_the_first_matrix_starts_uniform_as_in_the_authors_code() -> None:
    """Within 1 / sqrt(in) of zero, as torch's own linear layers."""
    first = LoRALinear(nn.Linear(64, 5), rank=100, alpha=1.0).lora_a.detach()
    assert first.abs().max().item() == pytest.approx(1 / 8, rel=0.01)
    assert first.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)


def test_dropout_acts_on_the_adapter_only_and_in_training_only() -> None:
    linear, x = nn.Linear(7, 5), torch.randn(3, 7)
    layer = LoRALinear(linear, rank=2, alpha=4.0, dropout=0.5)
    assert torch.equal(layer(x), linear(x))  # B is zero: nothing else is dropped
    nn.init.normal_(layer.lora_b)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("targets", [("qkv",), ALL, ("output",), ("head", "input")])
def test_a_fresh_adapter_changes_no_logit(targets, ids) -> None:
    model = GPT(GPTConfig(**SHAPE, tie_head=False)).eval()
    before, names = model(ids), set(model.state_dict())
    wrapped = add_lora(model, targets, rank=3, alpha=6.0)
    assert torch.equal(model(ids), before)
    expected = {"qkv": 1, "output": 2, "input": 1}
    layers = SHAPE["n_layers"]
    assert len(wrapped) == (
        1 + layers
        if "head" in targets
        else layers * sum(expected.get(t, 1) for t in targets)
    )
    new = {f"{name}.{part}" for name in wrapped for part in ("lora_a", "lora_b")}
    assert set(model.state_dict()) == names | new  # the base keeps its names


def test_only_adapters_train(model: GPT, ids: Tensor) -> None:
    wrapped = add_lora(model, ALL, rank=2, alpha=4.0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(lora_state(model))
    assert len(trained) == 2 * len(wrapped) == 2 * 4 * SHAPE["n_layers"]
    frozen = {n: p.clone() for n, p in model.named_parameters() if n not in trained}
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 1.0)
    before = model(ids).detach()
    for _ in range(2):  # the first step moves B only, as A's gradient is B's multiple
        model(ids).logsumexp(-1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    assert all(state.abs().max() > 0 for state in lora_state(model).values())
    assert not torch.allclose(model(ids), before)


def test_without_further_settings_queries_keys_and_values_get_rank_8(
    model: GPT,
) -> None:
    wrapped = add_lora(model)
    assert wrapped == [f"blocks.{i}.attention.qkv" for i in range(SHAPE["n_layers"])]
    layer = model.get_submodule(wrapped[0])
    assert (layer.rank, layer.alpha, layer.lora_dropout.p) == (8, 16.0, 0.0)
    assert layer.n_stacked == 3
    remove_lora(model)
    assert model.blocks[0].attention.qkv.n_stacked == 3


def test_merge_and_unmerge(model: GPT, ids: Tensor) -> None:
    original = copy.deepcopy(model)
    add_lora(model, ALL, rank=3, alpha=5.0, dropout=0.4)
    scramble(model)
    model.eval()
    weights = {n: p.clone() for n, p in model.named_parameters()}
    adapted = model(ids)
    assert (adapted - original(ids)).abs().max() > 0.01
    merge(model)
    merge(model)  # a second time does nothing
    assert_close(model(ids), adapted, rtol=1e-5, atol=1e-5)
    model.train()
    assert_close(model(ids), adapted, rtol=1e-5, atol=1e-5)  # no dropout any more
    model.eval()
    unmerge(model)
    unmerge(model)
    assert_close(model(ids), adapted, rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert_close(parameter, weights[name], rtol=0, atol=1e-6)


def test_weights_that_train_can_be_merged_as_well(model: GPT, ids: Tensor) -> None:
    add_lora(model, ALL, rank=3, alpha=5.0)
    scramble(model)
    model.requires_grad_(True)
    adapted = model(ids)
    for change in (merge, unmerge):
        change(model)
        assert_close(model(ids), adapted, rtol=1e-5, atol=1e-5)
        assert model.blocks[0].attention.qkv.weight.is_leaf


def test_a_tied_head_and_its_embedding_share_one_adapter(ids: Tensor) -> None:
    """Against the plain model whose one table is W + (alpha / rank) B A."""
    plain = GPT(GPTConfig(**SHAPE)).double().eval()
    model, name = copy.deepcopy(plain), "token_embedding.weight"
    assert add_lora(model, ("head",), rank=3, alpha=5.0) == ["head"]
    assert_close(model(ids), plain(ids), rtol=0, atol=1e-12)  # the identity at first
    scramble(model)
    state = lora_state(model)
    assert {n: tuple(t.shape) for n, t in state.items()} == {
        "head.lora_a": (3, SHAPE["d_model"]),
        "head.lora_b": (SHAPE["vocab_size"], 3),
    }
    a, b = (t.clone().requires_grad_() for t in state.values())
    table = {n: plain.get_parameter(n) + 5 / 3 * b @ a for n in (name, "head.weight")}
    wanted = torch.func.functional_call(plain, table, (ids,), tie_weights=False)
    found = model(ids)
    assert_close(found, wanted, rtol=0, atol=1e-12)
    wanted.square().sum().backward()
    found.square().sum().backward()
    assert_close(model.head.lora_a.grad, a.grad, rtol=1e-10, atol=1e-10)
    assert_close(model.head.lora_b.grad, b.grad, rtol=1e-10, atol=1e-10)
    twin = copy.deepcopy(model)  # whose embedding reads the adapter of its own head
    merge(model)
    assert_close(model(ids), found, rtol=0, atol=1e-12)
    assert_close(twin(ids), found, rtol=0, atol=0)
    remove_lora(model)
    assert_close(model(ids), found, rtol=0, atol=1e-12)
    assert model.head.weight is model.token_embedding.weight
    assert type(model.token_embedding) is type(plain.token_embedding)
    assert model.head.is_head
    assert list(model.state_dict()) == list(plain.state_dict())


def test_a_weight_that_two_layers_share_gets_no_adapter(model: GPT) -> None:
    first, second = model.blocks[0].feed_forward, model.blocks[1].feed_forward
    first.input.weight = second.input.weight
    with pytest.raises(UserError, match="input shares its weight with another layer"):
        add_lora(model, ("input",))


def test_merge_is_exact_in_double_precision(ids: Tensor) -> None:
    model = GPT(GPTConfig(**SHAPE)).double().eval()
    add_lora(model, ALL, rank=3, alpha=5.0)
    scramble(model)
    adapted = model(ids)
    merge(model)
    assert_close(model(ids), adapted, rtol=1e-13, atol=1e-13)


def test_remove_leaves_plain_layers(model: GPT, ids: Tensor) -> None:
    names, before = list(model.state_dict()), model(ids)
    for keep in (False, True):
        add_lora(model, ALL, rank=2, alpha=3.0)
        scramble(model)
        adapted = model(ids)
        if keep:
            merge(model)
        remove_lora(model)
        assert list(model.state_dict()) == names
        assert all(type(m) is not LoRALinear for m in model.modules())
        assert all(p.requires_grad for p in model.parameters())
        assert_close(model(ids), adapted if keep else before, rtol=1e-5, atol=1e-5)


def test_save_and_load(model: GPT, ids: Tensor, tmp_path: Path) -> None:
    plain = copy.deepcopy(model)
    wrapped = add_lora(model, ("qkv", "input"), rank=3, alpha=7.0, dropout=0.25)
    scramble(model)
    save_lora(model, tmp_path / "adapters.safetensors")
    with safe_open(tmp_path / "adapters.safetensors", "pt") as file:
        assert set(file.keys()) == set(lora_state(model))
    assert load_lora(plain, str(tmp_path / "adapters.safetensors")) == wrapped
    assert torch.equal(plain(ids), model(ids))
    layer = plain.blocks[2].attention.qkv
    assert (layer.rank, layer.alpha, layer.lora_dropout.p) == (3, 7.0, 0.25)
    assert not layer.training


@pytest.mark.parametrize("parts", [(0,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_parts_of_a_stacked_layer_equal_layers_of_their_own(
    parts: tuple[int, ...],
) -> None:
    joint, x = nn.Linear(7, 15), torch.randn(2, 3, 7)
    joint.n_stacked = 3
    alone = []
    for i in range(3):
        linear = nn.Linear(7, 5)
        rows = slice(5 * i, 5 * i + 5)
        linear.load_state_dict({"weight": joint.weight[rows], "bias": joint.bias[rows]})
        alone.append(LoRALinear(linear, 2, 3.0) if i in parts else linear)
    layer = LoRALinear(joint, rank=2, alpha=3.0, parts=parts)
    assert torch.equal(layer(x), joint(x))
    adapted = [m for m in alone if isinstance(m, LoRALinear)]
    with torch.no_grad():
        for number, twin in enumerate(adapted):
            twin.lora_b.normal_()
            layer.lora_a.chunk(len(parts))[number].copy_(twin.lora_a)
            layer.lora_b.chunk(len(parts))[number].copy_(twin.lora_b)
    expected = torch.cat([m(x) for m in alone], -1)
    assert_close(layer(x), expected)
    assert_close(layer(x), joint(x) + x @ layer.delta().T)
    layer(x).square().sum().backward()
    expected.square().sum().backward()
    for number, twin in enumerate(adapted):
        for name in ("lora_a", "lora_b"):
            mine = getattr(layer, name).grad.chunk(len(parts))[number]
            assert_close(mine, getattr(twin, name).grad)


def test_queries_and_values_alone_as_in_the_paper(
    model: GPT, ids: Tensor, tmp_path: Path
) -> None:
    plain, before = copy.deepcopy(model), model(ids)
    wrapped = add_lora(model, ("v", "attention.q"), rank=2, alpha=4.0)
    assert wrapped == [f"blocks.{i}.attention.qkv" for i in range(SHAPE["n_layers"])]
    assert torch.equal(model(ids), before)
    layer, d = model.blocks[1].attention.qkv, SHAPE["d_model"]
    assert (layer.lora_a.shape, layer.lora_b.shape) == ((2 * 2, d), (2 * d, 2))
    scramble(model)
    delta = layer.delta().chunk(3)
    assert [bool(part.any()) for part in delta] == [True, False, True]
    save_lora(model, tmp_path / "a.safetensors")
    assert load_lora(plain, tmp_path / "a.safetensors") == wrapped
    assert torch.equal(plain(ids), model(ids))
    adapted = model(ids)
    merge(model)
    assert_close(model(ids), adapted, rtol=1e-5, atol=1e-5)
    remove_lora(model)
    assert_close(model(ids), adapted, rtol=1e-5, atol=1e-5)


# peft asks transformers for a property under its old name.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is dep:FutureWarning")
@pytest.mark.parametrize("targets", [("qkv",), ALL])
def test_equal_to_peft(targets: tuple[str, ...], tmp_path: Path) -> None:
    """The same GPT-2 weights, the same adapters: logits, gradients, merged weights."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model, alphabet = GPT(GPTConfig(**(SHAPE | {"vocab_size": 257}))), range(256)
    export_hf(model, Tokenizer("bytes", {bytes([b]): b for b in alphabet}), tmp_path)
    base = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    twin = peft.get_peft_model(
        base,
        peft.LoraConfig(
            r=3,
            lora_alpha=5,
            fan_in_fan_out=True,  # GPT-2 stores its matrices as [in, out]
            target_modules=[THEIRS[target] for target in targets],
        ),
    )
    wrapped = add_lora(model, targets, rank=3, alpha=5.0)
    scramble(model)
    layers = [m for m in base.modules() if hasattr(m, "lora_A")]
    pairs = []
    for name, theirs in zip(wrapped, layers, strict=True):
        ours = model.get_submodule(name)
        pairs.append((ours.lora_a, theirs.lora_A["default"].weight))
        pairs.append((ours.lora_b, theirs.lora_B["default"].weight))
    with torch.no_grad():
        for ours, other in pairs:
            other.copy_(ours)
    ids = torch.randint(257, (4, 11))
    trained = sum(p.numel() for p in twin.parameters() if p.requires_grad)
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)

    logits, expected = model(ids), twin(ids).logits
    assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    for mine, other in pairs:
        assert mine.grad.abs().max() > 0
        assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-4)
    merge(model)
    merged = twin.merge_and_unload()
    assert_close(model(ids), merged(ids).logits, rtol=1e-5, atol=1e-5)
    assert_close(
        model.blocks[1].attention.qkv.weight,
        merged.transformer.h[1].attn.c_attn.weight.T,
        rtol=1e-6,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rank": 0}, "rank must be at least 1, not 0"),
        ({"alpha": 0.0}, "alpha must be a number above 0, not 0.0"),
        ({"alpha": float("nan")}, "alpha must be a number above 0, not nan"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        (
            {"targets": ("kv",)},
            "no linear layer 'kv': choose of head, input, k",
        ),
        ({"targets": ()}, "at least one layer"),
        ({"targets": ("q", "qkv")}, "as a whole and in parts"),
        ({"targets": ("",)}, "no linear layer ''"),
    ],
)
def test_wrong_requests(model: GPT, change: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        add_lora(model, **change)
    assert all(p.requires_grad for p in model.parameters())  # nothing was touched
    assert not lora_state(model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", "tinygpt lora 2"),
        ("targets", None),
        ("targets", "blocks.0.attention.qkv"),
        ("targets", [7]),
        ("rank", None),
        ("rank", 8.0),
        ("rank", True),
        ("alpha", "16"),
        ("dropout", [0.0]),
    ],
)
def test_a_file_whose_header_is_none_of_adapters(
    model: GPT, key: str, value: object, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    add_lora(model)
    save_lora(model, path)
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | {key: value})
    other = GPT(GPTConfig(**SHAPE))
    with pytest.raises(UserError, match="holds no LoRA adapters"):
        load_lora(other, path)
    assert not lora_state(other)
    save_tensors(path, tensors, metadata)
    load_lora(other, path)


def test_wrong_order_and_wrong_files(model: GPT, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="no adapters to save"):
        save_lora(model, path)
    with pytest.raises(UserError, match=r"there is no file .*a\.safetensors"):
        load_lora(model, path)
    add_lora(model)
    with pytest.raises(UserError, match="has adapters: remove_lora"):
        add_lora(model)
    with pytest.raises(UserError, match=r"cannot write .*absent"):
        save_lora(model, tmp_path / "absent" / "a.safetensors")
    save_lora(model, path)
    for change in ({"d_model": 12}, {"n_layers": 2}):
        other = GPT(GPTConfig(**(SHAPE | change)))
        with pytest.raises(UserError, match=r"does not fit this model"):
            load_lora(other, path)
        assert not lora_state(other)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_lora(GPT(GPTConfig(**SHAPE)), path)
    save_tensors(path, {"x": torch.ones(3)}, {})
    with pytest.raises(UserError, match="holds no LoRA adapters"):
        load_lora(GPT(GPTConfig(**SHAPE)), path)
