from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ray_st.models import Module, Pooling, SentenceTransformer, Transformer
from ray_st.models.text_encoding import length_batches
from simulated_team import together

TEXTS = [
    "a man",
    "the weather is good " * 9,
    "pasta",
    "",
    "query: is it (sunny)?",
    "a b c d e f g",
    "pasta",
] * 3


def alone(model: Any, text: str) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(model.tokenize([text]))["sentence_embedding"][0].numpy()


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_rows_come_back_in_their_order(batch_size: int, tiny_model: Any) -> None:
    found = tiny_model.encode(TEXTS, batch_size=batch_size)
    np.testing.assert_allclose(found, np.stack([alone(tiny_model, text) for text in TEXTS]), atol=1e-5)
    assert found.dtype == np.float32


def test_batches_are_of_similar_length(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = tiny_model.forward
    monkeypatch.setattr(
        tiny_model, "forward", lambda f: (seen.append(f["attention_mask"].sum(1)), forward(f))[1]
    )
    tiny_model.encode(TEXTS, batch_size=4)
    lengths = torch.cat(seen).tolist()
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in seen] == [4, 4, 4, 4, 4, 1]


def test_length_batches() -> None:
    batches = length_batches([3, 9, 3, 1, 9], 2)
    assert [batch.tolist() for batch in batches] == [[1, 4], [0, 2], [3]]
    assert length_batches([], 2) == []


@pytest.mark.parametrize("make", [list, tuple, np.array], ids=["list", "tuple", "array"])
def test_texts_in_any_sequence(make: Callable[[list[str]], Sequence[str]], tiny_model: Any) -> None:
    np.testing.assert_array_equal(tiny_model.encode(make(TEXTS)), tiny_model.encode(TEXTS))


def test_forms_of_the_result(tiny_model: Any) -> None:
    array = tiny_model.encode(TEXTS)
    tensor = tiny_model.encode(TEXTS, convert_to_tensor=True)
    rows = tiny_model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(tensor, Tensor)
    assert not tensor.is_inference()
    assert isinstance(rows, list)
    np.testing.assert_array_equal(tensor.numpy(), array)
    np.testing.assert_array_equal(torch.stack(rows).numpy(), array)


def test_one_text_alone(tiny_model: Any) -> None:
    whole = tiny_model.encode(["a man"])
    np.testing.assert_array_equal(tiny_model.encode("a man"), whole[0])
    assert tiny_model.encode("a man", convert_to_tensor=True).shape == (32,)
    assert tiny_model.encode("a man", convert_to_numpy=False).shape == (32,)
    assert set(tiny_model.encode("a man", output_value=None)) >= {"input_ids", "sentence_embedding"}


def test_no_texts(tiny_model: Any) -> None:
    assert tiny_model.encode([]).shape == (0, 32)
    assert tiny_model.encode([], convert_to_tensor=True, truncate_dim=3).shape == (0, 3)
    assert tiny_model.encode([], convert_to_numpy=False) == []
    assert tiny_model.encode([], output_value="token_embeddings") == []
    assert tiny_model.encode([], precision="int8").shape == (0, 32)


def test_token_embeddings_have_no_padding(tiny_model: Any) -> None:
    for side in ("right", "left"):
        tiny_model.tokenizer.padding_side = side
        found = tiny_model.encode(TEXTS, output_value="token_embeddings", batch_size=5)
        assert [len(rows) for rows in found] == [len(ids) for ids in tiny_model.token_encoder()(TEXTS)]


def test_all_features_of_each_text(tiny_model: Any) -> None:
    found = tiny_model.encode(TEXTS, output_value=None, prompt="a ", truncate_dim=4)
    assert [item["prompt_length"] for item in found] == [2] * len(TEXTS)
    expected = tiny_model.encode(TEXTS, prompt="a ", truncate_dim=4)
    np.testing.assert_array_equal(
        torch.stack([item["sentence_embedding"] for item in found]).numpy(), expected
    )


def test_normalised_and_truncated(tiny_model: Any) -> None:
    full = tiny_model.encode(TEXTS)
    short = tiny_model.encode(TEXTS, truncate_dim=5)
    np.testing.assert_array_equal(short, full[:, :5])
    unit = tiny_model.encode(TEXTS, truncate_dim=5, normalize_embeddings=True)
    np.testing.assert_allclose(unit, short / np.linalg.norm(short, axis=1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(
    ("precision", "dtype", "width"),
    [
        ("float32", "float32", 32),
        ("int8", "int8", 32),
        ("uint8", "uint8", 32),
        ("binary", "int8", 4),
        ("ubinary", "uint8", 4),
    ],
)
def test_precision(precision: str, dtype: str, width: int, tiny_model: Any) -> None:
    found = tiny_model.encode(TEXTS, precision=precision)
    assert (found.dtype, found.shape) == (dtype, (len(TEXTS), width))
    tensor = tiny_model.encode(TEXTS, precision=precision, convert_to_tensor=True)
    np.testing.assert_array_equal(tensor.numpy(), found)


def test_int8_of_a_single_text_has_no_range(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="int8 needs the range of each dimension"):
        tiny_model.encode("a man", precision="int8")


def test_prompts(tiny_folder: Any) -> None:
    model = SentenceTransformer(tiny_folder, prompts={"query": "query: ", "document": "text: "})
    expected = model.encode(["query: " + text for text in TEXTS])
    np.testing.assert_array_equal(model.encode(TEXTS, prompt_name="query"), expected)
    np.testing.assert_array_equal(model.encode(TEXTS, prompt="query: "), expected)
    np.testing.assert_array_equal(model.encode(TEXTS, prompt="query: ", prompt_name="document"), expected)
    np.testing.assert_array_equal(model.encode_query(TEXTS), expected)
    np.testing.assert_array_equal(model.encode_document(TEXTS), model.encode(TEXTS, prompt_name="document"))
    np.testing.assert_array_equal(model.encode_document(TEXTS, prompt="query: "), expected)
    assert not np.allclose(model.encode(TEXTS), expected)
    with pytest.raises(
        ValueError, match=r"no prompt named 'passage'; the model's prompts are \['document', 'query'\]"
    ):
        model.encode(TEXTS, prompt_name="passage")


def test_the_default_prompt(tiny_folder: Any) -> None:
    model = SentenceTransformer(tiny_folder, prompts={"q": "query: "}, default_prompt_name="q")
    np.testing.assert_array_equal(model.encode(TEXTS), model.encode(TEXTS, prompt="query: "))
    np.testing.assert_array_equal(model.encode(TEXTS, prompt=""), model.encode(TEXTS, prompt_name="query"))
    with pytest.raises(ValueError, match="no prompt named 'x'"):
        SentenceTransformer(tiny_folder, default_prompt_name="x")


def test_tokens_of_the_prompt_can_be_left_out(tiny_encoder: Any) -> None:
    model = SentenceTransformer(
        modules=[Transformer(tiny_encoder), Pooling(32, "mean", include_prompt=False)]
    )
    found = model.encode(TEXTS, prompt="query: ")
    tokens = model.encode(["query: " + text for text in TEXTS], output_value="token_embeddings")
    kept = [rows[len(["[CLS]", "query", ":"]) :].mean(0).cpu().numpy() for rows in tokens]
    np.testing.assert_allclose(found, np.stack(kept), atol=1e-5)
    model.set_pooling_include_prompt(True)
    assert not np.allclose(model.encode(TEXTS, prompt="query: "), found)


@pytest.mark.parametrize("entry", [None, 3, ("a", "b"), ["a"]], ids=str)
def test_what_is_no_text(entry: Any, tiny_model: Any) -> None:
    kind = type(entry).__name__
    with pytest.raises(ValueError, match=f"Texts must be strings; entry 2 is {kind}"):
        tiny_model.encode(["a", "b", entry])
    with pytest.raises(ValueError, match=f"Texts must be strings; entry 2 is {kind}"):
        tiny_model.tokenize(["a", "b", entry])


def test_half_of_a_surrogate_pair(tiny_model: Any) -> None:
    """Python holds it, no tokenizer takes it: ``json.loads`` makes it of a broken escape."""
    match = r"in entry 1, 'a \\ud83d b', character 2 is half of a surrogate pair, '\\ud83d'"
    for call in (tiny_model.encode, tiny_model.tokenize, tiny_model.encode_query):
        with pytest.raises(ValueError, match=match):
            call(["good \U0001f600", "a \ud83d b"])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; got 0"),
        ({"precision": "int4"}, "precision must be one of float32, .*; got 'int4'"),
        ({"output_value": "tokens"}, "output_value must be 'sentence_embedding', .*; got 'tokens'"),
    ],
    ids=str,
)
def test_options_that_do_not_exist(option: dict[str, Any], message: str, tiny_model: Any) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model.encode(TEXTS, **option)


def test_training_mode_is_given_back(tiny_model: Any) -> None:
    tiny_model.train()
    tiny_model[0].eval()
    before = [module.training for module in tiny_model.modules()]
    tiny_model.encode(TEXTS)
    assert [module.training for module in tiny_model.modules()] == before


def test_progress_bar(tiny_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model.encode(TEXTS)
    assert capsys.readouterr().err == ""
    tiny_model.encode(TEXTS, show_progress_bar=True, batch_size=3)
    assert "Batches: 100%" in capsys.readouterr().err


def test_progress_bar_follows_the_log(
    tiny_model: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ray_st.models.sentence_transformer"):
        tiny_model.encode(TEXTS)
    assert "Batches" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [2, 3])
def test_dealt_batches_give_the_same_bits(workers: int, tiny_model: Any) -> None:
    options = [{}, {"precision": "int8"}, {"convert_to_tensor": True}, {"output_value": "token_embeddings"}]
    expected = [tiny_model.encode(TEXTS, batch_size=2, **option) for option in options]

    def encoded(team: Any) -> list[Any]:
        model = copy.deepcopy(tiny_model)
        model.team = team
        return [model.encode(TEXTS, batch_size=2, **option) for option in options]

    for found in together(workers, encoded):
        for one, whole in zip(found, expected, strict=True):
            assert all((a == b).all() for a, b in zip(one, whole, strict=True))


class Lengths(Module):
    """A first module that takes no token ids."""

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        return {"lengths": torch.tensor([[float(len(text))] for text in texts])}

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {**features, "sentence_embedding": features["lengths"]}


def test_a_first_module_without_token_ids() -> None:
    model = SentenceTransformer(modules=[Lengths()])
    assert model.token_encoder() is None
    assert model.get_embedding_dimension() is None
    assert model.encode(TEXTS, batch_size=2)[:, 0].tolist() == [len(text) for text in TEXTS]
    assert model.encode(TEXTS, prompt="abc")[:, 0].tolist() == [len(text) + 3 for text in TEXTS]


def test_a_tokenize_of_ones_own_is_used(tiny_folder: Any) -> None:
    class Shouting(SentenceTransformer):
        def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
            return super().tokenize(["!" + text for text in texts])

    model = Shouting(tiny_folder)
    assert model.token_encoder() is None
    plain = SentenceTransformer(tiny_folder)
    np.testing.assert_allclose(model.encode(TEXTS), plain.encode(["!" + text for text in TEXTS]), atol=1e-5)


def test_bfloat16_comes_back_as_float32(tiny_folder: Any) -> None:
    model = SentenceTransformer(tiny_folder, model_kwargs={"dtype": torch.bfloat16})
    assert model.dtype == torch.bfloat16
    assert model.encode(TEXTS).dtype == np.float32
    assert isinstance(model[0].auto_model, nn.Module)
