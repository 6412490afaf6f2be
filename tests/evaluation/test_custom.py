"""Evaluators of one's own: a subclass, and anything that can be called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_st.evaluation import EmbeddingSimilarityEvaluator, SentenceEvaluator, SequentialEvaluator
from ray_st.evaluation.built_in import append_row

TEXTS = ["a sunny man", "good weather", "pasta"]


class MeanLength(SentenceEvaluator):
    """How long embeddings are; less is better."""

    greater_is_better = False

    def __init__(self, texts: list[str], name: str = "") -> None:
        self.texts, self.name = texts, name
        self.primary_metric = "length"

    def __call__(
        self, model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        metrics = {"length": np.linalg.norm(model.encode(self.texts), axis=1).mean()}
        if output_path is not None:
            append_row(
                output_path, "length.csv", ["epoch", "steps", *metrics], [epoch, steps, *metrics.values()]
            )
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics


def count(model: Any, output_path: str | None = None, epoch: float = -1, steps: int = -1) -> float:
    return float(len(model.encode(TEXTS)))


def shape(model: Any, *when: Any) -> Mapping[str, float]:
    return {"rows": 3.0, "columns": float(model.encode(TEXTS).shape[1])}


def test_they_run_beside_others(tiny_model: Any, tmp_path: Path) -> None:
    similarity = EmbeddingSimilarityEvaluator(TEXTS, TEXTS[::-1], [0.1, 0.2, 0.3], name="sts")
    together = SequentialEvaluator(
        [similarity, count, shape, MeanLength(TEXTS, "dev")], main_score_function=sum
    )
    found = together(tiny_model, str(tmp_path), 1, 2)
    length = float(np.linalg.norm(tiny_model.encode(TEXTS), axis=1).mean())
    own = {"evaluator_1": 3.0, "rows": 3.0, "columns": 32.0, "dev_length": pytest.approx(length)}
    assert {key: found[key] for key in own} == own
    assert found["sequential_score"] == pytest.approx(found["sts_spearman_cosine"] + 3.0 + 3.0 + length)
    assert (tmp_path / "length.csv").read_text().startswith("epoch,steps,length\n1,2,")
    assert "Mean Length" in {scores.description for scores in tiny_model.model_card_data.scores}
