"""Evaluators called by every worker of a team give each of them what one process gets, to the last bit."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ray_st import evaluation
from ray_st.losses import SoftmaxLoss
from ray_st.util.team import in_team
from simulated_team import together

FIRST = ["a sunny man eats " * (i % 7 + 1) + "pasta" * (i % 3) for i in range(23)]
SECOND = ["the weather is good " * (i % 5 + 1) + "word " * (i % 4) for i in range(23)]
LABELS = [int(i % 5 < 2) for i in range(23)]
SAMPLES = [
    {"query": FIRST[i], "positive": SECOND[i : i + 2], "negative": SECOND[i + 3 : i + 9]} for i in range(12)
]
FOUR = ["cosine", "dot", "euclidean", "manhattan"]


def binary(model: Any) -> Any:
    return evaluation.BinaryClassificationEvaluator(
        FIRST, SECOND, LABELS, batch_size=4, similarity_fn_names=FOUR
    )


def reranking(model: Any) -> Any:
    return evaluation.RerankingEvaluator(SAMPLES, batch_size=4)


def reranking_one_by_one(model: Any) -> Any:
    return evaluation.RerankingEvaluator(SAMPLES, batch_size=4, use_batched_encoding=False)


def mse(model: Any) -> Any:
    return evaluation.MSEEvaluator(FIRST, SECOND, model, batch_size=4)


def dataframe(model: Any) -> Any:
    rows = [{"a": first, "b": second} for first, second in zip(FIRST, SECOND, strict=True)]
    return evaluation.MSEEvaluatorFromDataFrame(rows, model, [("a", "b"), ("b", "a")], batch_size=4)


def translation(model: Any) -> Any:
    return evaluation.TranslationEvaluator(FIRST, SECOND, batch_size=4)


def accuracy(model: Any) -> Any:
    torch.manual_seed(3)
    rows = zip(FIRST, SECOND, LABELS, strict=True)
    examples = [SimpleNamespace(texts=[first, second], label=label) for first, second, label in rows]
    return evaluation.LabelAccuracyEvaluator([examples], "", SoftmaxLoss(model, 32, 2))


KINDS = [binary, reranking, reranking_one_by_one, mse, dataframe, translation, accuracy]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [2, 3])
def test_metrics_are_one_processs_to_the_last_bit(kind, size, tiny_model, tmp_path) -> None:
    evaluator = kind(tiny_model)
    expected = evaluator(tiny_model)

    def task(team: Any) -> dict[str, float]:
        model, own = copy.deepcopy(tiny_model), copy.deepcopy(evaluator)
        with in_team(model, team):
            return own(model, str(tmp_path) if team.rank == 0 else None)

    assert together(size, task) == [expected] * size
    assert len(list(tmp_path.iterdir())) == 1
