"""Pairs joined from the ids of their texts are what the tokenizer makes of them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from ray_st.models.reranker.pair_encoder import PairEncoder, PairTemplate, longest_first
from ray_st.util.states import state_of
from reranker_folders import pair_tokenizer, text_pairs

KINDS = ["bert", "roberta", "qwen3"]


def joined(encoder: PairEncoder, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    firsts, seconds = zip(*pairs, strict=True)
    return encoder.join(encoder(firsts), encoder(seconds))


def by_tokenizer(tokenizer: Any, pairs: list[tuple[str, str]], limit: int | None) -> Any:
    firsts, seconds = map(list, zip(*pairs, strict=True))
    cut = {"truncation": True, "max_length": limit} if limit else {}
    return tokenizer(firsts, seconds, padding=True, return_tensors="pt", **cut)


def assert_same(tokenizer: Any, limit: int | None, pairs: list[tuple[str, str]], whole: bool = True) -> None:
    encoder = PairEncoder(tokenizer, limit)
    found = joined(encoder.whole if whole else encoder, pairs)
    expected = by_tokenizer(tokenizer, pairs, limit)
    assert set(found) == set(expected)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("limit", [None, 8, 9, 16, 23, 200])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_tokenizer_makes_of_pairs(kind: str, side: str, limit: int | None) -> None:
    pairs = [*text_pairs(60), ("", "the a of"), ("the a of", ""), ("", "")]
    tokenizer = pair_tokenizer(kind, side)
    assert_same(tokenizer, limit, pairs)
    tokenizer.truncation_side = "left"
    assert_same(tokenizer, limit, pairs)


def test_texts_that_are_cut_before(tmp_path: Path) -> None:
    pairs = [(a, b) for a, b in text_pairs(100, 40) if min(len(a.split()), len(b.split())) < 16]
    assert_same(pair_tokenizer("bert"), 16, pairs, whole=False)
    assert max(map(len, PairEncoder(pair_tokenizer("bert"), 16)([a for a, _ in pairs]))) == 16


def test_wordpieces(tiny_encoder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    for limit in (10, 33, None):
        assert_same(tokenizer, limit, [*text_pairs(30), ("What's (that)?", "Ünïcode, 12 words")])


@pytest.mark.slow
def test_the_real_tokenizer(minilm_folder: Path) -> None:
    assert_same(AutoTokenizer.from_pretrained(minilm_folder), 64, text_pairs(200, 80))


def test_the_longer_text_is_truncated_first() -> None:
    lengths = np.array([(3, 4), (9, 2), (2, 9), (9, 9), (10, 9), (9, 10), (0, 30)])
    expected = [(3, 4), (5, 2), (2, 5), (3, 4), (4, 3), (3, 4), (0, 7)]
    assert longest_first(lengths, 7).tolist() == [list(row) for row in expected]


def test_lengths_without_joining() -> None:
    encoder = PairEncoder(pair_tokenizer("bert"), 20)
    firsts, seconds = map(encoder, zip(*text_pairs(40), strict=True))
    found = encoder.lengths(firsts, seconds)
    assert found.tolist() == encoder.join(firsts, seconds)["attention_mask"].sum(1).tolist()


def test_no_pairs() -> None:
    assert PairEncoder(pair_tokenizer("bert")).join([], [])["input_ids"].shape[0] == 0


def test_special_tokens_in_texts_are_no_template() -> None:
    pairs = [("the <s> a", "of </s> is"), ("<pad>", "</s>")]
    assert_same(pair_tokenizer("roberta"), None, pairs)


def test_no_room_for_texts() -> None:
    with pytest.raises(
        ValueError, match="max_length=3 leaves no room for texts: a pair has 3 special tokens"
    ):
        PairEncoder(pair_tokenizer("bert"), 3)


def test_a_template_with_tokens_inside_of_a_text_is_none() -> None:
    tokenizer = pair_tokenizer("bert")
    from tokenizers import processors

    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A", pair="$B <s> $A", special_tokens=[("<s>", 0)]
    )
    assert PairTemplate.of(tokenizer) is None
    with pytest.raises(ValueError, match="cannot be joined from the ids of their texts"):
        PairEncoder(tokenizer, 30)


def test_lower_case_and_pickling(tiny_encoder: Path) -> None:
    tokenizer = pair_tokenizer("bert")
    encoder = pickle.loads(pickle.dumps(PairEncoder(tokenizer, 30, do_lower_case=True)))
    assert (
        encoder(["The WEATHER"])[0].tolist()
        == tokenizer("the weather", add_special_tokens=False)["input_ids"]
    )


def test_state_depends_on_what_ids_depend_on() -> None:
    tokenizer = pair_tokenizer("bert")
    one = PairEncoder(tokenizer, 30)
    assert state_of(one) == state_of(PairEncoder(pair_tokenizer("bert"), 30))
    assert state_of(one) != state_of(PairEncoder(tokenizer, 31))
    assert state_of(one) != state_of(PairEncoder(tokenizer, 30, do_lower_case=True))
    assert '"special": false' in state_of(one)


def test_prompts() -> None:
    encoder = PairEncoder(pair_tokenizer("bert"), 30)
    encoder.check_prefixes()
    assert encoder.prompt_length("query : ") == 2


def test_pairs_of_different_lengths_need_a_padding_token() -> None:
    encoder = PairEncoder(pair_tokenizer("qwen3", pad_token=None))
    with pytest.raises(ValueError, match="need a padding token"):
        joined(encoder, [("the", "a"), ("the a", "of")])
