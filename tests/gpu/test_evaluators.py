"""Every evaluator of a model on a device, and the searches over its embeddings: the results of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from ray_st import evaluation, util
from ray_st.losses import SoftmaxLoss

WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text"]
FOUR = ["cosine", "dot", "euclidean", "manhattan"]


def texts(count: int, seed: int) -> list[str]:
    return [" ".join(WORDS[(seed + i * j) % 10] for j in range(i % 7 + 1)) + f" {i}" for i in range(count)]


FIRST, SECOND, THIRD = texts(30, 1), texts(30, 2), texts(30, 3)
SCORES = [i * 7 % 20 / 20 for i in range(30)]
QUERIES = {f"q{i}": text for i, text in enumerate(texts(9, 3))}
CORPUS = {f"d{i}": text for i, text in enumerate(texts(25, 1))}
RELEVANT = {f"q{i}": {f"d{i}", f"d{i * 2}"} for i in range(9)}
SAMPLES = [{"query": FIRST[i], "positive": SECOND[i : i + 2], "negative": THIRD[i : i + 5]} for i in range(9)]
RANKED = [
    {"query_id": f"q{i}", "query": FIRST[i], "positive": "d1", "documents": [f"d{i % 3}", "d1"]}
    for i in range(5)
]
ROWS = [{"en": one, "de": two} for one, two in zip(FIRST, SECOND, strict=True)]
EXAMPLES = [SimpleNamespace(texts=[FIRST[i], SECOND[i]], label=i % 3) for i in range(12)]


def nano(folder: Path) -> Any:
    (folder / "NanoNQ").mkdir()
    tables = {
        "corpus": [{"_id": key, "text": text} for key, text in CORPUS.items()],
        "queries": [{"_id": key, "text": text} for key, text in QUERIES.items()],
        "qrels": [{"query-id": key, "corpus-id": found} for key, some in RELEVANT.items() for found in some],
    }
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / "NanoNQ" / f"{name}.parquet")
    return evaluation.NanoBEIREvaluator(["nq"], folder=str(folder))


def accuracy(model: Any) -> Any:
    torch.manual_seed(0)
    head = SoftmaxLoss(model, 32, 3).to(model.device)
    return evaluation.LabelAccuracyEvaluator(DataLoader(EXAMPLES, batch_size=5), "dev", head)


EVALUATORS: dict[str, Callable[[Any, Path], Any]] = {
    "BinaryClassificationEvaluator": lambda model, folder: evaluation.BinaryClassificationEvaluator(
        FIRST, SECOND, [i % 2 for i in range(30)], similarity_fn_names=FOUR
    ),
    "EmbeddingSimilarityEvaluator": lambda model, folder: evaluation.EmbeddingSimilarityEvaluator(
        FIRST, SECOND, SCORES, similarity_fn_names=FOUR
    ),
    "InformationRetrievalEvaluator": lambda model, folder: evaluation.InformationRetrievalEvaluator(
        QUERIES, CORPUS, RELEVANT, corpus_chunk_size=7
    ),
    "LabelAccuracyEvaluator": lambda model, folder: accuracy(model),
    "MSEEvaluator": lambda model, folder: evaluation.MSEEvaluator(FIRST, SECOND, model),
    "MSEEvaluatorFromDataFrame": lambda model, folder: evaluation.MSEEvaluatorFromDataFrame(
        ROWS, model, [("en", "de")]
    ),
    "NanoBEIREvaluator": lambda model, folder: nano(folder),
    "ParaphraseMiningEvaluator": lambda model, folder: evaluation.ParaphraseMiningEvaluator(
        CORPUS, [("d0", "d1"), ("d2", "d5")], query_chunk_size=7, corpus_chunk_size=11
    ),
    "ReciprocalRankFusionEvaluator": lambda model, folder: evaluation.ReciprocalRankFusionEvaluator(
        RANKED, RANKED
    ),
    "RerankingEvaluator": lambda model, folder: evaluation.RerankingEvaluator(SAMPLES),
    "SequentialEvaluator": lambda model, folder: evaluation.SequentialEvaluator(
        [evaluation.TripletEvaluator(FIRST, SECOND, THIRD), evaluation.RerankingEvaluator(SAMPLES, at_k=2)]
    ),
    "TranslationEvaluator": lambda model, folder: evaluation.TranslationEvaluator(FIRST, SECOND),
    "TripletEvaluator": lambda model, folder: evaluation.TripletEvaluator(
        FIRST, SECOND, THIRD, similarity_fn_names=FOUR
    ),
}


def test_every_evaluator_is_here() -> None:
    known = [getattr(evaluation, name) for name in evaluation.__all__]
    base = evaluation.SentenceEvaluator
    assert {kind.__name__ for kind in known if issubclass(kind, base)} - {base.__name__} == set(EVALUATORS)


@pytest.mark.parametrize("name", EVALUATORS)
def test_metrics(name: str, device: torch.device, tiny: Callable[..., Any], tmp_path: Path) -> None:
    found = []
    for place in ("cpu", device):
        model, folder = tiny(place), tmp_path / str(len(found))
        folder.mkdir()
        found.append(EVALUATORS[name](model, folder)(model, str(folder)))
        assert model.device == torch.device(place)
    assert found[1] == pytest.approx(found[0], abs=1e-4)


def test_searches(device: torch.device, tiny: Callable[..., Any]) -> None:
    def each(model: Any) -> list[Any]:
        rows = model.encode(FIRST + SECOND, convert_to_tensor=True)
        found = util.semantic_search(rows[:5], rows, top_k=3, corpus_chunk_size=20)
        mined = util.paraphrase_mining_embeddings(rows, query_chunk_size=17, corpus_chunk_size=23, top_k=4)
        groups = util.community_detection(rows, threshold=0.9, min_community_size=2)
        return [[hit["score"] for hits in found for hit in hits], [score for score, *_ in mined], groups]

    (hits, mined, groups), expected = each(tiny(device)), each(tiny("cpu"))
    assert hits == pytest.approx(expected[0], abs=1e-4)
    assert mined == pytest.approx(expected[1], abs=1e-4)
    assert len(groups) == len(expected[2])


def test_hard_negatives(device: torch.device, tiny: Callable[..., Any]) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"query": FIRST, "answer": SECOND})
    options = {
        "num_negatives": 2,
        "range_max": 9,
        "relative_margin": 0.01,
        "output_scores": True,
        "verbose": False,
    }
    found, expected = (util.mine_hard_negatives(rows, tiny(place), **options) for place in (device, "cpu"))
    assert len(found) == len(expected) > 0
