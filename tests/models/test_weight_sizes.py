"""A config.json that asks for more than the folder holds is refused before memory is taken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AlbertConfig, AlbertModel

from ray_st.models import Transformer
from ray_st.models.encoder_loading import Held
from ray_st.models.folder_files import ModelFolderError, read_json, write_json


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_encoder, tmp_path / "model"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"num_hidden_layers": 10**7},
            r"says num_hidden_layers=10000000, but the folder's weights are \d+ tensors",
        ),
        ({"num_hidden_layers": 1e7}, "says num_hidden_layers=10000000, "),
        ({"num_hidden_layers": 10**12}, "says num_hidden_layers=1000000000000, "),
        ({"hidden_size": 2**20}, r"asks for \d+ weights, but the folder holds \d+\. Correct its sizes"),
        ({"vocab_size": 10**10}, r"asks for \d+ weights"),
        ({"max_position_embeddings": 10**9}, r"asks for \d+ weights"),
    ],
    ids=str,
)
def test_what_is_refused(change: dict[str, Any], message: str, folder: Path) -> None:
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **change})
    with pytest.raises(ModelFolderError, match=message):
        Transformer(folder)


def test_what_a_caller_asks_for_is_refused_too(folder: Path) -> None:
    with pytest.raises(ModelFolderError, match="says num_hidden_layers=10000000"):
        Transformer(folder, config_args={"num_hidden_layers": 10**7})


def test_layers_may_share_their_weights(folder: Path) -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "embedding_size": 8}
    config = AlbertConfig(vocab_size=99, num_hidden_layers=24, **sizes)
    AlbertModel(config, add_pooling_layer=False).save_pretrained(folder)
    assert Transformer(folder).get_embedding_dimension() == 16


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelFolderError, match=r"model\.safetensors is damaged"):
        Held.read(folder)
