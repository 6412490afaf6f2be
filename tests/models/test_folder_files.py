from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_st.models.folder_files import (
    ModelFolderError,
    check_weights,
    read_json,
    read_weights,
    write_json,
    write_weights,
)


def test_json_there_and_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"ä": [1, None]})
    assert read_json(tmp_path / "x.json") == {"ä": [1, None]}
    assert read_json(tmp_path / "y.json", 5) == 5


def test_weights_there_and_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T}
    write_weights(tmp_path, tensors)
    torch.testing.assert_close(read_weights(tmp_path), tensors)


def test_weights_in_parts_count(tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").touch()
    write_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"a": "model-1.safetensors"}})
    check_weights(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../model-1.safetensors"}}, r"names the file '\.\./model-1\.safetensors'"),
        ({"weight_map": {"a": "/model-1.safetensors"}}, "in the index's own folder"),
        ({"weight_map": {"a": "x\\\\model-1.safetensors"}}, "in the index's own folder"),
        ({"weight_map": {"a": "model-1.bin"}}, "must be .safetensors files"),
        ({"weight_map": {"a": "model-2.safetensors"}}, "which is not there"),
        ({"weight_map": {"a": 1}}, "is no index of weights"),
        ({"weight_map": {}}, "is no index of weights"),
        ([], "is no index of weights"),
    ],
    ids=str,
)
def test_parts_that_are_elsewhere_or_no_safetensors(index: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "model-1.safetensors").touch()
    write_json(tmp_path / "model.safetensors.index.json", index)
    with pytest.raises(ModelFolderError, match=message):
        check_weights(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model.pt"])
def test_pickles_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelFolderError, match=f"has its weights only in {name}"):
        check_weights(tmp_path)
