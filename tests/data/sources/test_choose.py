from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_st.data.sources import Chosen, Cut, Files, Joined, SourceError, as_source, parse_split

SOURCE = as_source({"a": ["x", "y"], "b": ["p", "q"], "c": [1, 2]}, "train")


def test_columns_are_renamed_then_chosen_in_order(rows_of: Any) -> None:
    source = Chosen(SOURCE, ["score", "a"], {"c": "score"})
    assert rows_of(source) == [{"score": 1, "a": "x"}, {"score": 2, "a": "y"}]
    assert list(Chosen(SOURCE, rename={"a": "b", "b": "a"}).columns()) == ["b", "a", "c"]
    assert rows_of(Chosen(SOURCE, ["a"], {"a": "b", "b": "a"})) == [{"a": "p"}, {"a": "q"}]
    assert rows_of(Chosen(Chosen(SOURCE, rename={"a": "z"}), ["z"], {"c": "d"})) == [{"z": "x"}, {"z": "y"}]


@pytest.mark.parametrize(
    ("keep", "rename", "message"),
    [
        (["d"], {}, r"train: no column 'd'; known: a, b, c"),
        (None, {"d": "e"}, "no column 'd'"),
        (["a"], {"d": "e"}, "no column 'd'"),
        (["a"], {"a": "z"}, "renamed to 'z'"),
        (None, {"a": "b"}, "'b' would be there twice"),
        (["a", "a"], {}, "twice"),
        ([], {}, "names none"),
    ],
)
def test_columns_that_cannot_be_chosen(keep: Any, rename: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Chosen(SOURCE, keep, rename).columns()


def cut(spec: str, source: Any) -> Joined:
    return Joined([Cut(source, piece.bounds) for piece in parse_split(spec)])


SPLITS = [
    "train", "train[:]", "train[3:]", "train[:5]", "train[2:9]", "train[-4:]", "train[:-4]", "train[-5:-2]", "train[:80%]",
    "train[80%:]", "train[-15%:]", "train[33%:66%]", "train[:100%]", "train[:2]+train[-1:]", "train[:1]+train",
    "train[:8%]", "train[-99:]",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPLITS)
@pytest.mark.parametrize("kind", ["csv", "parquet", "rows"])
def test_slices_are_those_of_load_dataset(
    rows_of: Any, spec: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray_st.data.sources.parquet.UNIT_BYTES", 1)
    monkeypatch.setattr("ray_st.data.sources.memory.PART_ROWS", 5)
    for number, rows in enumerate([range(4), range(4, 11), range(11, 13)]):
        pq.write_table(pa.table({"n": list(rows)}), f"{number}.parquet", row_group_size=3)
        Path(f"{number}.csv").write_text("\n".join(["n", *map(str, rows)]))
    whole = as_source({"n": list(range(13))}) if kind == "rows" else Files(f"*.{kind}")
    expected = datasets.load_dataset(
        "parquet", data_files=["0.parquet", "1.parquet", "2.parquet"], split=spec
    )
    source = cut(spec, whole)
    assert [row["n"] for row in rows_of(source)] == expected["n"]
    assert sum(part.count() for part in source.parts()) == len(expected)


@pytest.mark.parametrize("spec", ["train[5:2]", "train[13:]", "train[90:100]", "train[:-13]", "train[:1%]"])
def test_a_slice_without_rows_is_refused(spec: str) -> None:
    with pytest.raises(SourceError, match=r"list: \[.*:.*\] of its rows are none; it has 13"):
        cut(spec, as_source([{"n": n} for n in range(13)], "list")).parts()


def test_a_slice_of_a_slice(rows_of: Any) -> None:
    source = cut("train[1:3]", cut("train[2:10]", as_source({"n": list(range(13))})))
    assert [row["n"] for row in rows_of(source)] == [3, 4]


def test_rows_that_are_put_aside_count_in_a_slice_and_are_told_once(rows_of: Any) -> None:
    Path("t.csv").write_text("a,b\n1,1\nbad\n3,3\nbad\n5,5\n")
    aside: list[Any] = []
    assert [row["a"] for row in rows_of(cut("train[:3]", Files("t.csv")), aside.append)] == [1, 3]
    assert [row["a"] for row in rows_of(cut("train[3:]", Files("t.csv")), aside.append)] == [5]
    assert [bad.line for bad in aside] == [3, 5]


def test_a_slice_from_the_start_reads_no_further() -> None:
    Path("t.csv").write_bytes(b"a\n1\n2\n\xff")
    (part,) = cut("train[:2]", Files("t.csv")).parts()
    assert [table["a"].to_pylist() for table in part.read()] == [[1, 2]]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "expected a split"),
        ("train[", "expected a split"),
        ("train[1]", "expected a split"),
        ("train[1:2:3]", "expected a split"),
        ("train[a:]", "whole number"),
        ("train[:1.5%]", "whole number"),
        ("train[:101%]", "beyond 100%"),
        ("train+", "expected a split"),
        ("train test", "expected a split"),
    ],
)
def test_what_is_no_split(spec: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        parse_split(spec)


def test_joined_sources_agree_on_types(rows_of: Any) -> None:
    more = as_source({"a": ["z"], "b": ["r"], "c": [0.5]}, "more")
    assert rows_of(Joined([SOURCE, more]))[-1] == {"a": "z", "b": "r", "c": 0.5}
    assert Joined([SOURCE, more]).columns()["c"] == pa.float64()
    with pytest.raises(SourceError, match="more: column 'c' is missing"):
        Joined([SOURCE, as_source({"a": ["z"], "b": ["r"]}, "more")]).columns()
