"""Rescoring candidates with this package's reranker: as the peer's, in this process and on Ray."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from ray_st.util import mine_hard_negatives

WORDS = ["the", "man", "eats", "pasta", "good", "bad", "weather", "sunny", "document", "text", "query"]
TEXTS = [f"{one} {two}" for one in WORDS for two in WORDS if one < two]
DATA = Dataset.from_dict({"query": TEXTS[:20], "answer": TEXTS[30:50]})
OPTIONS: dict[str, Any] = {"corpus": TEXTS[20:], "verbose": False, "output_scores": True, "num_negatives": 4}


@pytest.fixture(scope="module")
def reranker_folder(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny reranker with a random head that tells pairs apart."""
    from ray_st.models.reranker.cross_encoder import CrossEncoder

    logging.disable(logging.WARNING)  # it says that the head is new
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = CrossEncoder(tiny_encoder, num_labels=1, max_length=32, device="cpu")
        for name, weight in model.named_parameters():
            if "classifier" in name or "pooler" in name:
                weight.normal_(std=1.0)
    logging.disable(logging.NOTSET)
    folder = tmp_path_factory.mktemp("reranker") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def reranker(reranker_folder: Path) -> Any:
    from ray_st.models.reranker.cross_encoder import CrossEncoder

    return CrossEncoder(reranker_folder, device="cpu")


def assert_same(found: Dataset, expected: Dataset) -> None:
    assert found.column_names == expected.column_names
    assert len(found) == len(expected) > 20
    for name in ("query", "answer", "negative"):
        assert found[name][:] == expected[name][:]
    for ours, theirs in zip(found["scores"], expected["scores"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


LIMITS = [{"absolute_margin": 0.0001}, {"relative_margin": 0.0001}, {"min_score": 0.3, "range_min": 2}]


@pytest.mark.parametrize("limit", LIMITS, ids=str)
def test_rows_as_the_peers(
    limit: dict[str, Any], tiny_model: Any, tiny_folder: Path, reranker: Any, reranker_folder: Path, peer: Any
) -> None:
    from sentence_transformers.util import mine_hard_negatives as peers

    options = {**OPTIONS, **limit, "range_max": 20}
    theirs = peer.SentenceTransformer(str(tiny_folder), device="cpu")
    expected = peers(
        DATA, theirs, cross_encoder=peer.CrossEncoder(str(reranker_folder), device="cpu"), **options
    )
    found = mine_hard_negatives(DATA, tiny_model, cross_encoder=reranker, **options)
    assert_same(found, expected)
    plain = mine_hard_negatives(DATA, tiny_model, **options)
    assert plain["scores"][:] != found["scores"][:]


@pytest.mark.ray
@pytest.mark.parametrize("where", [pytest.param("processes", marks=pytest.mark.long), "cluster"])
def test_on_ray_as_in_this_process(
    where: str, tiny_model: Any, reranker: Any, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray_st.runtime.encode.cluster_mining import ClusterSearch

    options: dict[str, Any] = {**OPTIONS, "absolute_margin": 0.0001, "range_max": 20}
    expected = mine_hard_negatives(DATA, tiny_model, cross_encoder=reranker, **options)
    started: list[Any] = []
    start = type(reranker).start_multi_process_pool

    def starting(self: Any, target_devices: Any = None) -> Any:
        started.append(target_devices)
        return start(self, target_devices)

    monkeypatch.setattr(type(reranker), "start_multi_process_pool", starting)
    devices = ["cpu", "cpu"]
    several: dict[str, Any] = {"use_multi_process": devices}
    if where == "cluster":
        several = {"search": ClusterSearch(devices, texts_at_once=20)}
    found = mine_hard_negatives(DATA, tiny_model, cross_encoder=reranker, **several, **options)
    assert_same(found, expected)
    assert started == [devices]
