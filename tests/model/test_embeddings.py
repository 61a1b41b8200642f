"""embeddings: a lookup is nn.Embedding's, and a product with one-hot rows."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from torch import nn

from tinygpt.model.embeddings import TokenEmbedding

B, T, C, V = 2, 5, 3, 7


def test_equals_torch_with_gradients() -> None:
    ours, theirs = TokenEmbedding(V, C), nn.Embedding(V, C)
    theirs.load_state_dict(ours.state_dict())
    ids, upstream = torch.randint(V, (B, T)), torch.randn(B, T, C)
    torch.testing.assert_close(ours(ids), theirs(ids), rtol=0, atol=0)
    ours(ids).backward(upstream)
    theirs(ids).backward(upstream)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=0, atol=0)


def test_equals_product_with_one_hot_rows() -> None:
    embedding, ids = TokenEmbedding(V, C), torch.randint(V, (B, T))
    product = F.one_hot(ids, V).float() @ embedding.weight
    torch.testing.assert_close(embedding(ids), product, rtol=0, atol=0)


def test_starts_small() -> None:
    weight = TokenEmbedding(997, 31).weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert weight.mean().item() == pytest.approx(0, abs=5e-4)


@pytest.mark.parametrize("wrong", [V, -1])
def test_id_outside_the_table(wrong: int) -> None:
    with pytest.raises(IndexError):
        TokenEmbedding(V, C)(torch.tensor([[0, wrong]]))


@pytest.mark.parametrize("ids", [torch.tensor([1, 2]), torch.tensor([[1.0, 2.0]])])
def test_shapes_and_types_are_enforced(ids: torch.Tensor) -> None:
    """The import hook in conftest.py is at work: ids are whole numbers [B, T]."""
    with pytest.raises(TypeCheckError):
        TokenEmbedding(V, C)(ids)
