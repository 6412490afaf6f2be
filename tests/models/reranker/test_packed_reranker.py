"""Without padding under the classification head: the same scores and gradients as with padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ray_st.models.reranker.cross_encoder import CrossEncoder
from ray_st.models.unpadded import packed_models
from ray_st.util.host_facts import with_host_facts
from reranker_folders import DECODERS, KINDS, save_classifier, text_pairs

PACKED = [kind for kind in KINDS if kind != "gpt2"]


def both(folder: Path, kind: str) -> list[CrossEncoder]:
    attention = "sdpa" if kind not in ("deberta-v2", "mpnet") else "eager"
    options = {"dtype": torch.float64}
    packed = CrossEncoder(folder, device="cpu", model_kwargs=options)
    padded = CrossEncoder(folder, device="cpu", model_kwargs={**options, "attn_implementation": attention})
    assert [packed.without_padding, padded.without_padding] == [True, False]
    return [packed, padded]


def scores_and_gradients(model: CrossEncoder, features: dict[str, Any]) -> list[torch.Tensor]:
    model.zero_grad()
    scores = model(features)["scores"]
    (scores * torch.arange(1, scores.numel() + 1).view_as(scores)).sum().backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert not [name for name in missing if "pooler" not in name]
    return [scores.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("facts", [False, True], ids=["mask", "facts"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", PACKED)
def test_scores_and_gradients(kind: str, side: str, facts: bool, tmp_path: Path) -> None:
    packed, padded = both(save_classifier(tmp_path, kind, 2, side), kind)
    features: dict[str, Any] = packed.tokenize(text_pairs(9))
    assert features["attention_mask"].min() == 0
    features = with_host_facts(features) if facts else features
    found, expected = (scores_and_gradients(model, features) for model in (packed, padded))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("kind", PACKED)
def test_the_encoder_gets_no_padding(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = CrossEncoder(save_classifier(tmp_path, kind), device="cpu")
    features = model.tokenize(text_pairs(9))
    shapes: list[tuple[int, ...]] = []
    layer = model.model.base_model.get_input_embeddings()
    layer.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape)))
    model(features)
    tokens = int(features["attention_mask"].sum())
    assert shapes == [(1, packed_models.Packing.of(features["attention_mask"]).row.numel())]
    assert shapes[0][1] < features["input_ids"].numel()
    assert shapes[0][1] - tokens < 16


@pytest.mark.parametrize("facts", [False, True], ids=["mask", "facts"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_neither_side_nor_amount_of_padding_matters(
    kind: str, side: str, facts: bool, tmp_path: Path
) -> None:
    model = CrossEncoder(save_classifier(tmp_path, kind, side=side), device="cpu").eval()
    pairs = text_pairs(9)
    batch: dict[str, Any] = model.tokenize(pairs)
    with torch.no_grad():
        found = model(with_host_facts(batch) if facts else batch)["scores"]
        for pair, score in zip(pairs, found, strict=True):
            alone: dict[str, Any] = model.tokenize([pair])
            alone = with_host_facts(alone) if facts else alone
            torch.testing.assert_close(model(alone)["scores"][0], score, atol=2e-6, rtol=1e-5)


def test_given_positions_and_other_attentions_are_left_alone(tmp_path: Path) -> None:
    model = CrossEncoder(save_classifier(tmp_path, "bert"), device="cpu").eval()
    features = model.tokenize(text_pairs(5))
    positions = torch.arange(features["input_ids"].shape[1]).expand_as(features["input_ids"])
    with torch.no_grad():
        expected = model(features)["scores"]
        found = model({**features, "position_ids": positions})["scores"]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        # Called directly, the classifier works as ever.
        torch.testing.assert_close(model.model(**features).logits, expected, atol=1e-6, rtol=0)


def test_kinds_that_keep_their_padding(tmp_path: Path) -> None:
    assert not CrossEncoder(save_classifier(tmp_path, "gpt2"), device="cpu").without_padding
    assert {"qwen3", "llama"} < DECODERS
