from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, processors
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ray_st.models import TokenEncoder, Transformer
from ray_st.models.tokens import own_backend

TEXTS = ["the man eats pasta", "", "good", "Weather " * 60, "a query: is it (sunny)?", "ÄÖ ß 東京"]


@pytest.fixture
def tokenizer(tiny_encoder: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_encoder)


@pytest.mark.parametrize("limit", [None, 7, 64])
@pytest.mark.parametrize("side", ["left", "right"])
def test_encode_then_pad_is_what_the_tokenizer_does(tokenizer: Any, limit: int | None, side: str) -> None:
    tokenizer.padding_side = side
    encoder = TokenEncoder(tokenizer, limit)
    found = encoder.pad(encoder(TEXTS))
    plain = tokenizer(
        TEXTS, padding=True, truncation=limit is not None, max_length=limit, return_tensors="pt"
    )
    assert list(found) == ["input_ids", "attention_mask", "token_type_ids"]
    for name, value in found.items():
        assert value.dtype == torch.int64
        torch.testing.assert_close(value, plain[name])


def test_tokenize_is_the_same(tiny_model: Any) -> None:
    encoder = tiny_model.token_encoder()
    torch.testing.assert_close(encoder.pad(encoder(TEXTS)), tiny_model.tokenize(TEXTS))


def test_ids_are_compact_and_unpadded(tokenizer: Any) -> None:
    ids = TokenEncoder(tokenizer, 7)(TEXTS)
    assert {row.dtype for row in ids} == {np.dtype(np.int32)}
    assert [len(row) for row in ids][:3] == [6, 2, 3]
    assert max(map(len, ids)) == 7


def test_texts_in_many_calls_of_the_tokenizer_keep_their_order(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = TokenEncoder(tokenizer)(TEXTS)
    monkeypatch.setattr("ray_st.models.tokens._CHUNK", 2)
    for one, other in zip(TokenEncoder(tokenizer)(TEXTS), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_tokenizer_without_a_fast_backend_gives_the_same(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = TokenEncoder(tokenizer, 7)(TEXTS)
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    for one, other in zip(TokenEncoder(tokenizer, 7)(TEXTS), fast, strict=True):
        np.testing.assert_array_equal(one, other)


def test_lower_case() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"[U]": 0, "good": 1}, "[U]")))
    assert TokenEncoder(tokenizer)(["Good"])[0].tolist() == [0]
    assert TokenEncoder(tokenizer, do_lower_case=True)(["Good"])[0].tolist() == [1]


def test_survives_pickling(tokenizer: Any) -> None:
    encoder = pickle.loads(pickle.dumps(TokenEncoder(tokenizer, 7)))
    torch.testing.assert_close(encoder.pad(encoder(TEXTS)), encoder.pad(TokenEncoder(tokenizer, 7)(TEXTS)))


def test_nothing_in_nothing_out(tokenizer: Any) -> None:
    encoder = TokenEncoder(tokenizer)
    assert encoder([]) == []
    assert encoder.pad([])["input_ids"].shape == (0, 0)


def words(**special: Any) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(WordLevel({"[U]": 0, "a": 1, "b": 2, "<cls>": 3, "<pad>": 4}, "[U]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special.pop("typed", False):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A:0 <cls>:2", pair=None, special_tokens=[("<cls>", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **special,
    )


def test_types_that_a_tokenizer_gives_its_special_tokens() -> None:
    tokenizer = words(typed=True, pad_token="<pad>", cls_token="<cls>")
    tokenizer._pad_token_type_id = 3  # as XLNet has it
    encoder, texts = TokenEncoder(tokenizer), ["a b a", "b"]
    found = encoder.pad(encoder(texts))
    assert found["token_type_ids"].tolist() == [[0, 0, 0, 2], [0, 2, 3, 3]]
    torch.testing.assert_close(
        dict(tokenizer(texts, padding=True, return_tensors="pt")), found, check_dtype=True
    )


def test_without_a_padding_token_only_equal_lengths_go_together() -> None:
    encoder = TokenEncoder(words())
    assert encoder.pad(encoder(["a b", "b a"]))["input_ids"].tolist() == [[1, 2], [2, 1]]
    with pytest.raises(ValueError, match=r"need a padding token .*tokenizer\.pad_token"):
        encoder.pad(encoder(["a b", "b"]))


def test_prompt_length_counts_what_stands_before_the_text(tokenizer: Any) -> None:
    encoder = TokenEncoder(tokenizer)
    assert encoder.prompt_length("query: ") == len(["[CLS]", "query", ":"])
    assert TokenEncoder(words()).prompt_length("a b") == 2


def test_takes_on_the_models_limit_and_follows_its_tokenizer(tiny_encoder: Path) -> None:
    transformer = Transformer(tiny_encoder, max_seq_length=9)
    assert transformer.token_encoder().max_seq_length == 9
    transformer.max_seq_length = 5
    assert len(transformer.token_encoder()(["good " * 20])[0]) == 5


def test_an_own_backend_is_the_same_but_for_truncation_and_padding(tokenizer: Any) -> None:
    tokenizer.add_tokens(["foo bar", AddedToken("<zz>", special=True, lstrip=True)])
    own = own_backend(tokenizer.backend_tokenizer)
    assert own.to_str() == tokenizer.backend_tokenizer.to_str()
    tokenizer("a", padding="max_length", truncation=True, max_length=5)
    assert (own.truncation, own.padding) == (None, None)


def test_what_others_ask_of_the_tokenizer_makes_no_difference(tiny_model: Any) -> None:
    wanted = tiny_model.encode(TEXTS)
    done = threading.Event()

    def others() -> None:
        while not done.is_set():
            tiny_model.tokenizer(TEXTS, truncation=True, max_length=3, padding="max_length")

    thread = threading.Thread(target=others)
    thread.start()
    try:
        found = [tiny_model.encode(TEXTS) for _ in range(20)]
    finally:
        done.set()
        thread.join()
    for array in found:
        np.testing.assert_array_equal(array, wanted)


def test_texts_without_tokens_are_one_column_wide() -> None:
    encoder = TokenEncoder(words())
    found = encoder.pad(encoder(["", ""]))
    assert found["attention_mask"].tolist() == [[0], [0]]
    assert found["input_ids"].shape == (2, 1)
