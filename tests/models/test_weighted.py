"""Modules of settings and a few weights: each goes to the peer and back, and folders that are wrong are told so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from module_helpers import DIMENSION, stirred, there_and_back, word_embeddings
from ray_st.models import CNN, LSTM, Dropout, LayerNorm, Module, Pooling, WeightedLayerPooling, WordWeights
from ray_st.models.folder_files import ModelFolderError, read_json, write_json

MAKE: dict[str, Callable[[], Any]] = {
    "CNN": lambda: CNN(DIMENSION, 4, [1, 3, 5]),
    "LSTM": lambda: LSTM(DIMENSION, 4, num_layers=2),
    "LSTM-one-way": lambda: LSTM(DIMENSION, 4, bidirectional=False),
}


@pytest.mark.parametrize("name", MAKE)
def test_over_words_to_the_peer_and_back(name: str, peer: Any, tmp_path: Path) -> None:
    part = stirred(MAKE[name]())
    there_and_back([word_embeddings(), part, Pooling(part.get_embedding_dimension())], peer, tmp_path)


def test_over_embeddings_to_the_peer_and_back(peer: Any, tmp_path: Path) -> None:
    modules = [word_embeddings(), Pooling(DIMENSION), stirred(LayerNorm(DIMENSION)), Dropout(0.3)]
    back = there_and_back(modules, peer, tmp_path)
    assert back[3].dropout == 0.3


def test_dropout_only_while_training() -> None:
    features = {"sentence_embedding": torch.ones(4, 100)}
    module = Dropout(0.5)
    assert set(module(features)["sentence_embedding"].unique().tolist()) == {0.0, 2.0}
    assert (module.eval()(features)["sentence_embedding"] == 1).all()


def test_layer_norm_by_hand() -> None:
    found = LayerNorm(3)({"sentence_embedding": torch.tensor([[1.0, 2.0, 3.0]])})["sentence_embedding"]
    torch.testing.assert_close(found, torch.tensor([[-1.0, 0.0, 1.0]]) * 1.5**0.5, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("make", "newer"),
    [
        (lambda: CNN(3, 4), {"in_word_embedding_dimension": "in_embedding_dimension"}),
        (lambda: LSTM(3, 4), {"word_embedding_dimension": "embedding_dimension"}),
        (lambda: WeightedLayerPooling(3, 2, 1), {"word_embedding_dimension": "embedding_dimension"}),
    ],
)
def test_older_and_newer_names_of_settings(
    make: Callable[[], Module], newer: dict[str, str], tmp_path: Path
) -> None:
    module = stirred(make())
    module.save(tmp_path)
    path = tmp_path / module.config_file_name
    config = read_json(path)
    for turn in (config, {newer.get(key, key): value for key, value in config.items()}):
        write_json(path, turn)
        back = type(module).load(tmp_path)
        assert back.get_config_dict() == config
        torch.testing.assert_close(back.state_dict(), module.state_dict())


@pytest.mark.parametrize("kind", [CNN, LSTM, LayerNorm, WordWeights, WeightedLayerPooling])
def test_without_settings(kind: type[Module], tmp_path: Path) -> None:
    with pytest.raises(
        ModelFolderError, match=rf"has no {kind.config_file_name} .* a {kind.__name__} module"
    ):
        kind.load(tmp_path)


@pytest.mark.parametrize(
    ("module", "change"),
    [
        (CNN(3, 4), {"out_channels": 5}),
        (LSTM(3, 4), {"word_embedding_dimension": 2}),
        (LayerNorm(3), {"dimension": 4}),
        (WordWeights(["a", "b"], {}), {"vocab": ["a", "b", "c"]}),
        (WeightedLayerPooling(3, 2, 1), {"num_hidden_layers": 4}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weights_that_do_not_fit_the_settings(module: Module, change: dict[str, Any], tmp_path: Path) -> None:
    module.save(tmp_path)
    path = tmp_path / module.config_file_name
    write_json(path, read_json(path) | change)
    with pytest.raises(ModelFolderError, match=f"do not fit its {module.config_file_name}"):
        type(module).load(tmp_path)


def test_settings_that_make_no_module(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"dimension": None})
    with pytest.raises(ModelFolderError, match=r"config\.json is not a valid LayerNorm"):
        LayerNorm.load(tmp_path)
    write_json(tmp_path / "config.json", {"dimension": 3})
    with pytest.raises(ModelFolderError, match="has no weights"):
        LayerNorm.load(tmp_path)


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    module = LayerNorm(3)
    module.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ModelFolderError, match=r"only in pytorch_model\.bin.*write model\.safetensors from it"
    ):
        LayerNorm.load(tmp_path)
