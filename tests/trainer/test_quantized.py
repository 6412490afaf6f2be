"""Adapters trained beside an encoder in 4 or 8 bits, where bitsandbytes is installed; its CPU kernels suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray.train import ScalingConfig
from transformers import BitsAndBytesConfig

from decoder_folders import save_decoder, with_adapter
from ray_st import SentenceTransformer
from ray_st.models import Pooling, Transformer
from ray_st.runtime.cluster import pickled

from .test_decoders import ROWS, losses, weights

bnb = pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")

pytestmark = [
    pytest.mark.usefixtures("fresh_accelerator"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),  # peft's
]
TEXTS = ["the man eats pasta", "good weather is good " * 5, "sunny"]
OPTIONS = {
    4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    8: {"load_in_8bit": True},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # bitsandbytes packs rows of 64 values.
    sizes = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 64}
    encoder = save_decoder(tmp_path / "encoder", "qwen3", torch.bfloat16, **sizes)
    parts = [Transformer(encoder), Pooling(64, "lasttoken")]
    SentenceTransformer(modules=parts, device="cpu").save(tmp_path / "whole")
    return tmp_path / "whole"


def opened(folder: Path, bits: int, how: str = "plain") -> Any:
    options = {"quantization_config": BitsAndBytesConfig(**OPTIONS[bits]), "dtype": torch.bfloat16}
    model = SentenceTransformer(folder, device="cpu", model_kwargs=options)
    return with_adapter(model, how)


@pytest.mark.parametrize("how", ["added", "by hand"])
@pytest.mark.parametrize("bits", OPTIONS)
def test_adapters_are_trained_saved_resumed_and_opened(
    bits: int, how: str, folder: Path, make: Any, tmp_path: Path
) -> None:
    model = opened(folder, bits, how)
    before = weights(model)
    saving = {"save_strategy": "steps", "save_steps": 1}
    options = {"train_dataset": ROWS, "scaling_config": ScalingConfig(num_workers=0)}
    trainer = make(model=model, arguments=saving, **options)
    trainer.train()
    moved = {name for name, weight in weights(model).items() if not torch.equal(weight, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert {name: weight.dtype for name, weight in model.named_parameters()} == {
        name: weight.dtype for name, weight in before.items()
    }
    checkpoint = tmp_path / "out" / "checkpoint-2"
    assert not list(checkpoint.glob("model*.safetensors"))
    again = make(model=opened(folder, bits, how), arguments=saving, **options)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert losses(again) == losses(trainer)
    model.save(tmp_path / "saved")
    expected = model.encode(TEXTS)
    quantization = BitsAndBytesConfig(**OPTIONS[bits])
    asked = {"quantization_config": quantization, "dtype": torch.bfloat16}
    found = SentenceTransformer(tmp_path / "saved", device="cpu", model_kwargs=asked).encode(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-2)
    whole = SentenceTransformer(tmp_path / "saved", device="cpu")
    whole.merge_adapters()


def test_recomputed_activations(folder: Path, make: Any) -> None:
    found = []
    for recompute in (False, True):
        options = {"train_dataset": ROWS, "scaling_config": ScalingConfig(num_workers=0)}
        arguments = {"gradient_checkpointing": recompute}
        trainer = make(model=opened(folder, 4, "added"), arguments=arguments, **options)
        trainer.train()
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("bits", OPTIONS)
def test_packed_weights_are_sent_as_such(bits: int, folder: Path) -> None:
    model = opened(folder, bits)
    expected = model.encode(TEXTS)
    for _ in range(2):  # there, and on
        model = pickled.copy_of(model)
        found = [type(weight) for weight in model.parameters()]
        assert any(issubclass(kind, bnb.nn.Params4bit | bnb.nn.Int8Params) for kind in found)
        np.testing.assert_allclose(model.encode(TEXTS), expected, atol=1e-2)


def test_its_own_weights_are_not_trained(folder: Path, make: Any) -> None:
    with pytest.raises(ValueError, match="Qwen3Model is quantized: its packed weights cannot be trained"):
        make(model=opened(folder, 4), train_dataset=ROWS)


@pytest.mark.parametrize("bits", OPTIONS)
def test_a_folder_of_packed_weights(bits: int, folder: Path, tmp_path: Path) -> None:
    model = opened(folder, bits)
    model.save(tmp_path / "packed")
    again = SentenceTransformer(tmp_path / "packed", device="cpu")
    assert again[0].auto_model.is_quantized
    np.testing.assert_allclose(again.encode(TEXTS), model.encode(TEXTS), atol=1e-2)
