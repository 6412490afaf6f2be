"""Evaluators of every kind, sent to workers by value: workers do not have tests on their path."""

from __future__ import annotations

from typing import Any

from ray_st.evaluation import (
    EmbeddingSimilarityEvaluator,
    InformationRetrievalEvaluator,
    SentenceEvaluator,
    TripletEvaluator,
)

WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text"]


def texts(count: int, seed: int) -> list[str]:
    return [" ".join(WORDS[(seed + i * j) % 10] for j in range(i % 7 + 1)) + f" {i}" for i in range(count)]


def one_of_each() -> list[Any]:
    """One of each kind, one of a user's own class, and a plain function."""

    class Norm(SentenceEvaluator):
        def __init__(self) -> None:
            self.name, self.primary_metric = "own", "norm"

        def __call__(self, model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> Any:
            norm = float(abs(model.encode(texts(9, 2))).sum())
            return self.prefix_name_to_metrics({"norm": norm}, self.name)

    def mean(model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> float:
        return float(model.encode(["a text", "another"]).mean())

    corpus = {f"d{i}": text for i, text in enumerate(texts(53, 1))}
    queries = {f"q{i}": text for i, text in enumerate(texts(11, 3))}
    relevant = {f"q{i}": {f"d{i}", f"d{i * 4}"} for i in range(11)}
    scores = [i * 7 % 20 / 20 for i in range(20)]
    return [
        EmbeddingSimilarityEvaluator(texts(20, 1), texts(20, 2), scores, name="sts"),
        TripletEvaluator(texts(21, 1), texts(21, 2), texts(21, 3), name="triplets"),
        InformationRetrievalEvaluator(queries, corpus, relevant, name="ir", corpus_chunk_size=20),
        Norm(),
        mean,
    ]


def broken(model: Any, output_path: Any = None, epoch: float = -1, steps: int = -1) -> float:
    """Fails where files are written: on the first rank only, while training; on its own, always."""
    if output_path is not None:
        raise ValueError("the disk is full")
    return float(model.encode(["a text"] * 40).mean())
