"""Checking rows finds what encoding finds, without encoding."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ray_st.data.column_spec import ColumnError, ColumnSpec
from ray_st.data.dataset_stats import describe_blocks
from ray_st.data.encoding import Encoding, encode_block
from ray_st.data.label_need import LabelNeed
from ray_st.data.located import read_located
from ray_st.data.row_check import CheckedRows, DatasetCheck, check_rows_of
from ray_st.data.sources import Files, Limits, Part, Table

VALUES = {
    "a": ["text", "another", "", "  ", None, 3, "x" * 50, "\ud800"],
    "label": [0.5, 1.0, 1, None, "high", float("nan"), 7.0],
}
LISTS = {"a": VALUES["a"], "label": [[1.0, 2.0], [3.0, 4.0], [5.0], None, [None, 1.0]]}


def written(folder: Path, values: dict[str, list[Any]], rng: random.Random, limits: Limits) -> Part:
    lines = []
    for _ in range(rng.randrange(1, 30)):
        good = rng.random() < 0.6
        row = {name: given[rng.randrange(2)] if good else rng.choice(given) for name, given in values.items()}
        lines.append("not JSON" if rng.random() < 0.1 else json.dumps(row))
    (folder / "t.jsonl").write_text("\n".join(lines))
    kind = pa.list_(pa.float64()) if values is LISTS else pa.float64()
    (part,) = Files(str(folder / "t.jsonl"), types={"a": "string", "label": kind}, limits=limits).parts()
    return part


def checked(part: Part, columns: ColumnSpec) -> tuple[DatasetCheck, list[CheckedRows]]:
    found, pieces = DatasetCheck(), list(check_rows_of(part, columns))
    for piece in pieces:
        found.add(piece)
    return found, pieces


@pytest.mark.parametrize("values", [VALUES, LISTS], ids=["numbers", "lists"])
def test_it_finds_what_encoding_finds(tmp_path: Path, values: dict[str, list[Any]]) -> None:
    need = LabelNeed("ALoss", most=5) if values is VALUES else None
    columns = ColumnSpec(("a",), "label", need)
    for seed in range(60):
        rng = random.Random(seed)
        rows = rng.choice([2, 5, 100])
        try:
            part = written(tmp_path, values, rng, Limits(rows=rows, cell=40))
        except ValueError:  # none of the first rows can be used
            continue
        found, pieces = checked(part, columns)
        blocks = [encode_block(table, Encoding(columns, None)) for table in read_located(part)]
        stats = describe_blocks(blocks, columns)
        faults = [bad for piece in pieces for bad in piece.faults]
        assert (found.rows, found.usable) == (stats.rows, len(stats.keys))
        assert [bad.row for bad in faults] == [row for row, _ in stats.faults]
        for bad, (_, told) in zip(faults, stats.faults, strict=True):
            assert told.endswith(bad.reason)
            assert bad.column is None or f"column {bad.column!r}" in told
        assert found._lengths == dict(stats.label_lengths)


def test_pieces_are_no_larger_than_what_a_reader_holds(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "x,y\n" * 100)
    (part,) = Files(str(tmp_path / "t.csv"), limits=Limits(rows=30)).parts()
    assert [piece.rows for piece in check_rows_of(part, ColumnSpec(("a", "b")))] == [30, 30, 30, 10]


def of_table(labels: list[Any]) -> Part:
    (part,) = Table(pa.table({"a": ["x"] * len(labels), "label": labels}), "t").parts()
    return part


def test_labels_are_checked_together() -> None:
    columns = ColumnSpec(("a",), "label", LabelNeed("ALoss", different=2))
    found, _ = checked(of_table([1, 1, 1]), columns)
    with pytest.raises(ColumnError, match=r"the 3 usable rows of train all have the same in column 'label'"):
        found.check_labels(columns, "train")
    found.add(CheckedRows(1, labels=(2,)))
    found.check_labels(columns, "train")


def test_lists_of_labels_have_one_length() -> None:
    columns = ColumnSpec(("a",), "label")
    found, _ = checked(of_table([[1.0], [2.0], [3.0, 4.0]]), columns)
    with pytest.raises(ColumnError, match=r"row 0 has 1 numbers, row 2 has 2"):
        found.check_labels(columns, "train")


def test_what_is_kept_does_not_grow() -> None:
    found = DatasetCheck()
    for start in range(0, 1000, 10):
        found.add(CheckedRows(10, labels=(start, start + 1)))
    assert (found.rows, found._labels) == (1000, [0, 1])
