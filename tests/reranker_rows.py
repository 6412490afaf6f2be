"""Rows for rerankers, by the form that losses take."""

from __future__ import annotations

import random
from typing import Any

from datasets import Dataset

from ray_st.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator

WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text", "word"]


def rows(form: str, count: int = 60, seed: int = 1) -> Dataset:
    """Rows of a form.

    Args:
        form: "binary", "classes", "scores" (pairs with a label), "pairs", "triplets", "margins" (triplets with
            a difference of scores), or "lists" (queries with one to five documents and their labels).
        count: Number of rows.
        seed: Of the texts.
    """
    rng = random.Random(seed)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(2, 9)))

    data: dict[str, list[Any]] = {"query": [f"{row} {text()}" for row in range(count)]}
    if form == "lists":
        data["docs"] = [[text() for _ in range(rng.randint(1, 5))] for _ in range(count)]
        data["labels"] = [[float(rng.randint(0, 3)) for _ in docs] for docs in data["docs"]]
        return Dataset.from_dict(data)
    for column in ("positive", "negative") if form in ("triplets", "margins") else ("document",):
        data[column] = [text() for _ in range(count)]
    label = {
        "binary": lambda: float(rng.randint(0, 1)),
        "classes": lambda: rng.randint(0, 2),
        "scores": rng.random,
        "margins": lambda: rng.uniform(-2, 2),
    }.get(form)
    if label is not None:
        data["label"] = [label() for _ in range(count)]
    return Dataset.from_dict(data)


def correlation() -> CrossEncoderCorrelationEvaluator:
    """Measures with pairs that no training has."""
    data = rows("scores", 31, seed=3)
    pairs = list(zip(data["query"], data["document"], strict=True))
    return CrossEncoderCorrelationEvaluator(pairs, list(data["label"]), name="dev")
