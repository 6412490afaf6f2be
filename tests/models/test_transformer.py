from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel, MPNetConfig, MPNetModel, T5Config, T5Model

from ray_st.models import Transformer
from ray_st.models.folder_files import ModelFolderError, read_json, write_json

BATCH = {"input_ids": torch.tensor([[2, 5, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}


@pytest.fixture
def folder(tiny_encoder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_encoder, tmp_path / "model"))


def test_gives_the_encoders_last_layer(tiny_encoder: Path) -> None:
    found = Transformer(tiny_encoder).eval()(BATCH)
    plain = BertModel.from_pretrained(tiny_encoder, add_pooling_layer=False).eval()(**BATCH)
    torch.testing.assert_close(found["token_embeddings"], plain.last_hidden_state)
    assert "token_embeddings" not in BATCH


def test_every_weight_gets_a_gradient(tiny_encoder: Path) -> None:
    transformer = Transformer(tiny_encoder)
    transformer(transformer.tokenize(["a man", "good"]))["token_embeddings"].square().sum().backward()
    assert [name for name, weight in transformer.named_parameters() if weight.grad is None] == []


def test_features_that_are_no_inputs_of_the_encoder_pass_by(tiny_encoder: Path) -> None:
    found = Transformer(tiny_encoder)(
        {**BATCH, "prompt_length": 3, "position_ids": torch.tensor([[0, 1, 2]])}
    )
    assert found["prompt_length"] == 3


def test_all_layers_on_request(tiny_encoder: Path) -> None:
    found = Transformer(tiny_encoder, config_args={"output_hidden_states": True})(BATCH)
    assert len(found["all_layer_embeddings"]) == 3


@pytest.mark.parametrize(("given", "limit"), [(None, 64), (12, 12)])
def test_the_longest_sequence(given: int | None, limit: int, tiny_encoder: Path) -> None:
    transformer = Transformer(tiny_encoder, max_seq_length=given)
    assert transformer.max_seq_length == limit
    assert transformer.tokenize(["good " * 99])["input_ids"].shape == (1, limit)
    transformer.max_seq_length = None
    assert transformer.max_seq_length is None
    assert transformer.tokenize(["good " * 99])["input_ids"].shape == (1, 101)


def test_saved_and_read(tiny_encoder: Path, tmp_path: Path) -> None:
    transformer = Transformer(tiny_encoder, max_seq_length=12, do_lower_case=True).eval()
    transformer.save(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    back = Transformer.load(tmp_path).eval()
    assert (back.max_seq_length, back.do_lower_case) == (12, True)
    torch.testing.assert_close(back(BATCH), transformer(BATCH))


def test_saved_over_itself(folder: Path) -> None:
    transformer = Transformer(folder).eval()
    before = transformer(BATCH)
    transformer.save(folder)
    torch.testing.assert_close(Transformer(folder).eval()(BATCH), before)
    torch.testing.assert_close(transformer(BATCH), before)


def test_dtype_and_attention_can_be_asked_for(tiny_encoder: Path) -> None:
    arguments = {"dtype": torch.bfloat16, "attn_implementation": "eager"}
    transformer = Transformer(tiny_encoder, model_args=arguments)
    assert transformer.auto_model.dtype == torch.bfloat16
    assert transformer.auto_model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_settings_under_old_names(name: str, folder: Path) -> None:
    write_json(folder / name, {"max_seq_length": 9, "do_lower_case": True})
    transformer = Transformer.load(folder)
    assert (transformer.max_seq_length, transformer.do_lower_case) == (9, True)


@pytest.mark.parametrize("suffix", ["args", "kwargs"])
def test_arguments_that_a_folder_keeps(suffix: str, folder: Path) -> None:
    saved = {f"model_{suffix}": {"attn_implementation": "eager", "trust_remote_code": True}}
    write_json(folder / "sentence_bert_config.json", saved)
    transformer = Transformer.load(folder)
    assert transformer.auto_model.config._attn_implementation == "eager"
    other = Transformer.load(folder, model_args={"attn_implementation": "sdpa"})
    assert other.auto_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "config",
    [
        {"transformer_task": "fill-mask"},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
    ],
    ids=str,
)
def test_a_folder_that_wants_another_task(config: dict[str, Any], folder: Path) -> None:
    write_json(folder / "sentence_bert_config.json", config)
    with pytest.raises(ModelFolderError, match=r"sentence_bert_config\.json: only 'feature-extraction'"):
        Transformer.load(folder)


def test_other_architectures(tiny_encoder: Path, folder: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    MPNetModel(MPNetConfig(vocab_size=99, **shape)).save_pretrained(folder)
    found = Transformer(folder)
    assert found.auto_model.pooler is None
    assert found(BATCH)["token_embeddings"].shape == (1, 3, 16)


def test_of_an_encoder_with_a_decoder_only_the_encoder(folder: Path) -> None:
    config = T5Config(vocab_size=99, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5Model(config).save_pretrained(folder)
    found = Transformer(folder)
    assert type(found.auto_model).__name__ == "T5EncoderModel"
    assert found.get_embedding_dimension() == 16
    assert found(BATCH)["token_embeddings"].shape == (1, 3, 16)


def test_weights_from_a_model_with_a_head_are_found(folder: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    model = BertForMaskedLM(BertConfig.from_pretrained(folder))
    model.save_pretrained(folder)
    found = Transformer(folder).auto_model.state_dict()
    torch.testing.assert_close(dict(found), dict(model.bert.state_dict()))


def test_missing_weights_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    lost = sorted(name for name in weights if "layer.1.attention" in name)
    for name in lost:
        del weights[name]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFolderError, match=rf"{folder} are missing: {lost[0]}, .* and 5 more\.$"):
        Transformer(folder)


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "max_position_embeddings": 65})
    with pytest.raises(
        ModelFolderError, match=r"another shape than config\.json says: .*position_embeddings\.weight"
    ):
        Transformer(folder)


def test_no_weights_at_all(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"has no weights: expected model\.safetensors"):
        Transformer(folder)


@pytest.mark.slow
def test_pickled_weights_are_refused_and_the_way_out_works(folder: Path) -> None:
    import re
    import shlex
    import subprocess
    import sys

    plain = Transformer(folder).eval()(BATCH)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        ModelFolderError, match=r"only in pytorch_model\.bin\. A pickled file can run code"
    ) as error:
        Transformer(folder)
    command = re.search(r"python -c .*", str(error.value))
    assert command
    subprocess.run([sys.executable, *shlex.split(command.group())[1:]], cwd=folder, check=True)
    torch.testing.assert_close(Transformer(folder).eval()(BATCH), plain)


def test_a_folder_that_is_none_of_transformers(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "unheard-of"}')
    with pytest.raises(ModelFolderError, match=r"transformers cannot read .*config\.json"):
        Transformer(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelFolderError, match=r"neither modules\.json nor config\.json"):
        Transformer(folder)


def test_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(
        ModelFolderError, match=r"no vocabulary for its tokenizer: expected one of .*tokenizer\.json"
    ):
        Transformer(folder)
