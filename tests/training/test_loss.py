"""loss: of any model PyTorch's cross-entropy; of a GPT the same without all logits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_run import PARTS
from torch import Tensor, nn

from tinygpt.config import IGNORE_INDEX, GPTConfig
from tinygpt.finetuning.lora import LoRALinear
from tinygpt.model.gpt import GPT
from tinygpt.model.masking import document_mask
from tinygpt.training import loss as module
from tinygpt.training.loss import NextTokenLoss

B, T, C, V = 3, 5, 6, 11


def gpt(**changes: object) -> GPT:
    torch.manual_seed(1)
    shape = {"vocab_size": V, "context_length": T, "d_model": C, "n_heads": 2}
    return GPT(GPTConfig(**(shape | changes)))


def batch() -> tuple[Tensor, Tensor]:
    ids, targets = torch.randint(V, (2, B, T))
    targets[1, 2:] = IGNORE_INDEX
    return ids, targets


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "changes", [{}, {"tie_head": False, "head_bias": True}, {"logit_softcap": 0.1}]
)
def test_a_gpt_gives_the_loss_of_its_logits(changes: dict, reduction: str) -> None:
    model, (ids, targets) = gpt(**changes), batch()
    wanted = F.cross_entropy(model(ids).mT, targets, reduction=reduction)
    loss = NextTokenLoss(model)(ids, targets, reduction=reduction)
    assert loss.shape == wanted.shape
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    every, upstream = list(model.parameters()), torch.randn(loss.shape)
    pairs = zip(
        torch.autograd.grad(loss, every, upstream),
        torch.autograd.grad(wanted, every, upstream),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


class Table(nn.Module):
    """Any other model: logits from a table, which the ids choose."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(V, V))

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_any_model_that_returns_logits_will_do(reduction: str) -> None:
    model, (ids, targets) = Table(), batch()
    wanted = F.cross_entropy(model(ids).mT, targets, reduction=reduction)
    loss = NextTokenLoss(model)(ids, targets, reduction=reduction)
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("make", [gpt, Table])
def test_no_target_is_a_loss_of_zero(make: Callable[[], nn.Module]) -> None:
    loss_of, (ids, targets) = NextTokenLoss(make()), batch()
    loss = loss_of(ids, torch.full_like(targets, IGNORE_INDEX))
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in loss_of.parameters())


def test_mask_and_positions_reach_the_model() -> None:
    model, (ids, targets) = gpt(), batch()
    documents = torch.tensor([[0, 0, 1, 1, 1]]).expand(B, T)
    view = {
        "mask": document_mask(documents),
        "positions": torch.tensor([0, 1, 0, 1, 2]),
    }
    wanted = F.cross_entropy(model(ids, **view).mT, targets)
    loss = NextTokenLoss(model)(ids, targets, **view)
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-6)
    for name in view:
        less = {n: t for n, t in view.items() if n != name}
        assert (NextTokenLoss(model)(ids, targets, **less) - loss).abs() > 1e-5


def test_parameters_are_those_of_the_model() -> None:
    model = gpt()
    parameters = dict(NextTokenLoss(model).named_parameters())
    assert parameters == {f"model.{n}": p for n, p in model.named_parameters()}


def fast_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each loss that is found without all logits."""
    calls: list[int] = []
    fast = module.linear_cross_entropy

    def counting(*arguments: Any) -> Tensor:
        calls.append(1)
        return fast(*arguments)

    monkeypatch.setattr(module, "linear_cross_entropy", counting)
    return calls


def test_a_plain_gpt_takes_the_chunked_head(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fast_calls(monkeypatch)
    NextTokenLoss(gpt())(*batch())
    assert calls == [1]


class Doubled(GPT):
    """A subclass whose forward is not the GPT's."""

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        return 2 * super().forward(*arguments, **named)


def test_an_overridden_forward_is_run() -> None:
    model, (ids, targets) = Doubled(gpt().config), batch()
    wanted = F.cross_entropy(model(ids).mT, targets)
    torch.testing.assert_close(NextTokenLoss(model)(ids, targets), wanted)


def test_a_head_of_another_type_is_run() -> None:
    model, (ids, targets) = gpt(tie_head=False), batch()
    model.head = LoRALinear(model.head, rank=2, alpha=400.0)
    nn.init.normal_(model.head.lora_b)
    wanted = F.cross_entropy(model(ids).mT, targets)
    torch.testing.assert_close(NextTokenLoss(model)(ids, targets), wanted)


@pytest.mark.parametrize("name", PARTS)
def test_forward_hooks_of_every_part_are_run(name: str) -> None:
    rotary = "rotary" if name == "rotary" else "learned"
    model = gpt(positions=rotary, embedding_norm=True, d_model=12)
    ids, targets = batch()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_()
    loss_of, calls = NextTokenLoss(model), []
    part = model.get_submodule(name)
    before = loss_of(ids, targets)
    with part.register_forward_pre_hook(lambda *_: calls.append("before")):
        torch.testing.assert_close(loss_of(ids, targets), before)
        assert set(calls) == {"before"}
    with part.register_forward_hook(
        lambda *parts: parts[2] * torch.rand(parts[2].shape)
    ):
        torch.manual_seed(0)
        changed = loss_of(ids, targets)
        torch.manual_seed(0)
        wanted = F.cross_entropy(model(ids).mT, targets)
    torch.testing.assert_close(changed, wanted)
    assert (changed - before).abs() > 1e-3
    torch.testing.assert_close(loss_of(ids, targets), before)


def test_global_hooks_are_run() -> None:
    seen, loss_of = [], NextTokenLoss(gpt())
    hook = nn.modules.module.register_module_forward_hook(
        lambda part, *_: seen.append(part)
    )
    with hook:
        loss_of(*batch())
    assert set(loss_of.modules()) - set(seen) == {loss_of.model.blocks}
