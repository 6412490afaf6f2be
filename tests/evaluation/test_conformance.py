"""What every evaluator must keep: one class that each of them goes through, beside the peer with the same options."""

from __future__ import annotations

import csv
import inspect
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ray_st import evaluation

PAIRS = 40
FIRST = [f"first text {i}" for i in range(PAIRS)]
SECOND = [f"second text {i}" for i in range(PAIRS)]
THIRD = [f"third text {i}" for i in range(PAIRS)]
SCORES = [(i * 7 % 11) / 10 for i in range(PAIRS)]
QUERIES = {f"q{i}": f"query {i}" for i in range(12)}
CORPUS = {f"d{i}": f"document {i}" for i in range(30)}
RELEVANT = {f"q{i}": {f"d{(i * 5 + j * 3) % 33}" for j in range(1 + i % 4)} for i in range(11)}
FOUR = ["cosine", "dot", "euclidean", "manhattan"]


@dataclass(frozen=True)
class Case:
    name: str
    data: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)


SIMILARITY, TRIPLET = "EmbeddingSimilarityEvaluator", "TripletEvaluator"
RETRIEVAL = "InformationRetrievalEvaluator"
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
}


def written(folder: Path) -> dict[str, list[list[str]]]:
    return {path.name: list(csv.reader(path.open())) for path in folder.glob("*.csv")}


def assert_same_files(mine: Path, other: Path) -> None:
    ours, theirs = written(mine), written(other)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, rows in ours.items():
        assert rows[0] == theirs[name][0]
        for row, expected in zip(rows[1:], theirs[name][1:], strict=True):
            assert list(map(float, row)) == pytest.approx(list(map(float, expected)), abs=1e-6)


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def evaluator(case: Case) -> Any:
    return getattr(evaluation, case.name)(*case.data, **case.options)


@pytest.fixture
def model(case: Case, make_model: Callable[..., Any]) -> Any:
    return make_model(**case.model)


class TestEveryEvaluator:
    @pytest.mark.filterwarnings("ignore")
    def test_figures_names_and_files_are_the_peers(self, case, evaluator, model, peers, tmp_path) -> None:
        theirs = getattr(peers, case.name)(*case.data, **case.options)
        for epoch, steps in [(-1, -1), (0, 50), (1, -1)]:
            found = evaluator(model, str(tmp_path / "ours"), epoch, steps)
            expected = theirs(model, str(tmp_path / "theirs"), epoch, steps)
            assert found == pytest.approx(expected, abs=1e-6)
            assert evaluator.primary_metric == theirs.primary_metric
        assert len(set(found.values())) > len(found) // 3  # not trivially equal
        assert evaluator.greater_is_better is theirs.greater_is_better
        assert evaluator.description == theirs.description
        assert evaluator.get_config_dict() == theirs.get_config_dict()
        assert_same_files(tmp_path / "ours", tmp_path / "theirs")

    def test_takes_the_peers_arguments_in_order(self, case, evaluator, peers) -> None:
        mine = list(inspect.signature(type(evaluator)).parameters.values())
        theirs = list(inspect.signature(getattr(peers, case.name)).parameters.values())
        assert [p.name for p in mine] == [p.name for p in theirs]
        for one, other in zip(mine, theirs, strict=True):
            same = one.default == other.default or list(one.default or ()) == other.default
            assert same or one.name == "main_distance_function"

    def test_reports_to_the_model_card(self, case, evaluator, model) -> None:
        found = evaluator(model, None, 2, 7)
        assert model.model_card_data.reports == [(case.name, found, 2, 7)]

    def test_needs_only_encode_and_similarity(self, case, evaluator, model) -> None:
        class Proxy:
            encode, similarity = staticmethod(model.encode), staticmethod(model.similarity)
            similarity_fn_name = model.similarity_fn_name
            prompts = model.prompts

        assert evaluator(Proxy()) == evaluator(model)

    def test_returns_plain_floats_with_a_primary_metric(self, evaluator, model) -> None:
        found = evaluator(model)
        assert {type(value) for value in found.values()} == {float}
        assert evaluator.primary_metric in found
        json.dumps(found)

    def test_writes_nothing_unless_asked(self, case, evaluator, model, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        evaluator(model)
        getattr(evaluation, case.name)(*case.data, **case.options, write_csv=False)(model, str(tmp_path))
        assert not list(tmp_path.iterdir())

    def test_is_the_same_again_and_in_another_process(self, evaluator, model) -> None:
        other = pickle.loads(pickle.dumps(evaluator))
        assert evaluator(model) == evaluator(model) == other(model)

    def test_asks_for_progress_and_batches_as_told(self, case, model) -> None:
        options = {**case.options, "batch_size": 3, "show_progress_bar": False}
        getattr(evaluation, case.name)(*case.data, **options)(model)
        assert all(call["batch_size"] == 3 and call["show_progress_bar"] is False for call in model.calls)

    def test_empty_data_is_refused(self, case) -> None:
        with pytest.raises(ValueError, match=f"{case.name} needs at least one"):
            getattr(evaluation, case.name)(*(type(part)() for part in case.data), **case.options)
