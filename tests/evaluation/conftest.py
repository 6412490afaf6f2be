from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch


class Card:
    """Remembers what evaluators report."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, dict[str, float], float, int]] = []

    def set_evaluation_metrics(
        self, evaluator: Any, metrics: dict[str, float], epoch: float, step: int
    ) -> None:
        self.reports.append((type(evaluator).__name__, dict(metrics), epoch, step))


class FakeModel:
    """Embeds each text as random numbers that follow from its bytes; speaks to our evaluators and to the peer's."""

    def __init__(self, dim: int = 16, similarity: str = "cosine", coarse: bool = False) -> None:
        self.dim, self.coarse = dim, coarse
        self.similarity_fn_name = similarity
        self.prompts = {"query": "ask: ", "passage": "tell: "}
        self.model_card_data = Card()
        self.calls: list[dict[str, Any]] = []
        self.device = "cpu"

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        self.calls.append({"texts": list(texts), **options})
        prompt = options.get("prompt") or self.prompts.get(options.get("prompt_name"), "")
        rows = np.stack([self._embed(prompt + text) for text in texts])[:, : options.get("truncate_dim")]
        if options.get("normalize_embeddings"):
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        bits = np.packbits(rows > 0, axis=1)
        match options.get("precision"):
            case "int8":
                rows = (rows * 100).astype(np.int8)
            case "ubinary":
                rows = bits
            case "binary":
                rows = (bits.astype(np.int16) - 128).astype(np.int8)
        if options.get("convert_to_tensor"):
            return torch.from_numpy(rows)
        return rows if options.get("convert_to_numpy", True) else list(torch.from_numpy(rows))

    def _embed(self, text: str) -> np.ndarray:
        generator = np.random.default_rng(zlib.crc32(text.encode()))
        if self.coarse:  # many equal scores
            return generator.integers(0, 2, self.dim).astype(np.float32)
        return generator.standard_normal(self.dim).astype(np.float32)

    def encode_query(
        self, texts: Sequence[str], **options: Any
    ) -> Any:  # the peer's evaluators call these two
        return self.encode(texts, **{**options, "prompt_name": options.get("prompt_name") or "query"})

    def encode_document(self, texts: Sequence[str], **options: Any) -> Any:
        return self.encode(texts, **{**options, "prompt_name": options.get("prompt_name") or "passage"})

    def eval(self) -> None:
        """Called by some of the peer's evaluators."""

    def smart_batching_collate(self, batch: Sequence[Any]) -> tuple[list[dict[str, Any]], torch.Tensor]:
        columns = zip(*(example.texts for example in batch), strict=True)
        features = [{"sentence_embedding": self.encode(texts, convert_to_tensor=True)} for texts in columns]
        return features, torch.tensor([example.label for example in batch])

    def similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        from ray_st import SimilarityFunction

        return SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(a, b)


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def make_model() -> type[FakeModel]:
    return FakeModel


@pytest.fixture
def peers(peer: Any) -> Any:
    """The peer's evaluators."""
    from sentence_transformers.sentence_transformer import evaluation

    return evaluation
