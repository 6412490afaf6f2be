"""What every evaluator keeps, beside the peer with the same options. A new evaluator adds its cases to ``CASES``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from peer_figures import assert_same_files, close, plain
from ray_st import evaluation
from ray_st.testing import EvaluatorCase, EvaluatorConformance
from ray_st.util import euclidean_sim, pairwise_dot_score

PAIRS = 40
FIRST = [f"first text {i}" for i in range(PAIRS)]
SECOND = [f"second text {i}" for i in range(PAIRS)]
THIRD = [f"third text {i}" for i in range(PAIRS)]
SCORES = [(i * 7 % 11) / 10 for i in range(PAIRS)]
QUERIES = {f"q{i}": f"query {i}" for i in range(12)}
CORPUS = {f"d{i}": f"document {i}" for i in range(30)}
RELEVANT = {f"q{i}": {f"d{(i * 5 + j * 3) % 33}" for j in range(1 + i % 4)} for i in range(11)}
FOUR = ["cosine", "dot", "euclidean", "manhattan"]
LABELS = [int(i % 5 < 2) for i in range(PAIRS)]
REPEATED = [f"text {i % 13}" for i in range(PAIRS)]
SAMPLES = [
    {
        "query": f"query {i}",
        "positive": [f"good {i} {j}" for j in range(i % 4)],
        "negative": [f"bad {i} {j}" for j in range(i * 3 % 14)],
    }
    for i in range(20)
]
LANGUAGES = [
    {"en": f"text {i % 13}", "de": f"Text {i}" if i % 5 else " ", "fr": f"texte {i}"} for i in range(20)
]


class Teacher:
    """Embeds a text by its length and its last letters."""

    def encode(self, texts: list[str], truncate_dim: int | None = None, **options: Any) -> np.ndarray:
        rows = [[len(text), *(ord(text[-1 - i % len(text)]) / 100 for i in range(15))] for text in texts]
        return np.asarray(rows, dtype=np.float32)[:, :truncate_dim]


class Loader:
    """What evaluators need of a DataLoader."""

    def __init__(self, batches: tuple[list[Any], ...] = ()) -> None:
        self.batches, self.collate_fn = batches, list

    def __iter__(self) -> Iterator[Any]:
        return (self.collate_fn(batch) for batch in self.batches)


class Head:
    """Three classes by the embeddings' first dimensions; called in the peer's way, or ours."""

    def __call__(self, features: list[dict[str, torch.Tensor]], labels: None) -> tuple[None, torch.Tensor]:
        return None, self.classify(*(part["sentence_embedding"] for part in features))

    def classify(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.stack([first[:, 0], second[:, 0], first[:, 1]], dim=1)


EXAMPLES = [SimpleNamespace(texts=[FIRST[i], SECOND[i]], label=i % 3) for i in range(PAIRS)]
LOADER = Loader((EXAMPLES[:16], EXAMPLES[16:32], EXAMPLES[32:]))


@dataclass(frozen=True)
class Case:
    name: str
    data: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def make(self, **more: Any) -> Any:
        return getattr(evaluation, self.name)(*self.data, **{**self.options, **more})


SIMILARITY, TRIPLET = "EmbeddingSimilarityEvaluator", "TripletEvaluator"
RETRIEVAL, MINING = "InformationRetrievalEvaluator", "ParaphraseMiningEvaluator"
TEXTS = {f"t{i:02}": f"text {i}" for i in range(30)}
DUPLICATES = [(f"t{i:02}", f"t{(i * i + 3) % 30:02}") for i in range(25)]
BINARY, RERANKING, TRANSLATION = (
    "BinaryClassificationEvaluator",
    "RerankingEvaluator",
    "TranslationEvaluator",
)
MSE, DATAFRAME, ACCURACY = "MSEEvaluator", "MSEEvaluatorFromDataFrame", "LabelAccuracyEvaluator"
PARALLEL = (LANGUAGES, Teacher(), [("en", "de"), ("en", "fr"), ("fr", "en")])
SMALL = {"corpus_chunk_size": 7, "map_at_k": [3], "accuracy_at_k": [1, 2], "ndcg_at_k": [2, 5]}

CASES = {
    "similarity": Case(SIMILARITY, (FIRST, SECOND, SCORES)),
    "similarity-named": Case(SIMILARITY, (FIRST, SECOND, SCORES), {"name": "dev", "main_similarity": "dot"}),
    "similarity-all": Case(
        SIMILARITY, (FIRST, SECOND, SCORES), {"similarity_fn_names": FOUR, "truncate_dim": 5}
    ),
    "similarity-of-model": Case(SIMILARITY, (FIRST, SECOND, SCORES), {}, {"similarity": "manhattan"}),
    "similarity-ties": Case(
        SIMILARITY, (FIRST, SECOND, SCORES), {"similarity_fn_names": FOUR}, {"coarse": True}
    ),
    **{
        f"similarity-{p}": Case(SIMILARITY, (FIRST, SECOND, SCORES), {"precision": p, "name": "dev"})
        for p in ("float32", "int8", "binary", "ubinary")
    },
    "triplet": Case(TRIPLET, (FIRST, SECOND, THIRD)),
    "triplet-all": Case(TRIPLET, (FIRST, SECOND, THIRD), {"similarity_fn_names": FOUR, "name": "dev"}),
    "triplet-main": Case(
        TRIPLET, (FIRST, SECOND, THIRD), {"main_similarity_function": "euclidean", "margin": 0.3}
    ),
    "triplet-margins": Case(
        TRIPLET,
        (FIRST, SECOND, THIRD),
        {
            "similarity_fn_names": ["dot", "cosine"],
            "margin": {"dot": 1},
            "main_similarity_function": "cosine",
        },
    ),
    "triplet-old-name": Case(TRIPLET, (FIRST, SECOND, THIRD), {"main_distance_function": "manhattan"}),
    "retrieval": Case(RETRIEVAL, (QUERIES, CORPUS, RELEVANT)),
    "retrieval-chunks": Case(RETRIEVAL, (QUERIES, CORPUS, RELEVANT), {"name": "dev", **SMALL}),
    "retrieval-ties": Case(RETRIEVAL, (QUERIES, CORPUS, RELEVANT), SMALL, {"coarse": True, "dim": 3}),
    "retrieval-prompts": Case(
        RETRIEVAL, (QUERIES, CORPUS, RELEVANT), {"query_prompt": "find ", "corpus_prompt_name": "query"}
    ),
    "retrieval-of-model": Case(RETRIEVAL, (QUERIES, CORPUS, RELEVANT), SMALL, {"similarity": "euclidean"}),
    "mining": Case(MINING, (TEXTS, DUPLICATES)),
    "mining-closure": Case(
        MINING, (TEXTS, DUPLICATES), {"add_transitive_closure": True, "name": "dev", "truncate_dim": 5}
    ),
    "mining-chunks": Case(
        MINING,
        (TEXTS, DUPLICATES),
        {"query_chunk_size": 7, "corpus_chunk_size": 11, "top_k": 5, "max_pairs": 60},
    ),
    "binary": Case(BINARY, (FIRST, SECOND, LABELS)),
    "binary-named": Case(BINARY, (FIRST, SECOND, LABELS), {"name": "dev", "truncate_dim": 5}),
    "binary-all": Case(BINARY, (FIRST, SECOND, LABELS), {"similarity_fn_names": FOUR, "name": "dev"}),
    "binary-repeats": Case(BINARY, (REPEATED, SECOND, LABELS), {"similarity_fn_names": ["dot"]}),
    "binary-of-model": Case(BINARY, (FIRST, SECOND, LABELS), {}, {"similarity": "manhattan"}),
    "binary-ties": Case(
        BINARY, (FIRST, SECOND, LABELS), {"similarity_fn_names": FOUR}, {"coarse": True, "dim": 8}
    ),
    "binary-all-positive": Case(BINARY, (FIRST, SECOND, [1] * PAIRS)),
    "reranking": Case(RERANKING, (SAMPLES,)),
    "reranking-named": Case(RERANKING, (SAMPLES,), {"name": "dev", "at_k": 3, "truncate_dim": 5}),
    "reranking-one-by-one": Case(RERANKING, (SAMPLES,), {"use_batched_encoding": False, "at_k": 100}),
    "reranking-old-name": Case(RERANKING, (SAMPLES,), {"mrr_at_k": 2}),
    "reranking-function": Case(RERANKING, (SAMPLES,), {"similarity_fct": euclidean_sim}),
    "reranking-pairwise": Case(RERANKING, (SAMPLES,), {"similarity_fct": pairwise_dot_score}),
    "reranking-ties": Case(RERANKING, (SAMPLES,), {"at_k": 4}, {"coarse": True, "dim": 3}),
    "mse": Case(MSE, (FIRST, SECOND, Teacher())),
    "mse-named": Case(MSE, (FIRST, SECOND, Teacher()), {"name": "dev", "truncate_dim": 5}),
    "dataframe": Case(DATAFRAME, PARALLEL),
    "dataframe-named": Case(DATAFRAME, PARALLEL, {"name": "dev", "truncate_dim": 5}),
    "translation": Case(TRANSLATION, (REPEATED, SECOND), {}, {"dim": 2}),
    "translation-named": Case(TRANSLATION, (FIRST, REPEATED), {"name": "dev", "truncate_dim": 3}),
    "translation-ties": Case(TRANSLATION, (REPEATED, SECOND), {}, {"coarse": True, "dim": 5}),
    "accuracy": Case(ACCURACY, (LOADER,), {"softmax_model": Head()}),
    "accuracy-named": Case(ACCURACY, (LOADER,), {"softmax_model": Head(), "name": "dev"}),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def entry(request: pytest.FixtureRequest) -> Case:
    return request.param


class TestEveryEvaluator(EvaluatorConformance):
    @pytest.fixture
    def case(self, entry: Case, make_model: Callable[..., Any]) -> EvaluatorCase:
        return EvaluatorCase(entry.make, lambda: make_model(**entry.model))

    @pytest.mark.filterwarnings("ignore")
    def test_metrics_names_and_files_are_the_peers(self, entry, evaluator, model, peers, tmp_path) -> None:
        theirs = getattr(peers, entry.name)(*entry.data, **entry.options)
        for epoch, steps in [(-1, -1), (0, 50), (1, -1)]:
            found = evaluator(model, str(tmp_path / "ours"), epoch, steps)
            expected = theirs(model, str(tmp_path / "theirs"), epoch, steps)
            assert found == close(expected)
            assert evaluator.primary_metric == theirs.primary_metric
        assert len(set(found.values())) > len(found) // 3  # not trivially equal
        assert evaluator.greater_is_better is theirs.greater_is_better
        assert evaluator.description == theirs.description
        assert evaluator.get_config_dict() == theirs.get_config_dict()
        assert_same_files(tmp_path / "ours", tmp_path / "theirs")

    def test_takes_the_peers_arguments_in_order(self, entry, evaluator, peers) -> None:
        mine = list(inspect.signature(type(evaluator)).parameters.values())
        theirs = list(inspect.signature(getattr(peers, entry.name)).parameters.values())
        assert [p.name for p in mine] == [p.name for p in theirs]
        for one, other in zip(mine, theirs, strict=True):
            assert plain(one.default) == plain(other.default) or one.name == "main_distance_function"

    def test_writes_nothing_if_told_so(self, entry, model, tmp_path) -> None:
        entry.make(write_csv=False)(model, str(tmp_path))
        assert not list(tmp_path.iterdir())

    def test_asks_for_progress_and_batches_as_told(self, entry, model) -> None:
        kind = getattr(evaluation, entry.name)
        told = {"batch_size": 3, "show_progress_bar": False}
        told = {key: value for key, value in told.items() if key in inspect.signature(kind).parameters}
        kind(*entry.data, **{**entry.options, **told})(model)
        assert all(call[key] == value for call in model.calls for key, value in told.items())

    def test_empty_data_is_refused(self, entry) -> None:
        with pytest.raises(ValueError, match=f"{entry.name} needs at least one"):
            getattr(evaluation, entry.name)(*(type(part)() for part in entry.data), **entry.options)
