from __future__ import annotations

import pickle
import sqlite3
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from ray_st.data.sources import Limits, SourceError, Sql, as_source
from ray_st.data.sources.source_kinds import from_values

ROWS = [{"a": "x", "n": 1}, {"a": "y", "n": None}, {"a": "z", "n": 3}]
COLUMNS = {"a": ["x", "y", "z"], "n": [1, None, 3]}


def a_stream() -> Any:
    yield from ROWS


def on_disk() -> datasets.Dataset:
    datasets.Dataset.from_dict(COLUMNS).save_to_disk("saved")
    return datasets.load_from_disk("saved")


VALUES: dict[str, Any] = {
    "dict": lambda: COLUMNS,
    "list": lambda: ROWS,
    "arrow": lambda: pa.table(COLUMNS),
    "batch": lambda: pa.RecordBatch.from_pydict(COLUMNS),
    "pandas": lambda: pd.DataFrame({"a": COLUMNS["a"], "n": pd.array([1, None, 3], "Int64")}),
    "dataset": lambda: datasets.Dataset.from_dict(COLUMNS),
    "formatted": lambda: datasets.Dataset.from_dict(COLUMNS).with_format("numpy"),
    "on disk": on_disk,
    "folder": lambda: on_disk() and "saved",
    "stream": lambda: datasets.IterableDataset.from_generator(a_stream),
    "to stream": lambda: datasets.Dataset.from_dict(COLUMNS).to_iterable_dataset(),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("limits", [Limits(), Limits(rows=1)])
def test_everything_gives_the_same_rows(rows_of: Any, kind: str, limits: Limits) -> None:
    source = as_source(VALUES[kind](), "train", limits=limits)
    assert source.columns() == {"a": pa.string(), "n": pa.int64()}
    assert rows_of(source) == ROWS
    assert source.columns(["n"]) == {"n": pa.int64()}
    assert [part.count() for part in source.parts()] == [3]
    assert [row["source_row"] for row in rows_of(source, numbered=True)] == [0, 1, 2]
    with pytest.raises(SourceError, match="no column 'm'"):
        source.parts(["m"])


@pytest.mark.parametrize("kind", VALUES)
def test_the_first_rows_only(rows_of: Any, kind: str) -> None:
    assert rows_of(as_source(VALUES[kind](), rows=2)) == ROWS[:2]


def endless() -> Any:
    number = 0
    while True:
        yield {"n": number}
        number += 1


def test_an_endless_stream_is_bounded(rows_of: Any) -> None:
    stream = datasets.IterableDataset.from_generator(endless)
    assert rows_of(as_source(stream, rows=3)) == [{"n": 0}, {"n": 1}, {"n": 2}]


@pytest.mark.parametrize("make", [on_disk, VALUES["dataset"]])
def test_indices_are_respected(rows_of: Any, make: Any) -> None:
    assert rows_of(as_source(make().select([2, 0, 2]))) == [ROWS[2], ROWS[0], ROWS[2]]
    shuffled = make().shuffle(seed=3)
    assert rows_of(as_source(shuffled)) == shuffled.to_list()


def test_a_transform_is_applied(rows_of: Any) -> None:
    dataset = datasets.Dataset.from_dict(COLUMNS).select([2, 0])
    dataset.set_transform(lambda batch: {"loud": [text.upper() for text in batch["a"]]})
    source = as_source(dataset)
    assert source.columns() == {"loud": pa.string()}
    assert rows_of(source) == [{"loud": "Z"}, {"loud": "X"}]


def test_parts_of_a_table_carry_their_own_rows_only(rows_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray_st.data.sources.memory.PART_ROWS", 100)
    monkeypatch.setattr("ray_st.data.sources.hugging.PART_ROWS", 100)
    table = pa.table({"n": np.arange(10_000)})
    for value in (table, datasets.Dataset(table), table.to_pylist()):
        parts = as_source(value).parts()
        assert len(parts) == 100
        assert len(pickle.dumps(parts[3])) < 4000
        assert rows_of(as_source(value), numbered=True)[357] == {"n": 357, "source_row": 357}


def test_decimals_may_grow(rows_of: Any) -> None:
    """As a database returns them: the first rows do not tell how many digits there will be."""
    rows = [*[{"n": Decimal("1.50")}] * 1000, {"n": Decimal("123456789.25")}, {"n": None}]
    source = as_source(rows)
    assert source.columns() == {"n": pa.decimal128(38, 2)}
    assert rows_of(source) == rows
    with pytest.raises(SourceError, match=r"row 1, column 'n': expected decimal128.*set with types"):
        rows_of(as_source([{"n": Decimal("1.5")}, {"n": 0.25}]))
    array, odd = from_values([Decimal("1.5"), None, 2], pa.float64())
    assert (array.to_pylist(), odd) == ([1.5, None, 2.0], [])


class TestOddValues:
    def test_two_types_in_a_column(self) -> None:
        with pytest.raises(SourceError, match=r"train, row 1, column 'a': expected string.*found 2 \(int\)"):
            as_source({"a": ["x", 2]}, "train")
        with pytest.raises(SourceError, match=r"train, row 1, column 'a': expected string"):
            as_source(pd.DataFrame({"a": np.array(["x", 2], dtype=object)}), "train")

    def test_in_a_list_they_can_be_put_aside(self, rows_of: Any) -> None:
        rows = [{"a": "x"}, {"a": 2}, ["y"], {"a": "z"}]
        source = as_source(rows, "train")
        with pytest.raises(SourceError, match="train, row 2: expected a mapping"):
            rows_of(source)
        aside: list[Any] = []
        assert rows_of(source, aside.append) == [{"a": "x"}, {"a": "z"}]
        assert sorted(bad.row for bad in aside) == [1, 2]

    @pytest.mark.parametrize(
        "value", [{"a": ["x", "b\ud800c"]}, [{"a": "x"}, {"a": "b\ud800c"}], "t.jsonl", "stream"]
    )
    def test_half_of_a_surrogate_pair(self, rows_of: Any, value: Any) -> None:
        if value == "t.jsonl":
            Path(value).write_text('{"a": "x"}\n{"a": "b\\ud800c"}\n')
        if value == "stream":
            value = datasets.IterableDataset.from_generator(lambda: iter([{"a": "x"}, {"a": "b\ud800c"}]))
        match = (
            r"(row 1|line 2), column 'a': character 1 is half of a surrogate pair, '\\ud800', which is not"
        )
        with pytest.raises(SourceError, match=match):
            rows_of(as_source(value, "train"))

    def test_nothing_but_halves_of_surrogate_pairs(self, rows_of: Any) -> None:
        with pytest.raises(SourceError, match="row 0, column 'a': character 0 is half of a surrogate pair"):
            rows_of(as_source([{"a": "\udfff"}], "train"))

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ({"a": [1], "b": [1, 2]}, r"one length, found \{'a': 1, 'b': 2\}"),
            ({"a": "word"}, "expected a sequence"),
            (pd.DataFrame({1: ["x"]}), r"named by words, found 1 \(int\)"),
            (pa.table([[1], [2]], names=["a", "a"]), "column 'a' is there twice"),
            ([1, 2], r"found 1 \(int\)"),
            ([], "found no rows"),
            (3, "train: expected a path, pattern"),
            (None, "found nothing"),
            (datasets.DatasetDict({"x": datasets.Dataset.from_dict(COLUMNS)}), r"found the splits \['x'\]"),
            ("nowhere.csv", "no such file"),
            ("folder/nowhere.csv", "no such file"),
            ("nowhere", "no such file"),
        ],
    )
    def test_what_is_none_of_these_is_refused(self, value: Any, message: str) -> None:
        with pytest.raises(SourceError, match=message):
            as_source(value, "train").columns()

    def test_a_hub_that_cannot_be_reached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        with pytest.raises(SourceError, match=r"somebody/something: split 'train'.*HF_HUB_OFFLINE is set"):
            as_source("somebody/something")

    def test_a_frame_with_columns_named_like_a_source(self, rows_of: Any) -> None:
        assert rows_of(as_source(pd.DataFrame({"name": ["x"], "parts": ["y"]}))) == [
            {"name": "x", "parts": "y"}
        ]


class TestSql:
    @pytest.fixture
    def connect(self, tmp_path: Path) -> Any:
        connect = partial(sqlite3.connect, str(tmp_path / "t.db"))
        with connect() as connection:
            connection.execute("create table t (a text, n integer, gap text)")
            connection.executemany(
                "insert into t values (?, ?, null)", [(f"text {n}", n) for n in range(3000)]
            )
        connection.close()
        return connect

    def test_rows_in_order(self, connect: Any, rows_of: Any) -> None:
        source = Sql("select * from t order by n desc", connect)
        assert source.columns() == {"a": pa.string(), "n": pa.int64(), "gap": pa.string()}
        rows = rows_of(source)
        assert len(rows) == 3000
        assert rows[0] == {"a": "text 2999", "n": 2999, "gap": None}

    def test_a_part_for_each_set_of_parameters(self, connect: Any, rows_of: Any) -> None:
        source = Sql("select n from t where n >= ? and n < ? order by n", connect, [(0, 2), (2, 5)])
        assert len(source.parts()) == 2
        assert [row["n"] for row in rows_of(source)] == [0, 1, 2, 3, 4]

    def test_no_rows(self, connect: Any, rows_of: Any) -> None:
        source = Sql("select a, n from t where n < 0", connect, types={"n": "int64"})
        assert source.columns() == {"a": pa.string(), "n": pa.int64()}
        assert rows_of(source) == []

    @pytest.mark.parametrize(
        ("query", "message"),
        [
            ("select nothere from t", "the query 'select nothere from t': the database says: no such column"),
            ("select a, a from t", "column 'a' twice"),
            ("update t set n = 1", "returns no rows"),
        ],
    )
    def test_a_query_that_does_not_work(self, connect: Any, query: str, message: str) -> None:
        with pytest.raises(SourceError, match=message):
            Sql(query, connect).columns()

    def test_a_value_of_another_type(self, connect: Any) -> None:
        (part,) = Sql("select n from t union all select 'word'", connect).parts()
        with pytest.raises(SourceError, match=r"row 3000, column 'n': expected int64.*'word'"):
            list(part.read())
