"""Losses that select pairs by their values, where they select all, one or none: beside the peer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_conformance import CASES, by_backward, made

from ray_st import losses
from ray_st.losses.parts import total

NAMES = ["online", "batch-all", "batch-semi"]
LABELS = {
    "online": {
        "all positive": [1] * 6,
        "all negative": [0] * 6,
        "one positive": [0, 0, 1, 0, 0, 0],
        "one negative": [1, 1, 1, 1, 0, 1],
        "a positive alone": [1],
        "a negative alone": [0],
    },
    "in-batch triplets": {
        "no pair of a class": [0, 1, 2, 3, 4, 5],
        "one pair": [0, 1, 2, 3, 1, 5],
        "one other": [0, 0, 0, 4, 0, 0],
    },
}
CHOSEN = [
    pytest.param(name, labels, id=f"{name}, {kind}")
    for name in NAMES
    for kind, labels in LABELS.get(name, LABELS["in-batch triplets"]).items()
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(("name", "labels"), CHOSEN)
def test_value_and_gradient_are_the_peers(
    name: str, labels: list[int], encoder: Any, make_features: Any
) -> None:
    peers = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    case, given = CASES[name], torch.tensor(labels)
    encoder.double()
    features = make_features(case.columns, len(labels))
    ours, theirs = made(case, losses, encoder), made(case, peers, encoder)
    mine, other = total(ours(features, given)), total(theirs(features, given))
    torch.testing.assert_close(mine, other.to(torch.float64), rtol=1e-6, atol=1e-6)
    found, wanted = by_backward(mine, encoder), by_backward(other, encoder)
    assert all(gradient.isfinite().all() for gradient in found.values())
    for weight, gradient in wanted.items():
        torch.testing.assert_close(found[weight], gradient, rtol=1e-6, atol=1e-6)
