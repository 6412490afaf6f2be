from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ray_st.evaluation import ReciprocalRankFusionEvaluator, SequentialEvaluator


def ranking(query: int, step: int, length: int) -> list[str]:
    return [f"document {(query * 5 + place * step) % 23}" for place in range(length)]


def samples(step: int, length: int) -> list[dict[str, Any]]:
    return [
        {
            "query_id": f"q{query}",
            "query": f"query {query}",
            "positive": f"document {query}"
            if query % 3 == 0
            else [f"document {query}", f"document {query + 7}"],
            "documents": ranking(query, step, length),
        }
        for query in range(12)
    ]


DENSE, SPARSE = samples(3, 9), samples(7, 6)


@pytest.mark.parametrize("options", [{}, {"at_k": 3, "rrf_k": 1, "name": "dev"}], ids=str)
def test_the_metrics_and_files_are_the_peers(options: dict[str, Any], peer: Any, tmp_path: Path) -> None:
    from sentence_transformers.sparse_encoder.evaluation import ReciprocalRankFusionEvaluator as Peer

    options = {**options, "write_predictions": True}
    ours, theirs = ReciprocalRankFusionEvaluator(DENSE, SPARSE, **options), Peer(DENSE, SPARSE, **options)
    found = ours(output_path=str(tmp_path / "ours"), epoch=1, steps=5)
    expected = theirs(output_path=str(tmp_path / "theirs"), epoch=1, steps=5)
    assert list(found) == list(expected)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < found[ours.primary_metric] < 1
    assert ours.primary_metric == theirs.primary_metric
    for name in (ours.csv_file, ours.predictions_file):
        one, other = ((tmp_path / who / name).read_text() for who in ("ours", "theirs"))
        if name.endswith(".jsonl"):
            assert [json.loads(line) for line in one.splitlines()] == [
                json.loads(line) for line in other.splitlines()
            ]
        else:
            (head, row), (other_head, other_row) = (
                list(csv.reader(text.splitlines())) for text in (one, other)
            )
            assert head == other_head
            assert list(map(float, row)) == pytest.approx(list(map(float, other_row)))


def test_in_the_place_of_a_model_and_among_other_evaluators(tmp_path: Path) -> None:
    evaluator = ReciprocalRankFusionEvaluator(DENSE, SPARSE, name="both")
    plain = evaluator()
    assert evaluator(str(tmp_path)) == plain
    assert (tmp_path / evaluator.csv_file).is_file()
    assert SequentialEvaluator([evaluator])(object())["both_map"] == plain["both_map"]
    assert evaluator.get_config_dict() == {"at_k": 10, "rrf_k": 60, "write_predictions": False}


def test_where_nothing_relevant_was_found() -> None:
    lost = [{**sample, "positive": ["another"]} for sample in DENSE]
    found = ReciprocalRankFusionEvaluator(lost, lost)()
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize(
    ("dense", "sparse", "message"),
    [
        ([], [], "needs at least one row"),
        (DENSE, SPARSE[:3], "same length; found {'dense_samples': 12, 'sparse_samples': 3}"),
        (DENSE, SPARSE[::-1], "sample 0 is of query 'q0' in dense_samples and of 'q11' in sparse_samples"),
        ([{"query_id": 1}], [{"query_id": 1}], r"sample 0 of dense_samples lacks \['query', 'positive', 'documents'\]"),
    ],
    ids=["empty", "lengths", "order", "keys"],
)  # fmt: skip
def test_samples_that_do_not_go_together(dense: Any, sparse: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReciprocalRankFusionEvaluator(dense, sparse)
