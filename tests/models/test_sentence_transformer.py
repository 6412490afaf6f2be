from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import MPNetConfig, MPNetModel

from ray_st import SentenceTransformer, SimilarityFunction
from ray_st.models import Dense, Normalize, Pooling, Transformer

TEXTS = ["a man eats pasta", "the weather is good", "query"]


def test_a_saved_model_is_the_same_model(tiny_encoder: Path, tmp_path: Path) -> None:
    model = SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), Dense(32, 8), Normalize()])
    model.save_pretrained(str(tmp_path))
    np.testing.assert_array_equal(SentenceTransformer(str(tmp_path)).encode(TEXTS), model.encode(TEXTS))


def test_saved_over_itself(tiny_encoder: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), Dense(32, 8)]).save(tmp_path)
    model = SentenceTransformer(tmp_path)
    before = model.encode(TEXTS)
    model.save(tmp_path)
    np.testing.assert_array_equal(model.encode(TEXTS), before)
    np.testing.assert_array_equal(SentenceTransformer(tmp_path).encode(TEXTS), before)


def test_survives_pickling(tiny_model: Any) -> None:
    tiny_model.similarity_fn_name = "dot"
    back = pickle.loads(pickle.dumps(tiny_model))
    np.testing.assert_array_equal(back.encode(TEXTS), tiny_model.encode(TEXTS))
    assert (back.similarity_fn_name, back.prompts) == ("dot", tiny_model.prompts)


def test_takes_a_batch_of_its_own_tokenizer(tiny_model: Any) -> None:
    batch = tiny_model.tokenize(TEXTS)
    before = {name: value.clone() for name, value in batch.items()}
    found = tiny_model(batch)
    assert found["token_embeddings"].shape == (*batch["input_ids"].shape, 32)
    assert found["sentence_embedding"].shape == (3, 32)
    torch.testing.assert_close(batch, before)


def test_every_weight_gets_a_gradient(tiny_encoder: Path) -> None:
    model = SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), Dense(32, 8)])
    model(model.tokenize(TEXTS))["sentence_embedding"].square().sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_similarity(name: str, tiny_folder: Path) -> None:
    model = SentenceTransformer(tiny_folder, similarity_fn_name=name)
    embeddings = model.encode(TEXTS)
    found = model.similarity(embeddings, embeddings[:2])
    expected = SimilarityFunction.to_similarity_fn(name)(embeddings, embeddings[:2])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        model.similarity_pairwise(embeddings, embeddings),
        model.similarity(embeddings, embeddings).diagonal(),
        atol=1e-3,
        rtol=1e-3,
    )


def test_similarity_can_be_changed_and_is_checked(tiny_model: Any) -> None:
    assert tiny_model.similarity_fn_name == "cosine"
    tiny_model.similarity_fn_name = SimilarityFunction.DOT_PRODUCT
    assert tiny_model.similarity_fn_name == "dot"
    with pytest.raises(ValueError, match=r"must be one of \['cosine', .*got 'maxsim'"):
        tiny_model.similarity_fn_name = "maxsim"


def test_dimension(tiny_encoder: Path) -> None:
    parts = [Transformer(tiny_encoder), Pooling(32, ["cls", "mean"])]
    model = SentenceTransformer(modules=parts)
    assert model.get_sentence_embedding_dimension() == model.get_embedding_dimension() == 64
    assert SentenceTransformer(modules=[*parts, Dense(64, 8), Normalize()]).get_embedding_dimension() == 8
    assert SentenceTransformer(modules=parts, truncate_dim=5).get_embedding_dimension() == 5
    assert SentenceTransformer(modules=parts, truncate_dim=99).get_embedding_dimension() == 64


def test_truncated_for_a_while(tiny_model: Any) -> None:
    with tiny_model.truncate_sentence_embeddings(7):
        assert tiny_model.encode(TEXTS).shape == (3, 7)
    assert tiny_model.encode(TEXTS).shape == (3, 32)


def test_what_the_first_module_keeps(tiny_model: Any) -> None:
    assert tiny_model.max_seq_length == tiny_model.get_max_seq_length() == 64
    tiny_model.max_seq_length = 8
    assert tiny_model[0].max_seq_length == tiny_model.tokenizer.model_max_length == 8
    other = pickle.loads(pickle.dumps(tiny_model.tokenizer))
    tiny_model.tokenizer = other
    assert tiny_model[0].tokenizer is other
    assert tiny_model.config.hidden_size == 32
    assert (tiny_model.device, tiny_model.dtype) == (torch.device("cpu"), torch.float32)


def test_later_modules_get_the_encoders_type(tiny_encoder: Path, tmp_path: Path) -> None:
    SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), Dense(32, 8)]).save(tmp_path)
    model = SentenceTransformer(tmp_path, model_kwargs={"dtype": torch.bfloat16})
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert model.encode(TEXTS).shape == (3, 8)


@pytest.mark.parametrize("method", ["activation_checkpointing_enable", "gradient_checkpointing_enable"])
def test_activation_checkpointing(method: str, tiny_model: Any) -> None:
    tiny_model.train()
    tiny_model(tiny_model.tokenize(TEXTS))["sentence_embedding"].sum().backward()
    plain = [weight.grad.clone() for weight in tiny_model.parameters()]
    tiny_model.zero_grad()
    getattr(tiny_model, method)({"use_reentrant": False}, every_n_layers=1)
    assert tiny_model[0].auto_model.is_activation_checkpointing
    tiny_model(tiny_model.tokenize(TEXTS))["sentence_embedding"].sum().backward()
    torch.testing.assert_close([weight.grad for weight in tiny_model.parameters()], plain)


def test_activations_that_cannot_be_computed_again(tiny_model: Any, caplog: Any) -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    tiny_model[0].auto_model = MPNetModel(MPNetConfig(vocab_size=9, **sizes))
    tiny_model.activation_checkpointing_enable()
    SentenceTransformer(modules=[Dense(2, 2)]).gradient_checkpointing_enable()
    assert [record.message for record in caplog.records] == [
        f"gradient checkpointing has no effect on {kept}, which cannot compute activations again"
        for kept in ("MPNetModel", "Dense")
    ]


def test_evaluate(tiny_model: Any, tmp_path: Path) -> None:
    seen = tiny_model.evaluate(lambda model, path: (model, path), tmp_path / "a" / "b")
    assert seen == (tiny_model, str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b").is_dir()


def test_load_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    def make(out: int = 8) -> SentenceTransformer:
        return SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32), Dense(32, out)])

    trained, model = make(), make()
    with torch.no_grad():
        for weight in trained.parameters():
            weight += 0.01
    trained.save(tmp_path)
    weights = list(model.parameters())
    model.load_weights(tmp_path)
    np.testing.assert_array_equal(model.encode(TEXTS), trained.encode(TEXTS))
    assert all(one is other for one, other in zip(model.parameters(), weights, strict=True))
    with pytest.raises(ValueError, match="do not fit this model"):
        make(4).load_weights(tmp_path)
    with pytest.raises(
        ValueError, match=r"holds the modules \['Transformer', 'Pooling', 'Dense'\]; this model has"
    ):
        SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32)]).load_weights(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs a folder or a name on the Hub, or modules"),
        ({"modules": []}, "at least one module"),
        ({"model_name_or_path": ".", "modules": [Pooling(2)]}, "not both"),
        ({"modules": [Pooling(2)], "backend": "onnx"}, "this model has the modules Pooling"),
        ({"modules": [Pooling(2)], "similarity_fn_name": "near"}, "similarity function must be one of"),
        (
            {"model_name_or_path": "organisation/unknown"},
            "The Hub was not asked because HF_HUB_OFFLINE is set",
        ),
    ],
    ids=["nothing", "no modules", "both", "backend", "similarity", "unknown"],
)
def test_what_makes_no_model(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SentenceTransformer(**arguments)


def test_where_nothing_can_be_saved(tiny_model: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"saved into a folder; .*file is a file"):
        tiny_model.save(tmp_path / "file")
    with pytest.raises(ValueError, match="Only safetensors are written"):
        tiny_model.save(tmp_path, safe_serialization=False)


# ---- names of later releases ----


def test_the_first_and_the_last_module(tiny_model: Any) -> None:
    assert tiny_model._first_module() is tiny_model[0]
    assert tiny_model._last_module() is tiny_model[1]


def test_inputs_are_sentences(tiny_model: Any) -> None:
    for encode in (tiny_model.encode, tiny_model.encode_query, tiny_model.encode_document):
        np.testing.assert_array_equal(encode(inputs=["good", "bad"]), encode(["good", "bad"]))
        assert encode(inputs="good").shape == (32,)
        with pytest.raises(ValueError, match="inputs is another name of sentences: give only one"):
            encode("good", inputs="good")
        with pytest.raises(ValueError, match="encode needs sentences"):
            encode()
    with pytest.raises(ValueError, match="needs the pool that start_multi_process_pool"):
        tiny_model.encode_multi_process(inputs=["good"])


def test_no_precision_is_float32(tiny_model: Any) -> None:
    found = tiny_model.encode(["good"], precision=None)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, tiny_model.encode(["good"]))


def test_arguments_of_the_tokenizer_have_two_names(tiny_folder: Path, tiny_encoder: Path) -> None:
    options = {"padding_side": "left"}
    assert SentenceTransformer(tiny_folder, processor_kwargs=options).tokenizer.padding_side == "left"
    assert SentenceTransformer(tiny_folder, tokenizer_kwargs=options).tokenizer.padding_side == "left"
    with pytest.raises(ValueError, match="processor_kwargs is another name of tokenizer_kwargs"):
        SentenceTransformer(tiny_folder, tokenizer_kwargs=options, processor_kwargs=options)
    module = Transformer(
        tiny_encoder,
        model_kwargs={"attn_implementation": "eager"},
        processor_kwargs=options,
        config_kwargs={"num_labels": 7},
    )
    assert module.tokenizer.padding_side == "left"
    assert module.auto_model.config._attn_implementation == "eager"
    assert module.auto_model.config.num_labels == 7
    with pytest.raises(ValueError, match="model_kwargs is another name of model_args"):
        Transformer(tiny_encoder, model_args={}, model_kwargs={})


@pytest.mark.parametrize("prompt", [None, "query: "])
def test_preprocess_is_the_peers(tiny_folder: Path, tiny_model: Any, peer: Any, prompt: str | None) -> None:
    texts = ["good weather", "a man eats pasta and reads a document"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = peer.SentenceTransformer(str(tiny_folder), device="cpu").preprocess(texts, prompt=prompt)
    found = tiny_model.preprocess(texts, prompt=prompt)
    assert set(found) == {"input_ids", "attention_mask", "token_type_ids"} | (
        {"prompt_length"} if prompt else set()
    )
    for name, value in found.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(expected[name])), name
