from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from module_helpers import TEXTS, stirred, there_and_back
from ray_st.models import Pooling, Transformer, WeightedLayerPooling

LAYERS = tuple(torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0)))


def test_by_hand() -> None:
    weights = torch.tensor([1.0, 3.0])
    module = WeightedLayerPooling(5, num_hidden_layers=3, layer_start=2, layer_weights=weights)
    found = module({"all_layer_embeddings": LAYERS, "token_embeddings": LAYERS[-1]})["token_embeddings"]
    torch.testing.assert_close(found, (LAYERS[2] + 3 * LAYERS[3]) / 4)


def test_without_layers_vectors_stay() -> None:
    found = WeightedLayerPooling(5, 3, 1)({"token_embeddings": LAYERS[-1]})["token_embeddings"]
    assert found is LAYERS[-1]


def test_to_the_peer_and_back(tiny_encoder: Path, peer: Any, tmp_path: Path) -> None:
    encoder = Transformer(tiny_encoder, config_args={"output_hidden_states": True})
    mixture = stirred(WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1))
    there_and_back([encoder, mixture, Pooling(32)], peer, tmp_path, TEXTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_start": 4}, "layer_start must be from 0 to 3; got 4"),
        ({"layer_start": -1}, "got -1"),
        (
            {"layer_start": 1, "layer_weights": torch.ones(2)},
            r"3 numbers, .* from layer 1 on; got the shape \(2,\)",
        ),
    ],
    ids=str,
)
def test_what_makes_no_mixture(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedLayerPooling(5, 3, **arguments)


def test_an_encoder_with_other_layers() -> None:
    with pytest.raises(ValueError, match="num_hidden_layers=2, the encoder gave 3 layers"):
        WeightedLayerPooling(5, 2, 1)({"all_layer_embeddings": LAYERS})
