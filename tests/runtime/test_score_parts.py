"""A scoring job's parts without Ray: what is chosen, what is refused, what a worker writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ray_st.data.sources import Files, SourceError
from ray_st.runtime.encode.job import differences, scorer_hash
from ray_st.runtime.encode.output_folder import OutputFolder
from ray_st.runtime.encode.score_corpus import plan_scoring, score_corpus
from ray_st.runtime.encode.score_work import score_facts, score_piece, write_scored
from scorer_script import Scorer

ROWS = 23


def triplets() -> pa.Table:
    names = {"query": "q", "positive": "p", "negative": "n"}
    texts = {name: [f"{letter}{row % 7}" for row in range(ROWS)] for name, letter in names.items()}
    return pa.table({"id": range(ROWS), **texts})


def lists() -> pa.Table:
    documents = [[f"d{row} {place}" for place in range(row % 4)] for row in range(ROWS)]
    return pa.table({"query": [f"q{row}" for row in range(ROWS)], "documents": documents})


def scored(table: pa.Table, tmp_path: Path, columns: tuple[str, ...] = (), **options: Any) -> pa.Table:
    pq.write_table(table, tmp_path / "in.parquet")
    scoring, pieces = plan_scoring(Files(tmp_path / "in.parquet"), columns, 10, **options)
    assert write_scored(Scorer(), pieces, scoring, str(tmp_path / "out.parquet")) == len(table)
    return pq.read_table(tmp_path / "out.parquet")


def expected(pairs: list[tuple[str, str]], **options: Any) -> list[float]:
    return Scorer().predict(pairs, **options).tolist()


def test_pairs_get_a_score(tmp_path: Path) -> None:
    found = scored(triplets(), tmp_path, ("query", "negative"))
    assert found.column_names == ["id", "query", "positive", "negative", "score"]
    assert found["id"].to_pylist() == list(range(ROWS))
    pairs = list(zip(found["query"].to_pylist(), found["negative"].to_pylist(), strict=True))
    assert found["score"].to_pylist() == expected(pairs)


def test_several_columns_get_scores_in_their_order(tmp_path: Path) -> None:
    found = scored(triplets(), tmp_path, ("query", "negative", "positive"), logits=True, prompt_name="ask")
    rows = found.to_pylist()
    plain = {"activation_fn": torch.nn.Identity(), "prompt_name": "ask"}
    for row in rows:
        pairs = [(row["query"], row["negative"]), (row["query"], row["positive"])]
        assert row["scores"] == expected(pairs, **plain)


def test_lists_get_lists_of_their_lengths(tmp_path: Path) -> None:
    for row in scored(lists(), tmp_path).to_pylist():
        assert row["scores"] == expected([(row["query"], text) for text in row["documents"]])


@pytest.mark.parametrize("kind", ["columns", "columns of three", "lists"])
def test_margins(kind: str, tmp_path: Path) -> None:
    table = triplets()
    if kind == "columns of three":
        table = table.append_column("other", table["positive"])
    if kind == "lists":
        table = lists().filter(pa.compute.greater(pa.compute.list_value_length(lists()["documents"]), 1))
    found = scored(table, tmp_path, margins=True)
    for row in found.to_pylist():
        texts = row.get("documents") or [
            row[name] for name in ("positive", "negative", "other") if name in row
        ]
        first, *others = expected([(row["query"], text) for text in texts])
        margins = [first - other for other in others]
        assert row["label"] == pytest.approx(margins[0] if kind == "columns" else margins, abs=1e-6)


def test_a_row_without_a_second_document_has_no_margin(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"in\.parquet, row 0: margins need two documents or more, found 0"):
        scored(lists(), tmp_path, margins=True)


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (("query", "positve"), {}, "no column 'positve' to score; did you mean 'positive'"),
        (("query", "id"), {}, "column 'id': expected texts or lists of texts, found int64"),
        (("query",), {}, r"scoring needs a column of queries and one of documents; found \['query'\]"),
        (("query", "positive"), {"margins": True}, "margins need at least two documents in each row"),
    ],
)
def test_bad_columns_are_refused(columns: Any, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"in\.parquet: {message}"):
        scored(triplets(), tmp_path, columns, **options)


def test_a_list_is_no_query_and_a_column_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="column 'documents': expected a query's text in each row"):
        scored(lists(), tmp_path, ("documents", "query"))
    table = triplets().append_column("scores", triplets()["id"])
    with pytest.raises(SourceError, match="already has a column 'scores'"):
        scored(table, tmp_path, ("query", "positive", "negative"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"query": "q", "documents": None}, "column 'documents': expected a text, found nothing"),
        ({"query": None, "documents": ["a"]}, "column 'query': expected a text, found nothing"),
        ({"query": "q", "documents": ["a", None]}, "column 'documents'"),
    ],
)
def test_missing_texts_are_named(line: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = [{"query": "q", "documents": ["a", "b"]}] * 3 + [line]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    scoring, pieces = plan_scoring(Files(tmp_path / "in.jsonl"), part_rows=2)
    with pytest.raises(SourceError, match=rf"in\.jsonl, (row 3|line 4), {message}"):
        write_scored(Scorer(), pieces, scoring, str(tmp_path / "out.parquet"))


def test_a_worker_writes_a_piece_and_the_folder_knows_its_job(tmp_path: Path) -> None:
    pq.write_table(triplets(), tmp_path / "in.parquet")
    files = Files(tmp_path / "in.parquet")
    scoring, pieces = plan_scoring(files, ("query", "positive"), 10)
    folder = OutputFolder.at(tmp_path / "out")
    facts = score_facts(Scorer(), files, pieces, scoring)
    assert folder.begin(facts) is None
    folder.keep(facts)
    assert [score_piece(Scorer(), piece, scoring, folder) for piece in pieces] == [10, 10, 3]
    folder.finish(facts, pieces)
    assert folder.begin(facts) == facts
    other = score_facts(Scorer(), files, pieces, plan_scoring(files, ("query", "negative"), 10)[0])
    assert differences(facts, other) == ["columns was ['query', 'positive'], is ['query', 'negative']"]


def test_what_a_hash_depends_on() -> None:
    first, same = Scorer(), Scorer()
    assert scorer_hash(first) == scorer_hash(same)
    changed = [Scorer() for _ in range(4)]
    with torch.no_grad():
        changed[0].weight += 1
    changed[1].prompts = {"other": "x"}
    changed[2].activation_fn = torch.nn.Identity()
    changed[3].max_length = 5
    assert len({scorer_hash(model) for model in (first, *changed)}) == 5


def test_scores_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    pq.write_table(triplets(), tmp_path / "in.parquet")
    scoring, pieces = plan_scoring(Files(tmp_path / "in.parquet"))
    spoilt = Scorer()
    spoilt.predict = lambda pairs, **options: np.full(len(pairs), np.nan)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"The model's score of \('q0', 'p0'\) is nan"):
        write_scored(spoilt, pieces, scoring, str(tmp_path / "out.parquet"))
    spoilt.predict = lambda pairs, **options: np.ones((len(pairs), 2))  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="one score a pair; got"):
        write_scored(spoilt, pieces, scoring, str(tmp_path / "out.parquet"))


def test_a_model_with_several_labels_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a model with one label; this one has 3"):
        score_corpus(Scorer(num_labels=3), tmp_path / "nowhere.parquet", tmp_path / "out")
