"""Models with a decoder are opened without it, and give the encoder's vectors."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM, BertConfig, BertForMaskedLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from module_helpers import save_words
from ray_st import SentenceTransformer
from ray_st.models import Pooling, Transformer
from ray_st.models.encoder_loading import encoder_half

TEXTS = ["b c d", "b", "c d c d c d"]
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "d_model": 16,
    "hidden_size": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_encoder_attention_heads": 2,
    "num_decoder_attention_heads": 2,
    "num_experts": 2,
    "max_position_embeddings": 30,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    **{f"{half}_layers": 2 for half in ("encoder", "decoder")},
    **{f"{half}_attention_heads": 2 for half in ("encoder", "decoder")},
    **{f"{half}_ffn_dim": 24 for half in ("encoder", "decoder")},
}
CLASSES = {
    "blenderbot": "BlenderbotEncoder",
    "longt5": "LongT5EncoderModel",
    "m2m_100": "M2M100Encoder",
    "marian": "MarianEncoder",
    "nllb-moe": "NllbMoeEncoder",
    "pegasus": "PegasusEncoder",
    "prophetnet": "ProphetNetEncoder",
    "switch_transformers": "SwitchTransformersEncoderModel",
    "t5": "T5EncoderModel",
}


def whole(kind: str) -> Any:
    known = CONFIG_MAPPING[kind]()
    names = {*known.to_dict(), *known.attribute_map}
    config = AutoConfig.for_model(kind, **{key: SIZES[key] for key in SIZES if key in names})
    torch.manual_seed(0)
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def opened(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[Transformer(folder), Pooling(16)], device="cpu")


@pytest.mark.parametrize("kind", sorted(CLASSES))
@pytest.mark.parametrize("head", [True, False])
def test_a_folder_of_the_whole_model(kind: str, head: bool, tmp_path: Path) -> None:
    full = whole(kind)
    base = getattr(full, full.base_model_prefix, None) or getattr(full, "model", full)
    (full if head else base).save_pretrained(tmp_path)
    save_words(tmp_path)
    transformer = Transformer(tmp_path).eval()
    assert type(transformer.auto_model).__name__ == CLASSES[kind]
    assert transformer.get_embedding_dimension() == 16
    batch = transformer.tokenize(TEXTS)
    real = batch["attention_mask"].bool()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    wanted = full.get_encoder()(**inputs).last_hidden_state
    found = transformer(batch)["token_embeddings"]
    torch.testing.assert_close(found[real], wanted[real])
    found.sum().backward()
    trained = [weight for weight in transformer.parameters() if weight.requires_grad]
    assert all(weight.grad is not None for weight in trained)


@pytest.mark.parametrize("kind", ["m2m_100", "longt5"])
def test_saved_without_the_decoder(kind: str, tmp_path: Path) -> None:
    whole(kind).save_pretrained(tmp_path / "whole")
    save_words(tmp_path / "whole")
    model = opened(tmp_path / "whole")
    model.save(tmp_path / "half")
    assert not any("decoder" in name for name in load_file(tmp_path / "half" / "model.safetensors"))
    again = SentenceTransformer(tmp_path / "half", device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("kind", ["longt5", "m2m_100", "marian"])
def test_there_and_back(kind: str, peer: Any, tmp_path: Path) -> None:
    whole(kind).save_pretrained(tmp_path / "whole")
    save_words(tmp_path / "whole")
    mine = opened(tmp_path / "whole")
    mine.save(tmp_path / "ours")
    theirs = peer.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), mine.encode(TEXTS), atol=1e-5)
    theirs.save(str(tmp_path / "theirs"))
    back = SentenceTransformer(tmp_path / "theirs", device="cpu")
    np.testing.assert_allclose(back.encode(TEXTS), mine.encode(TEXTS), atol=1e-5)


def test_bart_embeds_with_both_halves_as_it_always_has() -> None:
    assert encoder_half(AutoConfig.for_model("bart")) is None
    assert encoder_half(AutoConfig.for_model("bert")) is None


def test_weights_in_eight_bits_are_refused_or_converted(tiny_encoder: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored"
    shutil.copytree(tiny_encoder, stored)
    values = load_file(stored / "model.safetensors")
    eight = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in values.items()}
    save_file(eight, stored / "model.safetensors", {"format": "pt"})
    config = json.loads((stored / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps({**config, "dtype": "float8_e4m3fn"}))
    with pytest.raises(
        ValueError, match=r"stored: .* type float8_e4m3fn, in which no layer computes\. Open it"
    ):
        Transformer(stored)
    opened = Transformer(stored, model_args={"torch_dtype": torch.bfloat16})
    for name, weight in opened.auto_model.named_parameters():
        assert torch.equal(weight, eight[name].bfloat16())


def test_models_opened_in_several_threads_have_their_weights_tied(tiny_encoder: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: Transformer(tiny_encoder), range(32)))
    config = BertConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, intermediate_size=16)
    model = BertForMaskedLM(config)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
