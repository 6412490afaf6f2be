"""The losses on a real model, beside the peer's on the same folder."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ray_st import losses
from ray_st.losses import embed

TEXTS = [
    ["the weather is good", "a man eats pasta", "sunny", "is the document bad"],
    [
        "it is sunny",
        "the man eats",
        "the weather is sunny and good, it is not bad to eat in the sun",
        "bad text",
    ],
    ["a query", "a word of the text in a document", "pasta", "good"],
]
SCORES = torch.tensor([0.9, 0.8, 0.1, 0.4])
LOSSES = {
    "MultipleNegativesRankingLoss": (3, None),
    "CoSENTLoss": (2, SCORES),
    "CosineSimilarityLoss": (2, SCORES),
    "TripletLoss": (3, None),
}


def value_and_gradients(
    loss: Any, model: Any, features: Any, labels: Any
) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    value = loss(features, labels)
    value.backward()
    return value.item(), [
        weight.grad for _, weight in sorted(model.named_parameters()) if weight.grad is not None
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("call_tokens", [0, 10**6])
def test_value_and_gradient_are_the_peers(
    name, call_tokens, tiny_model, tiny_folder, peer, monkeypatch
) -> None:
    from sentence_transformers.sentence_transformer import losses as peers

    monkeypatch.setattr(embed, "cost_of_call", lambda model, device: call_tokens)
    columns, labels = LOSSES[name]
    other = peer.SentenceTransformer(str(tiny_folder), device="cpu")
    features = [tiny_model.tokenize(texts) for texts in TEXTS[:columns]]
    mine = value_and_gradients(getattr(losses, name)(tiny_model), tiny_model, features, labels)
    theirs = value_and_gradients(getattr(peers, name)(other), other, features, labels)
    assert mine[0] == pytest.approx(theirs[0], abs=1e-5)
    assert len(mine[1]) == len(theirs[1])
    for one, two in zip(mine[1], theirs[1], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=5e-6)
