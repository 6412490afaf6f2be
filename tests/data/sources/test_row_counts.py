"""Rows that are counted without reading any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_st.data.sources import Chosen, Cut, Files, Joined, as_source
from ray_st.data.sources.row_counts import known_rows
from ray_st.data.sources.splits import Bound, Bounds

TABLE = pa.table({"anchor": ["a", "b", "c"], "positive": ["d", "e", "f"]})
ROWS = TABLE.to_pylist()


@pytest.mark.parametrize(
    "value", [TABLE, ROWS, TABLE.to_pydict(), datasets.Dataset.from_list(ROWS)], ids=lambda value: type(value)
)
def test_rows_in_memory(value: Any) -> None:
    assert known_rows(as_source(value)) == 3


def test_a_dataset_as_it_is() -> None:
    assert known_rows(datasets.Dataset.from_list(ROWS)) == 3


def test_parquet_says_it_in_its_footer(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pq.write_table(TABLE, tmp_path / f"{name}.parquet", row_group_size=2)
    files = Files(str(tmp_path))
    assert known_rows(files) == 6
    assert known_rows(Chosen(files, ["anchor"])) == 6
    assert known_rows(Joined([files, as_source(TABLE)])) == 9


def test_what_would_have_to_be_read_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("anchor,positive\na,b\n")
    files = Files(str(tmp_path / "rows.csv"))
    assert known_rows(files) is None
    assert known_rows(Joined([as_source(TABLE), files])) is None
    assert known_rows(Cut(files, Bounds(stop=Bound(1)))) is None
    assert known_rows(datasets.IterableDataset.from_generator(lambda: iter(ROWS))) is None
