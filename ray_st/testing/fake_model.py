"""A model for evaluators that needs no weights."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ray_st.evaluation.sentence_evaluator import SentenceEvaluator
from ray_st.readers import InputExample
from ray_st.similarity_functions import SimilarityFunction


class FakeCard:
    """A model card that remembers what evaluators report.

    Attributes:
        reports: Of each report the evaluator's class name, the metrics, the epoch and the step.
    """

    def __init__(self) -> None:
        self.reports: list[tuple[str, dict[str, float], float, int]] = []

    def set_evaluation_metrics(
        self, evaluator: SentenceEvaluator, metrics: Mapping[str, float], epoch: float, step: int
    ) -> None:
        """Takes a report."""
        self.reports.append((type(evaluator).__name__, dict(metrics), epoch, step))


class FakeModel:
    """Embeds each text, and scores each pair, as random numbers that follow from the bytes.

    Args:
        dim: Dimensions of an embedding.
        similarity: Name of the model's similarity.
        coarse: Whether embeddings hold only 0 and 1, so that many scores are equal.
        num_labels: Scores of each pair.

    Attributes:
        calls: The texts and options of each call of :meth:`encode` or :meth:`predict` so far.
    """

    def __init__(
        self, dim: int = 16, similarity: str = "cosine", coarse: bool = False, num_labels: int = 1
    ) -> None:
        self.dim, self.coarse, self.num_labels = dim, coarse, num_labels
        self.similarity_fn_name = similarity
        self.prompts = {"query": "ask: ", "passage": "tell: "}
        self.model_card_data = FakeCard()
        self.calls: list[dict[str, Any]] = []
        self.device = "cpu"

    def encode(self, texts: Sequence[str], **options: Any) -> Any:
        """Embeddings (n, d), in the form that the options of a model's ``encode`` ask for."""
        self.calls.append({"texts": list(texts), **options})
        prompt = options.get("prompt") or self.prompts.get(options.get("prompt_name") or "", "")
        rows = np.stack([self._embed(prompt + text) for text in texts])[:, : options.get("truncate_dim")]
        if options.get("normalize_embeddings"):
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rows = _quantized(rows, options.get("precision"))
        if options.get("convert_to_tensor"):
            return torch.from_numpy(rows)
        return rows if options.get("convert_to_numpy", True) else list(torch.from_numpy(rows))

    def predict(self, pairs: Sequence[Sequence[str]], **options: Any) -> npt.NDArray[np.float32]:
        """Scores (n,) of pairs, or (n, num_labels) for several labels."""
        self.calls.append({"texts": [tuple(pair) for pair in pairs], **options})
        prompt = self.prompts.get(options.get("prompt_name") or "", "")
        embeddings = np.stack([self._embed("\n".join([prompt, *pair])) for pair in pairs])
        return embeddings[:, 0] if self.num_labels == 1 else embeddings[:, : self.num_labels]

    def _embed(self, text: str) -> npt.NDArray[np.float32]:
        generator = np.random.default_rng(zlib.crc32(text.encode()))
        if self.coarse:
            return generator.integers(0, 2, self.dim).astype(np.float32)
        return generator.standard_normal(self.dim).astype(np.float32)

    def smart_batching_collate(self, batch: Sequence[InputExample]) -> tuple[list[dict[str, Tensor]], Tensor]:
        """The columns of some examples, embedded, and their labels."""
        columns = zip(*(example.texts for example in batch), strict=True)
        features = [{"sentence_embedding": self.encode(texts, convert_to_tensor=True)} for texts in columns]
        return features, torch.tensor([example.label for example in batch])

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Similarities (n, m) of embeddings (n, d) and (m, d)."""
        return SimilarityFunction.to_similarity_fn(self.similarity_fn_name)(a, b)


def _quantized(rows: npt.NDArray[Any], precision: str | None) -> npt.NDArray[Any]:
    bits = np.packbits(rows > 0, axis=1)
    match precision:
        case "int8":
            return (rows * 100).astype(np.int8)
        case "ubinary":
            return bits
        case "binary":
            return (bits.astype(np.int16) - 128).astype(np.int8)
    return rows
