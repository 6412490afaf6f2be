from __future__ import annotations

import logging
from typing import Any

import pytest

from ray_st.evaluation import ParaphraseMiningEvaluator
from simulated_team import together

TEXTS = {i: f"text {i}" for i in range(12)}
CHAIN = [(0, 1), (1, 2), (5, 4), (4, 3)]


def test_duplicates_of_duplicates_are_duplicates_if_asked(model: Any) -> None:
    plain = ParaphraseMiningEvaluator(TEXTS, CHAIN)
    closed = ParaphraseMiningEvaluator(TEXTS, CHAIN, add_transitive_closure=True)
    assert plain.duplicates == {(0, 1), (1, 2), (4, 5), (3, 4)}
    assert closed.duplicates == plain.duplicates | {(0, 2), (3, 5)}
    joined = ParaphraseMiningEvaluator(TEXTS, [*CHAIN, (2, 3)], add_transitive_closure=True)
    assert joined.total_num_duplicates == 15


def test_a_dict_says_the_same_as_a_list(model: Any) -> None:
    graph = {0: {1: True, 7: False}, 2: {1: True}, 4: {5: True, 3: True}, 3: {4: True}}
    by_dict = ParaphraseMiningEvaluator(TEXTS, duplicates_dict=graph)
    assert by_dict(model) == ParaphraseMiningEvaluator(TEXTS, CHAIN)(model)


def test_a_perfect_model(make_model: Any) -> None:
    texts = {"a": "same", "b": "same", "c": "other", "d": "third"}
    found = ParaphraseMiningEvaluator(texts, [("b", "a")], name="dev")(make_model())
    metrics = {key.removeprefix("dev_"): value for key, value in found.items()}
    assert [metrics[key] for key in ("average_precision", "f1", "precision", "recall")] == [1.0] * 4
    assert 0 < metrics["threshold"] < 1


def test_what_is_not_mined_counts_as_not_found(model: Any) -> None:
    found = ParaphraseMiningEvaluator(TEXTS, CHAIN, max_pairs=1)(model)
    assert found["recall"] in (0.0, 0.25)


def test_pairs_of_unknown_ids_and_of_a_text_with_itself_are_left_out(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        evaluator = ParaphraseMiningEvaluator(TEXTS, [(0, 1), (0, 99), ("1", 2), (3, 3)])
    assert evaluator.duplicates == {(0, 1)}
    assert "2 of 4 pairs" in caplog.text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (({}, []), "at least one pair of texts; sentences_map holds 0"),
        (({1: "a"}, []), "at least one pair of texts; sentences_map holds 1"),
        ((TEXTS,), "at least one pair of duplicates among its 12 texts; 0 pairs were given"),
        ((TEXTS, [("0", "1")]), "1 pairs were given, and ids are like 0. Ids must be equal, type too"),
        (({**TEXTS, 5: None}, CHAIN), "row 5 is None"),
    ],
)
def test_bad_data_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ParaphraseMiningEvaluator(*data)


@pytest.mark.parametrize("size", [2, 3])
def test_a_team_finds_the_same(size: int, make_model: Any) -> None:
    evaluator = ParaphraseMiningEvaluator(TEXTS, CHAIN, query_chunk_size=2)

    def task(team: Any) -> dict[str, float]:
        model = make_model()
        model.team = team
        return evaluator(model)

    assert together(size, task) == [evaluator(make_model())] * size
