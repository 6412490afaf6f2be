from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_st.data.sources import SourceError
from ray_st.data.table_spec import TableSpec, open_table, read_table

ROWS = [
    {"a": "one", "b": "first", "score": 1.0},
    {"a": 'a "quoted" word', "b": "NA", "score": 0.5},
    {"a": "two, three", "b": "tab", "score": 0.0},
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    quoted = "\n".join(["a,b,score", "one,first,1.0", '"a ""quoted"" word",NA,0.5', '"two, three",tab,0.0'])
    (tmp_path / "t.csv").write_text(quoted + "\n")
    plain = "\n".join("\t".join(str(value) for value in row.values()) for row in ROWS)
    (tmp_path / "t.tsv").write_text("a\tb\tscore\n" + plain + "\n")
    (tmp_path / "bare.tsv").write_text(plain + "\n")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS) + "\n")
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    (tmp_path / "t.txt").write_text("one\ntwo\n")
    return tmp_path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet"])
def test_every_format_gives_the_same_rows(files: Path, name: str) -> None:
    assert read_table(TableSpec(str(files / name))).to_list() == ROWS


def test_plain_text_is_one_column(files: Path) -> None:
    assert read_table(TableSpec(str(files / "t.txt"))).to_dict() == {"text": ["one", "two"]}


def test_a_file_without_header_gets_names(files: Path) -> None:
    spec = TableSpec(str(files / "bare.tsv"), names=["a", "b", "score"])
    assert read_table(spec).to_list() == ROWS


def test_columns_are_renamed_then_chosen_in_order_then_cut(files: Path) -> None:
    spec = TableSpec(str(files / "t.csv"), rename={"a": "anchor"}, columns=["score", "anchor"], rows=2)
    table = read_table(spec)
    assert table.column_names == ["score", "anchor"]
    assert len(table) == 2


def test_a_slice_of_the_split(files: Path) -> None:
    assert read_table(TableSpec(str(files / "t.csv"), split="train[1:]")).to_list() == ROWS[1:]


def test_several_files_by_pattern_or_list(files: Path) -> None:
    (files / "u.csv").write_text((files / "t.csv").read_text())
    assert len(read_table(TableSpec(str(files / "?.csv")))) == 6
    assert len(read_table(TableSpec([str(files / "t.csv"), str(files / "u.csv")]))) == 6


def test_an_empty_field_is_missing(files: Path) -> None:
    (files / "gap.csv").write_text("a,b\none,\n")
    assert read_table(TableSpec(str(files / "gap.csv"))).to_list() == [{"a": "one", "b": None}]


def test_the_format_can_be_said(files: Path) -> None:
    (files / "odd.data").write_text((files / "t.csv").read_text())
    with pytest.raises(SourceError, match=r"odd\.data.*set `format`"):
        read_table(TableSpec(str(files / "odd.data")))
    assert len(read_table(TableSpec(str(files / "odd.data"), format="csv"))) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "nowhere.csv"}, r"nowhere\.csv: no such file"),
        ({"path": "*.nothing"}, "no such file"),
        ({"columns": ["scores"]}, r"t\.csv: no column 'scores'; did you mean 'score'\?"),
        ({"rename": {"x": "y"}}, r"no column 'x'; known: a, b, score"),
        ({"format": "cvs"}, r"unknown format 'cvs'; did you mean 'csv'\?"),
        ({"split": "test"}, "no split 'test': files are the split 'train'"),
        ({"split": "train[:x]"}, "expected a whole number"),
        ({"split": "train[3:]"}, r"\[3:\] of its rows are none"),
        ({"path": {"train": "t.csv"}, "split": "trian"}, "did you mean 'train'"),
        ({"subset": "en"}, "`subset` is for a dataset of the Hub"),
        ({"path": None, "hub": "somebody/something", "format": "csv"}, "`format` is for files"),
        ({"rows": 0}, "rows: expected at least 1"),
        ({"types": {"score": "flaot64"}}, "unknown type 'flaot64'; did you mean 'float64'"),
        ({"format": "parquet"}, r"t\.csv: cannot be read as Parquet"),
        ({"format": "json"}, r"t\.csv, line 1: not JSON"),
        ({"format": "text", "delimiter": ";"}, "`delimiter` is for CSV"),
        ({"hub": "somebody/something"}, "either `path`"),
        ({"path": None}, "either `path`"),
    ],
)
def test_what_cannot_be_read_is_refused(files: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read_table(TableSpec(**{"path": str(files / "t.csv"), **changes}))  # type: ignore[arg-type]


def test_ragged_rows_name_the_file(files: Path) -> None:
    (files / "ragged.csv").write_text("a,b\none,two\none,two,three,four\n")
    with pytest.raises(SourceError, match=r"ragged\.csv, line 3: expected 2 fields, found 4"):
        read_table(TableSpec(str(files / "ragged.csv")))


def test_a_hub_that_cannot_be_reached_names_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="somebody/something"):
        read_table(TableSpec(hub="somebody/something"))


def test_splits_by_name_are_joined(files: Path) -> None:
    spec = TableSpec(
        {"train": str(files / "t.csv"), "test": [str(files / "t.tsv")]},
        format=None,
        split="train[:1]+train[-1:]",
    )
    assert read_table(spec).to_list() == [ROWS[0], ROWS[2]]
    both = TableSpec(
        {"train": str(files / "t.csv"), "test": str(files / "t.jsonl")}, split="test[:50%]+train"
    )
    assert read_table(both).to_list() == [*ROWS[:2], *ROWS]


def test_a_folder_of_save_to_disk(files: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"dev": rows, "test": rows.select([1])}).save_to_disk(str(files / "saved"))
    spec = TableSpec(str(files / "saved"), split="dev[1:]+test", columns=["b"])
    assert read_table(spec).to_list() == [{"b": "NA"}, {"b": "tab"}, {"b": "NA"}]
    with pytest.raises(SourceError, match="no split 'train'; known: dev, test"):
        open_table(TableSpec(str(files / "saved")))
    with pytest.raises(SourceError, match="`types` is for files, not for a folder that save_to_disk wrote"):
        open_table(TableSpec(str(files / "saved"), split="dev", types={"a": "string"}))
