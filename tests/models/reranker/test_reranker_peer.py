"""Rerankers' folders go to the peer and come back: the same scores either way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ray_st.models.reranker.cross_encoder import CrossEncoder
from reranker_folders import DECODERS, KINDS, pair_tokenizer, save_classifier, text_pairs

PAIRS = text_pairs(40, 45)  # some are longer than all positions
CASES = [(kind, side) for kind in KINDS for side in ("right", "left") if side == "right" or kind in DECODERS]


def assert_same(mine: CrossEncoder, theirs: Any, **options: Any) -> None:
    found, expected = mine.predict(PAIRS, **options), theirs.predict(PAIRS, **options)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize(("kind", "side"), CASES)
def test_to_the_peer_and_back(kind: str, side: str, num_labels: int, peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path / "plain", kind, num_labels, side)
    options = {"activation_fn": nn.Identity(), "batch_size": 1 if kind == "gpt2" else 16}
    mine = CrossEncoder(tmp_path / "plain", device="cpu", max_length=60)
    mine.save_pretrained(tmp_path / "ours")
    theirs = peer.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert (theirs.num_labels, theirs.max_seq_length) == (num_labels, 60)
    assert type(theirs.activation_fn) is type(mine.activation_fn)
    assert_same(mine, theirs, **options)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    back = CrossEncoder(tmp_path / "theirs", device="cpu")
    assert (back.num_labels, back.max_length) == (num_labels, 60)
    assert_same(back, theirs, **options)


@pytest.mark.parametrize("num_labels", [1, 3])
def test_a_plain_folder(num_labels: int, peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path, "bert", num_labels)
    assert_same(CrossEncoder(tmp_path, device="cpu"), peer.CrossEncoder(str(tmp_path), device="cpu"))


@pytest.mark.parametrize("mean", [False, True])
def test_pooling_of_modernbert(mean: bool, peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path, "modernbert", classifier_pooling="mean" if mean else "cls")
    mine, theirs = CrossEncoder(tmp_path, device="cpu"), peer.CrossEncoder(str(tmp_path), device="cpu")
    assert mine.without_padding
    assert_same(mine, theirs, activation_fn=nn.Identity())


def test_settings(peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path / "plain", "bert")
    mine = CrossEncoder(
        tmp_path / "plain",
        device="cpu",
        prompts={"query": "find : "},
        default_prompt_name="query",
        activation_fn=nn.Tanh(),
    )
    mine.save_pretrained(tmp_path / "ours")
    theirs = peer.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert (theirs.prompts, theirs.default_prompt_name) == (mine.prompts, "query")
    assert isinstance(theirs.activation_fn, nn.Tanh)
    assert_same(mine, theirs)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    back = CrossEncoder(tmp_path / "theirs", device="cpu")
    assert (back.prompts, back.default_prompt_name) == (mine.prompts, "query")
    assert_same(back, theirs)


@pytest.mark.parametrize(
    "settings",
    [
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {"sentence_transformers": {"version": "4.1.0", "activation_fn": "torch.nn.modules.activation.Tanh"}},
        {},
    ],
    ids=str,
)
def test_older_folders(settings: dict[str, Any], peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path, "bert")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **settings}))
    mine, theirs = CrossEncoder(tmp_path, device="cpu"), peer.CrossEncoder(str(tmp_path), device="cpu")
    assert type(mine.activation_fn) is type(theirs.activation_fn)
    assert_same(mine, theirs)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"apply_softmax": True},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
        {"batch_size": 7, "activation_fn": nn.Tanh()},
        {"prompt": "find : "},
    ],
    ids=str,
)
@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_forms_of_results(
    options: dict[str, Any], num_labels: int, count: int, peer: Any, tmp_path: Path
) -> None:
    save_classifier(tmp_path, "bert", num_labels)
    mine, theirs = CrossEncoder(tmp_path, device="cpu"), peer.CrossEncoder(str(tmp_path), device="cpu")
    found, expected = mine.predict(PAIRS[:count], **options), theirs.predict(PAIRS[:count], **options)
    assert type(found) is type(expected)
    assert len(found) == len(expected) == count
    if count:
        assert [value.shape for value in found] == [value.shape for value in expected]
        assert [value.dtype for value in found] == [value.dtype for value in expected]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_labels", [1, 3])
@pytest.mark.parametrize(
    "given",
    [
        PAIRS[0],
        list(PAIRS[0]),
        np.array(PAIRS[0]),
        [list(pair) for pair in PAIRS[:3]],
        np.array(PAIRS[:3]),
        np.array(PAIRS[:3], dtype=object),
        np.array([], dtype=object),
    ],
    ids=["tuple", "list", "array", "lists", "arrays", "objects", "none"],
)
def test_forms_of_pairs(given: Any, num_labels: int, peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path, "bert", num_labels)
    mine, theirs = CrossEncoder(tmp_path, device="cpu"), peer.CrossEncoder(str(tmp_path), device="cpu")
    found, expected = mine.predict(given), theirs.predict(given)
    assert (type(found), found.dtype, found.shape) == (type(expected), expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"return_documents": True}, {"activation_fn": nn.Identity()}], ids=str
)
def test_ranking(options: dict[str, Any], peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path, "bert")
    mine, theirs = CrossEncoder(tmp_path, device="cpu"), peer.CrossEncoder(str(tmp_path), device="cpu")
    documents = [document for _, document in PAIRS]
    documents[5] = documents[30] = documents[7]  # equal scores keep their order
    found, expected = (model.rank("the weather", documents, **options) for model in (mine, theirs))
    assert [entry["corpus_id"] for entry in found] == [entry["corpus_id"] for entry in expected]
    assert [set(entry) for entry in found] == [set(entry) for entry in expected]
    for one, other in zip(found, expected, strict=True):
        assert type(one["score"]) is float
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one.get("text") == other.get("text")


TEMPLATE = "{% for m in messages %}<s> {{ m.role }} : {{ m.content }} {% endfor %}</s> where"  # ends with its own words
STRUCTURED = "{% for m in messages %}<s> {{ m.role }} : {{ m.content[0].text }} {% endfor %}</s> where"


@pytest.mark.parametrize("template", [TEMPLATE, STRUCTURED], ids=["flat", "structured"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_chat_template_that_carries_pairs(side: str, template: str, peer: Any, tmp_path: Path) -> None:
    save_classifier(tmp_path / "plain", "qwen3", side=side)
    tokenizer = pair_tokenizer("qwen3", side)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path / "plain")
    mine = CrossEncoder(tmp_path / "plain", device="cpu", max_length=50)
    assert mine.pair_encoder() is None
    theirs = peer.CrossEncoder(str(tmp_path / "plain"), device="cpu", max_length=50)
    for options in ({}, {"prompt": "find what"}):
        assert_same(mine, theirs, activation_fn=nn.Identity(), **options)
    mine.save_pretrained(tmp_path / "ours")
    theirs = peer.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert_same(mine, theirs, activation_fn=nn.Identity())
    theirs.save_pretrained(str(tmp_path / "theirs"))
    back = CrossEncoder(tmp_path / "theirs", device="cpu")
    assert back.pair_encoder() is None
    assert_same(back, theirs, activation_fn=nn.Identity())
