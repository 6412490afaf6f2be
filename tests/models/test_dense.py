from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from ray_st.models import Dense
from ray_st.models.folder_files import ModelFolderError, read_json, write_json

FEATURES = {"sentence_embedding": torch.randn(3, 4, generator=torch.Generator().manual_seed(0))}


def test_is_a_linear_map_with_an_activation() -> None:
    weight, bias = torch.ones(2, 4), torch.tensor([1.0, -1.0])
    found = Dense(4, 2, init_weight=weight, init_bias=bias)(FEATURES)["sentence_embedding"]
    torch.testing.assert_close(found, torch.tanh(FEATURES["sentence_embedding"] @ weight.T + bias))


@pytest.mark.parametrize("out", [4, 2])
def test_residual_adds_the_input(out: int) -> None:
    dense = Dense(4, out, use_residual=True, activation_function=None)
    value = FEATURES["sentence_embedding"]
    assert dense.residual is not None
    torch.testing.assert_close(
        dense(FEATURES)["sentence_embedding"], dense.linear(value) + dense.residual(value)
    )
    assert len(list(dense.residual.parameters())) == (0 if out == 4 else 1)


def test_reads_and_writes_the_features_it_is_told() -> None:
    found = Dense(4, 2, module_input_name="a", module_output_name="b")({"a": FEATURES["sentence_embedding"]})
    assert (found["a"].shape, found["b"].shape) == ((3, 4), (3, 2))


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU(), nn.PReLU(), None], ids=repr)
@pytest.mark.parametrize("residual", [False, True])
def test_saved_and_read(activation: nn.Module | None, residual: bool, tmp_path: Path) -> None:
    dense = Dense(4, 2, activation_function=activation, use_residual=residual)
    dense.save(tmp_path)
    back = Dense.load(tmp_path)
    torch.testing.assert_close(back(FEATURES), dense(FEATURES))
    assert repr(back) == repr(dense)


def test_arguments_of_an_activation_that_get_lost_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        Dense(4, 2, activation_function=nn.LeakyReLU(0.3)).save(tmp_path)
    assert "cannot store the arguments of LeakyReLU(negative_slope=0.3)" in caplog.text


def test_an_unknown_activation_is_not_imported(tmp_path: Path) -> None:
    Dense(4, 2).save(tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**config, "activation_function": "collections.OrderedDict"})
    with pytest.raises(
        ModelFolderError, match=r"activation 'collections.OrderedDict' is not one of torch\.nn's.*trust"
    ):
        Dense.load(tmp_path)


def test_an_activation_from_elsewhere_needs_trust(tmp_path: Path) -> None:
    Dense(4, 2).save(tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(
        tmp_path / "config.json", {**config, "activation_function": "transformers.activations.GELUActivation"}
    )
    back = Dense.load(tmp_path, trust_remote_code=True)
    assert type(back.activation_function).__name__ == "GELUActivation"


def test_weights_that_are_missing_or_of_another_shape(tmp_path: Path) -> None:
    Dense(4, 2).save(tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", {**config, "out_features": 3})
    with pytest.raises(ModelFolderError, match=r"do not fit its config\.json"):
        Dense.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match="has no weights"):
        Dense.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"has no config\.json"):
        Dense.load(tmp_path)
