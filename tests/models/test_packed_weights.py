"""Encoders in 4 or 8 bits: what is refused, and which tensors are left alone; none of it needs bitsandbytes."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

from ray_st import SentenceTransformer, SentenceTransformerTrainingArguments
from ray_st.losses import CosineSimilarityLoss
from ray_st.models.folder_files import read_json, write_json
from ray_st.training.argument_checks import check_quantized
from ray_st.training.strategies.precision import note_on_types, widen
from ray_st.training.strategies.step_module import describe_weights
from ray_st.training.trained_weights import take_trained, write_trained

HALF = torch.bfloat16


class Packed(nn.Parameter):
    """Stands for the packed weights of bitsandbytes, stored as another type's bits."""


@pytest.fixture
def quantized(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Any]:
    """Makes a model in bfloat16, with or without an adapter, whose queries have packed weights."""

    def make(adapter: bool) -> Any:
        tiny_model.to(HALF)
        if adapter:
            peft = pytest.importorskip("peft")
            tiny_model.add_adapter(peft.LoraConfig(target_modules=["value"], r=2))
        kinds = SimpleNamespace(Params4bit=Packed, Int8Params=Packed)
        monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=kinds))
        encoder = tiny_model[0].auto_model
        encoder.is_quantized = True
        for layer in encoder.encoder.layer:
            query = layer.attention.self.query
            query.weight = Packed(query.weight.data, requires_grad=False)
        return tiny_model

    return make


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
@pytest.mark.parametrize("where", ["call", "folder", "early folder"])
def test_without_the_package_it_is_named_with_what_to_install(
    where: str, bits: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", None)  # is not asked
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    config = read_json(folder / "config.json")
    asked = {bits: True} | ({"quant_method": "bitsandbytes"} if where == "folder" else {})
    options = {}
    if where == "call":
        options = {"model_kwargs": {"quantization_config": BitsAndBytesConfig(**{bits: True})}}
    else:
        write_json(folder / "config.json", {**config, "quantization_config": asked})
    message = r"quantization_config of .* needs bitsandbytes.*pip install 'ray-st\[bitsandbytes\]'"
    with pytest.raises(ImportError, match=message):
        SentenceTransformer(folder, device="cpu", **options)


def arguments(**options: Any) -> Any:
    return SentenceTransformerTrainingArguments(output_dir="out", report_to="none", **options)


def test_packed_weights_are_neither_trained_nor_sharded(quantized: Any) -> None:
    with pytest.raises(ValueError, match=r"BertModel is quantized: .* cannot be trained.*Train an adapter"):
        check_quantized(arguments(), quantized(adapter=False))


def test_an_adapter_beside_packed_weights_is_trained_but_not_sharded_or_merged(quantized: Any) -> None:
    model = quantized(adapter=True)
    check_quantized(arguments(), model)
    with pytest.raises(ValueError, match="fsdp cannot shard packed weights"):
        check_quantized(arguments(fsdp=True), model)
    with pytest.raises(ValueError, match="open its base without quantization_config, and merge there"):
        model.merge_adapters()


def test_a_frozen_encoder_keeps_its_types(quantized: Any) -> None:
    model = quantized(adapter=False)
    model[0].requires_grad_(False)
    check_quantized(arguments(), model)
    types = widen(model, CosineSimilarityLoss(model))
    assert {weight.dtype for weight in model.parameters()} == {HALF}
    types.restore()


def test_packed_weights_stay_where_they_are(quantized: Any, tmp_path: Path) -> None:
    model = quantized(adapter=True)
    loss = CosineSimilarityLoss(model)
    described = describe_weights(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    write_trained(tmp_path / "trained", model, loss)
    trained = {name: weight.clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.data = weight.data.reshape(-1) if isinstance(weight, Packed) else weight.data * 0
    take_trained(tmp_path / "trained", model, loss)
    for name, weight in model.named_parameters():
        assert weight.dim() == 1 if isinstance(weight, Packed) else torch.equal(weight, trained[name])
    assert describe_weights(model) == described


def test_all_but_packed_weights_compute_in_float32_beside_adapters(quantized: Any) -> None:
    model = quantized(adapter=True)
    loss = CosineSimilarityLoss(model)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    assert "values beside packed ones are stored in bfloat16 and used in float32" in note_on_types(
        model, loss
    )
    types = widen(model, loss)
    for weight in model.parameters():
        assert weight.dtype == (HALF if isinstance(weight, Packed) else torch.float32)
    types.restore()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.dtype == before[name].dtype
