from __future__ import annotations

from typing import Any

import pytest
import torch

from ray_st import SimilarityFunction, util

NAMES = {"cosine": "cos_sim", "dot": "dot_score", "euclidean": "euclidean_sim", "manhattan": "manhattan_sim"}


@pytest.mark.parametrize("value", NAMES)
def test_each_name_has_its_functions(value: str) -> None:
    a = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for key in (value, SimilarityFunction(value)):
        torch.testing.assert_close(
            SimilarityFunction.to_similarity_fn(key)(a, a), getattr(util, NAMES[value])(a, a)
        )
        pairwise = SimilarityFunction.to_similarity_pairwise_fn(key)
        torch.testing.assert_close(pairwise(a, a), getattr(util, f"pairwise_{NAMES[value]}")(a, a))


def test_values_are_the_peers(peer: Any) -> None:
    assert SimilarityFunction.possible_values() == list(NAMES)
    assert SimilarityFunction.DOT is SimilarityFunction.DOT_PRODUCT
    for member in SimilarityFunction:
        assert peer.SimilarityFunction[member.name].value == member.value


@pytest.mark.parametrize("value", ["cos", None, 3])
def test_an_unknown_name(value: Any) -> None:
    with pytest.raises(
        ValueError, match=r"must be one of \['cosine', 'dot', 'euclidean', 'manhattan'\]; got"
    ):
        SimilarityFunction.to_similarity_fn(value)
