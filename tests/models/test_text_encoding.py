from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ray_st.models import Module, Pooling, SentenceTransformer, Transformer
from ray_st.models.text_encoding import length_batches, length_windows
from ray_st.models.tokens import TokenEncoder
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


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of two batches; TEXTS in batches of four fill three."""
    monkeypatch.setattr("ray_st.models.text_encoding.WINDOW_BATCHES", 2)


def test_windows_are_of_similar_length_and_a_single_one_keeps_the_order(small_windows: None) -> None:
    texts = ["a", "bbb", "cc", {"task": "dddd"}, "e"]
    assert [window.tolist() for window in length_windows(texts, 1)] == [[3, 1], [2, 0], [4]]
    assert [window.tolist() for window in length_windows(texts, 3)] == [[0, 1, 2, 3, 4]]
    assert [window.tolist() for window in length_windows([], 3)] == [[]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "query: "},
        {"precision": "int8"},
        {"normalize_embeddings": True, "truncate_dim": 8},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"output_value": "token_embeddings"},
    ],
    ids=str,
)
def test_windows_do_not_change_results(
    options: dict[str, Any], tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tiny_model.encode(TEXTS, batch_size=4, **options)
    monkeypatch.setattr("ray_st.models.text_encoding.WINDOW_BATCHES", 2)
    found = tiny_model.encode(TEXTS, batch_size=4, **options)
    assert type(found) is type(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1 if options.get("precision") else 1e-6)


def test_windows_are_tokenized_one_ahead(
    small_windows: None, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized: list[list[str]] = []
    computed: list[list[int]] = []
    call, forward = TokenEncoder.__call__, tiny_model.forward
    monkeypatch.setattr(
        TokenEncoder, "__call__", lambda self, texts: (tokenized.append(texts), call(self, texts))[1]
    )

    def computing(features: dict[str, Any]) -> dict[str, Any]:
        computed.append(features["attention_mask"].sum(1).tolist())
        assert len(tokenized) <= (len(computed) + 1) // 2 + 1
        return forward(features)  # type: ignore[no-any-return]

    monkeypatch.setattr(tiny_model, "forward", computing)
    tiny_model.encode(TEXTS, batch_size=4)
    by_characters = sorted(TEXTS, key=len, reverse=True)
    assert tokenized == [by_characters[:8], by_characters[8:16], by_characters[16:]]
    assert [len(batch) for batch in computed] == [4, 4, 4, 4, 4, 1]
    for window in range(3):
        lengths = [length for batch in computed[2 * window : 2 * window + 2] for length in batch]
        assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_in_a_later_window_is_raised_and_no_thread_is_left(
    error: type[BaseException], small_windows: None, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, calls = TokenEncoder.__call__, []

    def failing(self: TokenEncoder, texts: Sequence[str]) -> list[np.ndarray]:
        calls.append(threading.current_thread().name)
        if len(calls) == 3:
            raise error("no tokens")
        return call(self, texts)

    monkeypatch.setattr(TokenEncoder, "__call__", failing)
    tiny_model.train()
    with pytest.raises(error, match="no tokens"):
        tiny_model.encode(TEXTS, batch_size=4)
    assert calls[0] == threading.current_thread().name
    assert all(name.startswith("ray_st-ahead") for name in calls[1:])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ray_st-ahead")]
    assert tiny_model.training


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
@pytest.mark.parametrize("window", [2, 9], ids=["windows", "a window"])
def test_dealt_batches_give_the_same_bits(
    window: int, workers: int, tiny_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.models.text_encoding.WINDOW_BATCHES", window)
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
