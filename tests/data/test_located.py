from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_st.data.column_spec import ColumnSpec
from ray_st.data.encoding import FAULT, Encoding, encode_block
from ray_st.data.located import FILE, READ_FAULT, read_located
from ray_st.data.sources import ROW, Files, Limits, as_source


def write(folder: Path, bad: set[int], rows: int = 10) -> str:
    path = folder / "t.jsonl"
    values = [{"a": row if row in bad else f"text {row}", "b": "x" * (row % 3)} for row in range(rows)]
    path.write_text("\n".join(map(json.dumps, values)))
    return str(path)


@pytest.mark.parametrize("limits", [Limits(), Limits(rows=3), Limits(rows=1), Limits(bytes=60)])
@pytest.mark.parametrize("bad", [{2}, {0, 9}, {8, 9}, {0, 1, 2, 3, 4}, {1, 3, 5, 7}, set()])
def test_rows_that_cannot_be_read_keep_their_places(tmp_path: Path, limits: Limits, bad: set[int]) -> None:
    (part,) = Files(write(tmp_path, bad), types={"a": "string"}, limits=limits).parts()
    rows = [row for table in read_located(part) for row in table.to_pylist()]
    assert [row[ROW] for row in rows] == list(range(10))
    assert [row["a"] for row in rows] == [None if row in bad else f"text {row}" for row in range(10)]
    assert {row[ROW] for row in rows if row[READ_FAULT]} == bad
    assert all(row[FILE] == part.name for row in rows)


def test_the_faults_of_two_readers_are_told_by_the_rows_places(tmp_path: Path) -> None:
    """What the reader cannot read and what the encoder cannot use, in one order."""
    path = write(tmp_path, {2})
    text = Path(path).read_text().replace("text 5", " ")
    Path(path).write_text(text)
    (part,) = Files(path).parts()
    (table,) = read_located(part)
    faults: list[Any] = encode_block(table, Encoding(ColumnSpec(("a",)), None))[FAULT].to_pylist()
    assert [row for row, fault in enumerate(faults) if fault] == [2, 5]
    assert "line 3, column 'a': expected string" in faults[2]
    assert "row 5, column 'a': expected a text, found an empty text" in faults[5]


def test_rows_in_memory_have_no_file() -> None:
    (part,) = as_source([{"a": "x"}, {"a": 3}, {"a": "y"}]).parts()
    (table,) = read_located(part)
    assert table[FILE].to_pylist() == [None] * 3
    assert [fault is None for fault in table[READ_FAULT].to_pylist()] == [True, False, True]


def test_the_last_rows_keep_their_order_if_different_checks_find_their_faults(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("good\n" + "x" * 30 + "\n" + "y" * 100 + "\n")
    (part,) = Files(str(path), limits=Limits(cell=20)).parts()
    assert [row for table in read_located(part) for row in table[ROW].to_pylist()] == [0, 1, 2]
