"""Files of other trainers as datasets, and errors that name file, line and field."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ray_st.readers import ReaderError, read_beir, read_flag_embedding, read_tevatron

ROWS: list[dict[str, Any]] = [
    {
        "query": "q1",
        "pos": ["p1", "p2"],
        "neg": ["n1", "n2", "n3"],
        "pos_scores": [0.9, 0.8],
        "neg_scores": [0.1, 0.2, 0.3],
        "prompt": "not read",
    },
    {"query": "q2", "pos": ["p3"], "neg": ["n4"], "pos_scores": [1], "neg_scores": [0]},
]


def write(path: Path, rows: list[Any]) -> Path:
    text = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "rows.jsonl", ROWS)


FORMATS: list[tuple[str, dict[str, Any], list[tuple[Any, ...]]]] = [
    ("pair", {}, [("q1", "p1"), ("q1", "p2"), ("q2", "p3")]),
    (
        "triplet",
        {"num_negatives": 2},
        [*(("q1", p, n) for p in ("p1", "p2") for n in ("n1", "n2")), ("q2", "p3", "n4")],
    ),
    ("n-tuple", {"num_negatives": 3}, [("q1", p, "n1", "n2", "n3") for p in ("p1", "p2")]),
    (
        "labeled-pair",
        {"num_negatives": 1},
        [("q1", "p1", 1), ("q1", "p2", 1), ("q1", "n1", 0), ("q2", "p3", 1), ("q2", "n4", 0)],
    ),
    (
        "labeled-list",
        {},
        [("q1", ["p1", "p2", "n1", "n2", "n3"], [1, 1, 0, 0, 0]), ("q2", ["p3", "n4"], [1, 0])],
    ),
]
COLUMNS = {
    "pair": ["query", "positive"],
    "triplet": ["query", "positive", "negative"],
    "n-tuple": ["query", "positive", "negative_1", "negative_2", "negative_3"],
    "labeled-pair": ["query", "document", "label"],
    "labeled-list": ["query", "documents", "labels"],
}


@pytest.mark.parametrize(("output_format", "options", "expected"), FORMATS)
@pytest.mark.parametrize("mapped", [False, True])
def test_formats(output_format, options, expected, mapped, file, tmp_path) -> None:
    arrow_file = tmp_path / "new" / "rows.arrow" if mapped else None
    found = read_flag_embedding(file, output_format, arrow_file=arrow_file, **options)
    assert found.column_names == COLUMNS[output_format]
    assert [tuple(row.values()) for row in found] == expected
    assert bool(found.cache_files) is mapped


SCORED: list[tuple[str, dict[str, Any], list[str], tuple[Any, ...]]] = [
    ("pair", {}, ["query", "positive", "score"], ("q1", "p1", 0.9)),
    ("triplet", {}, ["query", "positive", "negative", "scores"], ("q1", "p1", "n1", [0.9, 0.1])),
    (
        "n-tuple",
        {"num_negatives": 3},
        ["query", "positive", "negative_1", "negative_2", "negative_3", "scores"],
        ("q1", "p1", "n1", "n2", "n3", [0.9, 0.1, 0.2, 0.3]),
    ),
    ("labeled-pair", {}, ["query", "document", "score"], ("q1", "p1", 0.9)),
    (
        "labeled-list",
        {"num_negatives": 1},
        ["query", "documents", "scores"],
        ("q1", ["p1", "p2", "n1"], [0.9, 0.8, 0.1]),
    ),
]


@pytest.mark.parametrize(("output_format", "options", "columns", "first"), SCORED)
def test_scores(output_format, options, columns, first, file) -> None:
    found = read_flag_embedding(file, output_format, output_scores=True, **options)
    assert found.column_names == columns
    assert tuple(found[0].values()) == first


def test_several_files_and_compressed_ones_in_order(file, tmp_path) -> None:
    packed = write(tmp_path / "more.jsonl.gz", [{"query": "q9", "pos": ["p9"]}])
    found = read_flag_embedding([file, packed], "pair")
    assert list(found["query"]) == ["q1", "q1", "q2", "q9"]


def test_more_queries_than_a_block(tmp_path) -> None:
    rows = [{"query": f"q{i}", "pos": [f"p{i}"], "neg": []} for i in range(2500)]
    found = read_flag_embedding(write(tmp_path / "rows.jsonl", rows), "labeled-list")
    assert len(found) == 2500
    assert found[2499] == {"query": "q2499", "documents": ["p2499"], "labels": [1]}


def test_queries_without_a_row_are_counted(file, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        read_flag_embedding(file, "n-tuple", num_negatives=3)
    expected = "1 of 2 queries give no row of the format 'n-tuple', which needs a positive and 3 negatives"
    assert expected in caplog.text
    with pytest.raises(ReaderError, match=r"None of 2 queries gives a row of the format 'n-tuple'.* Mine"):
        read_flag_embedding(file, "n-tuple", num_negatives=4, arrow_file=tmp_path / "rows.arrow")
    assert not (tmp_path / "rows.arrow").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", 'expected a JSON object, found "text"'),
        ({"pos": ["a"]}, r"no field 'query'; found \['pos'\]"),
        ({"query": "", "pos": ["a"]}, "field 'query': expected a text, found ''"),
        ({"query": "q"}, "no field 'pos'"),
        ({"query": "q", "pos": "a"}, "field 'pos': expected a list, found 'a'"),
        ({"query": "q", "pos": ["a", 3]}, r"field 'pos\[1\]': expected a text, found 3"),
        ({"query": "q", "pos": ["a"], "neg": ["b", None]}, r"field 'neg\[1\]': expected a text, found None"),
        ({"query": "q", "pos": ["a"], "neg": ["b"]}, "no field 'pos_scores'"),
        (
            {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [1], "neg_scores": [1, 2]},
            "field 'neg_scores': expected 1 numbers, one for each entry of 'neg'; found 2",
        ),
        (
            {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": ["1"], "neg_scores": [1]},
            r"field 'pos_scores\[0\]': expected a finite number, found '1'",
        ),
        (
            {"query": "q", "pos": ["a"], "neg": ["b"], "pos_scores": [float("nan")], "neg_scores": [1]},
            r"field 'pos_scores\[0\]': expected a finite number, found nan",
        ),
    ],
)
def test_bad_rows_are_named(row, message, tmp_path) -> None:
    file = write(tmp_path / "rows.jsonl", [ROWS[0], row])
    with pytest.raises(ReaderError, match=f"rows.jsonl, line 2.*{message}"):
        read_flag_embedding(file, output_scores=True)


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(ReaderError, match=r"none\.jsonl: no such file"):
        read_flag_embedding(tmp_path / "none.jsonl")
    (tmp_path / "odd.jsonl").write_text("{")
    with pytest.raises(ReaderError, match=r"odd\.jsonl, line 1: not JSON"):
        read_flag_embedding(tmp_path / "odd.jsonl")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_format": "triplets"}, "no output_format 'triplets': did you mean 'triplet'"),
        ({"output_format": "n-tuple"}, "'n-tuple' needs num_negatives"),
        ({"num_negatives": 0}, "num_negatives must be at least 1; got 0"),
    ],
)
def test_bad_options(options, message, file) -> None:
    with pytest.raises(ValueError, match=message):
        read_flag_embedding(file, **options)


PASSAGES = {
    "query_id": "7",
    "query": "q",
    "positive_passages": [{"docid": "1", "title": "T", "text": "p"}, {"docid": "2", "text": "r"}],
    "negative_passages": [
        {"docid": "3", "title": "", "text": "n"},
        {"docid": "4", "title": "only", "text": ""},
    ],
}


def test_tevatron(tmp_path) -> None:
    file = write(tmp_path / "rows.jsonl", [PASSAGES, {"query": "s", "positive_passages": [{"text": "x"}]}])
    found = read_tevatron(file, "labeled-list")
    assert found[0] == {"query": "q", "documents": ["T p", "r", "n", "only"], "labels": [1, 1, 0, 0]}
    assert found[1] == {"query": "s", "documents": ["x"], "labels": [1]}
    assert read_tevatron(file, num_negatives=1)[0] == {"query": "q", "positive": "T p", "negative": "n"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positive_passages": ["p"]}, r"field 'positive_passages\[0\]': expected an object, found 'p'"),
        (
            {"negative_passages": [{"text": "a"}, {"title": "t", "text": ""}]},
            r"field 'negative_passages\[1\]', field 'text': expected a text, found ''",
        ),
        ({"negative_passages": [{"docid": "3"}]}, r"field 'negative_passages\[0\]': no field 'text'"),
    ],
)
def test_bad_passages_are_named(change, message, tmp_path) -> None:
    file = write(tmp_path / "rows.jsonl", [{**PASSAGES, **change}])
    with pytest.raises(ReaderError, match=f"line 1, {message}"):
        read_tevatron(file, titles=False)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    root = tmp_path / "scifact"
    (root / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{i}", "title": f"T{i}" if i % 2 else "", "text": f"t{i}"} for i in range(5)]
    write(root / "corpus.jsonl", [*corpus, {"_id": "unused", "title": "", "text": ""}])
    write(root / "queries.jsonl.gz", [{"_id": 1, "text": "one"}, {"_id": "2", "text": "two", "metadata": {}}])
    (root / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\n1\td0\t0\n2\td1\t2\n1\td3\t1\n1\td2\t2\n"
    )
    return root


def test_beir(beir) -> None:
    pairs = [tuple(row.values()) for row in read_beir(beir)]
    assert pairs == [("one", "t2"), ("one", "T3 t3"), ("two", "T1 t1")]
    lists = read_beir(beir, output_format="labeled-list", titles=False)
    assert lists[0] == {"query": "one", "documents": ["t2", "t3", "t0"], "labels": [2, 1, 0]}
    triplets = [tuple(row.values()) for row in read_beir(beir, output_format="triplet")]
    assert triplets == [("one", "t2", "t0"), ("one", "T3 t3", "t0")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\td9\t1", "field 'corpus-id': 'd9' is not in corpus.jsonl"),
        ("9\td1\t1", "field 'query-id': '9' is not in queries.jsonl"),
        ("1\td1\thigh", "field 'score': expected a whole number, found 'high'"),
        ("1\t0\td1\t1", "expected three fields, query-id, corpus-id and score, separated by tabs; found 4"),
    ],
)
def test_bad_qrels_are_named(line, message, beir) -> None:
    with (beir / "qrels" / "train.tsv").open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(ReaderError, match=f"train.tsv, line 6.*{message}"):
        read_beir(beir)


def test_texts_that_the_qrels_name_must_be_texts(beir) -> None:
    write(beir / "corpus.jsonl", [{"_id": "d0", "text": 5}])
    with pytest.raises(ReaderError, match=r"corpus\.jsonl, line 1, field 'text': expected a text, found 5"):
        read_beir(beir)


def test_a_missing_split(beir) -> None:
    with pytest.raises(ReaderError, match=r"qrels/test\.tsv: no such file"):
        read_beir(beir, "test")
