"""The reranker's constructor, folders and errors."""

from __future__ import annotations

import json
import logging
import pickle
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification

from ray_st.models import SentenceTransformer
from ray_st.models.folder_files import ModelFolderError
from ray_st.models.reranker.cross_encoder import CrossEncoder
from reranker_folders import save_classifier, text_pairs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("bert") / "plain", "bert")


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_what_it_knows(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu")
    assert (model.num_labels, model.max_length, model.max_seq_length) == (1, 66, 66)
    assert isinstance(model.activation_fn, nn.Sigmoid)
    assert model.default_activation_function is model.activation_fn
    assert model.config is model.model.config
    assert model.device == torch.device("cpu")
    assert "activation_fn" not in dict(model.named_children())
    assert model.without_padding
    assert "BertForSequenceClassification, num_labels=1" in repr(model)
    model.max_length = 40
    assert model.tokenizer.model_max_length == 40


def test_logits_are_those_of_transformers(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu").eval()
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    features = model.tokenize(text_pairs(9))
    kept = {**features}
    with torch.no_grad():
        torch.testing.assert_close(model(features)["scores"], plain(**features).logits, atol=1e-6, rtol=0)
    assert features == kept


@pytest.mark.parametrize(
    "options",
    [
        {"automodel_args": {"dtype": torch.float64}, "tokenizer_args": {"model_max_length": 30}},
        {"model_kwargs": {"dtype": torch.float64}, "processor_kwargs": {"model_max_length": 30}},
        {"model_kwargs": {"dtype": torch.float64}, "tokenizer_kwargs": {"model_max_length": 30}},
        {"model_kwargs": {"dtype": torch.float64}, "max_length": 30},
    ],
    ids=str,
)
def test_older_and_later_names(folder: Path, options: dict[str, Any]) -> None:
    model = CrossEncoder(
        model_name=folder,
        device="cpu",
        default_activation_function=nn.Identity(),
        classifier_dropout=0.3,
        **options,
    )
    assert (model.max_length, model.model.dtype) == (30, torch.float64)
    assert isinstance(model.activation_fn, nn.Identity)
    assert model.model.dropout.p == 0.3


def test_both_names_of_an_argument(folder: Path) -> None:
    with pytest.raises(ValueError, match="activation_fn is another name of default_activation_function"):
        CrossEncoder(folder, default_activation_function=nn.Identity(), activation_fn=nn.Sigmoid())
    with pytest.raises(ValueError, match="needs model_name_or_path"):
        CrossEncoder()
    with pytest.raises(
        ValueError, match="backend must be one of 'torch', 'onnx', 'openvino'; got 'tensorrt'"
    ):
        CrossEncoder(folder, backend="tensorrt")
    with pytest.raises(ValueError, match="num_labels must be at least 1; got 0"):
        CrossEncoder(folder, num_labels=0)
    with pytest.raises(ValueError, match="no prompt named 'q'"):
        CrossEncoder(folder, default_prompt_name="q")


def test_longest_pairs_have_positions(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert CrossEncoder(folder, max_length=100, device="cpu").max_length == 66
    assert "max_seq_length=100 is reduced to 66" in caplog.text


def test_a_plain_encoder_gets_a_new_head(tiny_encoder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = CrossEncoder(tiny_encoder, num_labels=3, device="cpu")
    assert "classifier.weight" in caplog.text
    assert "bert.pooler.dense.weight" in caplog.text
    assert "new and untrained" in caplog.text
    assert (model.num_labels, model.model.classifier.out_features) == (3, 3)
    assert isinstance(model.activation_fn, nn.Identity)
    encoder = SentenceTransformer(tiny_encoder, device="cpu")[0].auto_model
    assert torch.equal(
        model.model.bert.embeddings.word_embeddings.weight, encoder.embeddings.word_embeddings.weight
    )
    assert CrossEncoder(tiny_encoder, device="cpu").num_labels == 1


def test_missing_weights_of_the_encoder(tiny_encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for file in tiny_encoder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelFolderError, match=r"are missing: bert\.encoder\.layer\.1\.output\.dense\.weight"
    ):
        CrossEncoder(tmp_path)


def test_another_number_of_labels(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(
        ModelFolderError, match=r"does not fit num_labels=3: classifier.*ignore_mismatched_sizes"
    ):
        CrossEncoder(folder, num_labels=3)
    model = CrossEncoder(folder, num_labels=3, device="cpu", model_kwargs={"ignore_mismatched_sizes": True})
    assert model.model.classifier.out_features == 3
    assert "new and untrained" in caplog.text


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelFolderError, match=r"weights only in pytorch_model\.bin"):
        CrossEncoder(tmp_path)


def test_saved_and_opened(folder: Path, tmp_path: Path) -> None:
    model = CrossEncoder(
        folder, device="cpu", max_length=20, prompts={"query": "find : "}, default_prompt_name="query"
    )
    model.activation_fn = nn.Tanh()
    model.save_pretrained(tmp_path)
    again = CrossEncoder(tmp_path, device="cpu")
    assert (again.prompts, again.default_prompt_name) == ({"query": "find : "}, "query")
    assert isinstance(again.activation_fn, nn.Tanh)
    assert again.max_length == 20
    features = model.tokenize(text_pairs(5))
    torch.testing.assert_close(again(features)["scores"], model(features)["scores"], atol=0, rtol=0)
    assert read(tmp_path / "config.json")["sentence_transformers"] == {
        "activation_fn": "torch.nn.modules.activation.Tanh"
    }
    assert not list(tmp_path.glob("*.bin"))
    assert "CrossEncoder" in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", ["torch.nn.modules.linear.Identity", "torch.nn.Tanh"])
def test_older_folders(folder: Path, tmp_path: Path, name: str) -> None:
    for settings in (
        {"sbert_ce_default_activation_function": name},
        {"sentence_transformers": {"version": "4.1.0", "activation_fn": name}},
    ):
        for file in folder.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "config.json").write_text(json.dumps({**read(folder / "config.json"), **settings}))
        model = CrossEncoder(tmp_path, device="cpu")
        assert type(model.activation_fn).__name__ == name.rpartition(".")[2]
        model.save_pretrained(tmp_path / "new")
        assert "sbert_ce_default_activation_function" not in read(tmp_path / "new" / "config.json")


def test_an_activation_from_elsewhere_must_be_trusted(folder: Path, tmp_path: Path) -> None:
    model = CrossEncoder(folder, device="cpu")
    model.save_pretrained(tmp_path)
    settings = read(tmp_path / "config_sentence_transformers.json")
    settings["activation_fn"] = "fractions.Fraction"
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(
        ModelFolderError, match=r"'fractions\.Fraction' is not one of torch\.nn's activations"
    ):
        CrossEncoder(tmp_path)
    assert CrossEncoder(tmp_path, trust_remote_code=True, device="cpu").activation_fn == 0
    assert isinstance(CrossEncoder(tmp_path, activation_fn=nn.Tanh(), device="cpu").activation_fn, nn.Tanh)


def test_a_function_cannot_be_stored(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = CrossEncoder(folder, device="cpu", activation_fn=torch.tanh)
    model.save_pretrained(tmp_path)
    assert "can only name the class of an activation" in caplog.text
    assert isinstance(CrossEncoder(tmp_path, device="cpu").activation_fn, nn.Sigmoid)


def test_an_embedders_encoder_gets_a_new_head(tiny_folder: Path, tmp_path: Path) -> None:
    embedder = SentenceTransformer(tiny_folder, device="cpu")
    model = CrossEncoder(tiny_folder, num_labels=1, device="cpu")
    theirs = embedder[0].auto_model.state_dict()
    ours = model.model.base_model.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert (model.prompts, model.activation_fn.__class__) == ({}, nn.Sigmoid)
    model.save_pretrained(tmp_path)
    saved = CrossEncoder(tmp_path, device="cpu")
    np.testing.assert_array_equal(saved.predict(("a", "b")), model.predict(("a", "b")))
    assert CrossEncoder(tiny_folder, num_labels=3, device="cpu").predict(("a", "b")).shape == (3,)


def test_the_kinds_of_folders_are_told_apart(folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="holds a SentenceTransformer, not a CrossEncoder"):
        CrossEncoder(tiny_folder)
    CrossEncoder(folder, device="cpu").save_pretrained(tmp_path)
    with pytest.raises(ModelFolderError, match="holds a CrossEncoder, not a SentenceTransformer"):
        SentenceTransformer(tmp_path)
    for name in ("modules.json", "config_sentence_transformers.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ModelFolderError, match="holds a CrossEncoder, not a SentenceTransformer"):
        SentenceTransformer(tmp_path)


def test_rerankers_of_other_modules(folder: Path, tmp_path: Path) -> None:
    CrossEncoder(folder, device="cpu").save_pretrained(tmp_path)
    modules = read(tmp_path / "modules.json")
    score = {"idx": 1, "name": "1", "path": "1_LogitScore", "type": "sentence_transformers.x.LogitScore"}
    (tmp_path / "modules.json").write_text(json.dumps([*modules, score]))
    with pytest.raises(ModelFolderError, match=r"lists \['Transformer', 'LogitScore'\]"):
        CrossEncoder(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    settings = read(tmp_path / "sentence_bert_config.json")
    (tmp_path / "sentence_bert_config.json").write_text(
        json.dumps({**settings, "transformer_task": "fill-mask"})
    )
    with pytest.raises(ModelFolderError, match="found the task 'fill-mask'"):
        CrossEncoder(tmp_path)


def test_what_is_not_supported_is_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    CrossEncoder(folder, device="cpu").save_pretrained(tmp_path)
    settings = read(tmp_path / "config_sentence_transformers.json")
    wider = {**settings, "keep_in_fp32_modules": ["0.model.classifier"]}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(wider))
    CrossEncoder(tmp_path, device="cpu")
    assert "(keep_in_fp32_modules), which is not supported" in caplog.text
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="Rerankers with adapters are not supported"):
        CrossEncoder(tmp_path)


def test_causal_language_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_classifier(tmp_path, "llama", head=False)
    config = read(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ModelFolderError, match=r"causal language model \(LlamaForCausalLM\)"):
        CrossEncoder(tmp_path)
    assert CrossEncoder(tmp_path, num_labels=1, device="cpu").num_labels == 1
    assert "score.weight" in caplog.text


def test_a_decoder_learns_its_padding_token(tmp_path: Path) -> None:
    save_classifier(tmp_path, "llama", pad_token_id=None)
    model = CrossEncoder(tmp_path, device="cpu")
    assert model.config.pad_token_id == model.tokenizer.pad_token_id == 1
    assert model(model.tokenize(text_pairs(5)))["scores"].shape == (5, 1)


def test_no_padding_token_at_all(tmp_path: Path) -> None:
    save_classifier(tmp_path, "llama", pad_token_id=None)
    with pytest.raises(ModelFolderError, match="neither a padding token nor an end token"):
        CrossEncoder(tmp_path, tokenizer_kwargs={"pad_token": None, "eos_token": None})


def test_weights_are_loaded_in_place(folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    model, other = (CrossEncoder(folder, device="cpu") for _ in range(2))
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1)
    other.save_pretrained(tmp_path)
    before = model.model.classifier.weight
    model.load_weights(tmp_path)
    assert model.model.classifier.weight is before
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(ModelFolderError, match="holds a SentenceTransformer"):
        model.load_weights(tiny_folder)


def test_weights_of_another_shape(folder: Path, tmp_path: Path) -> None:
    save_classifier(tmp_path / "three", "bert", num_labels=3)
    with pytest.raises(ValueError, match="do not fit this model"):
        CrossEncoder(folder, device="cpu").load_weights(tmp_path / "three")
    save_classifier(tmp_path / "electra", "electra")
    with pytest.raises(ValueError, match="of the kind 'electra'; this model is a 'bert'"):
        CrossEncoder(folder, device="cpu").load_weights(tmp_path / "electra")


def test_copies(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu").eval()
    features = model.tokenize(text_pairs(7))
    expected = model(features)["scores"]
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copy(features)["scores"], expected)
        assert copy.without_padding


def test_gradient_checkpointing(folder: Path) -> None:
    model = CrossEncoder(folder, device="cpu")
    features = model.tokenize(text_pairs(7))
    model(features)["scores"].sum().backward()
    plain = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model.train()
    model(features)["scores"].sum().backward()
    again = [weight.grad for weight in model.parameters() if weight.grad is not None]
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_tokenizer_in_python_or_a_method_of_ones_own(folder: Path) -> None:
    class Own(CrossEncoder):
        def tokenize(self, pairs: Any, **options: object) -> Any:
            return super().tokenize([(second, first) for first, second in pairs])

    own, model = Own(folder, device="cpu"), CrossEncoder(folder, device="cpu")
    assert own.pair_encoder() is None
    pairs = text_pairs(9)
    turned = [(second, first) for first, second in pairs]
    assert own.predict(pairs) == pytest.approx(model.predict(turned), abs=1e-6)
    assert own.predict(pairs, prompt="find : ").shape == (9,)


def test_no_warning_for_a_whole_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        CrossEncoder(folder, device="cpu")
    assert not caplog.records


def test_a_published_reranker_has_its_card(folder: Path, tmp_path: Path) -> None:
    model = CrossEncoder(folder, device="cpu")
    model.save_pretrained(tmp_path, model_name="me/my-reranker", train_datasets=["pairs"])
    text = (tmp_path / "README.md").read_text()
    assert "pipeline_tag: text-ranking" in text
    assert "- cross-encoder\n- reranker" in text
    assert "CrossEncoder('me/my-reranker')" in text
    assert "It was trained on pairs." in text
