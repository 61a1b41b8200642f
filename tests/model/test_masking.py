"""masking: every mask against its definition, entry by entry."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tinygpt.model.masking import causal_mask, document_mask, padding_mask


@given(st.integers(1, 9), st.integers(0, 6))
def test_causal_mask_lets_see_what_came_before(n_queries: int, past: int) -> None:
    mask = causal_mask(n_queries, past + n_queries)
    assert mask.dtype == torch.bool
    expected = [
        [key <= query + past for key in range(past + n_queries)]
        for query in range(n_queries)
    ]
    assert mask.tolist() == expected
    if not past:
        assert causal_mask(n_queries).tolist() == expected


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_padding_mask_hides_the_filling(lengths: list[int]) -> None:
    mask = padding_mask(torch.tensor(lengths), 6)
    assert mask.shape == (len(lengths), 1, 1, 6)
    for row, length in zip(mask.flatten(1).tolist(), lengths, strict=True):
        assert row == [True] * length + [False] * (6 - length)


@given(st.integers(1, 7).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 2), min_size=n, max_size=n), min_size=1, max_size=4
    )
))  # fmt: skip
def test_document_mask_is_causal_within_one_document(documents: list) -> None:
    mask = document_mask(torch.tensor(documents))
    for row, text in zip(mask[:, 0].tolist(), documents, strict=True):
        for t in range(len(text)):
            for s in range(len(text)):
                assert row[t][s] == (s <= t and text[s] == text[t])
