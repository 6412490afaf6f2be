"""Segments of one large row group are read by a pass each, or by one pass together: the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_st.data.catalogue import Catalogue, Span, read_together
from ray_st.data.sources import Files, Part, SourceError, parquet

SEGMENT = 10


def parts_of(folder: Path, rows: int, group: int, files: int = 1) -> list[Part]:
    for number in range(files):
        texts = [None if row % 17 == 3 else f"{number}:{row}" for row in range(rows)]
        pq.write_table(pa.table({"a": texts}), folder / f"{number}.parquet", row_group_size=group)
    return Files(str(folder)).parts()


def rows_in(tables: list[pa.Table]) -> list[dict[str, Any]]:
    return [row for table in tables for row in table.to_pylist()]


def test_one_pass_gives_the_rows_of_each(tmp_path: Path) -> None:
    catalogue = Catalogue(parts_of(tmp_path, 95, 95), SEGMENT)
    for chosen in ([0, 1], [2, 5, 9], [9], [0, 3, 4, 8]):
        spans = [span for one in chosen for span in catalogue.spans(one)]
        assert [rows_in(tables) for tables in read_together(spans)] == [
            rows_in(list(span.read())) for span in spans
        ]


@pytest.mark.parametrize(
    ("group", "most", "groups"),
    [
        (95, 8, [[0, 2, 3, 6, 9]]),
        (95, 2, [[0, 2], [3, 6], [9]]),
        (95, 1, [[0], [2], [3], [6], [9]]),
        (40, 8, [[6], [0, 2, 3], [9]]),
        (19, 8, [[6], [0], [3], [9], [2]]),
    ],
    ids=["all", "two", "one", "row groups", "small row groups"],
)
def test_segments_of_a_large_row_group_are_read_together(
    tmp_path: Path, group: int, most: int, groups: list[list[int]]
) -> None:
    catalogue = Catalogue(parts_of(tmp_path, 95, group), SEGMENT)
    assert catalogue.together([6, 0, 3, 9, 2], most) == groups


def test_a_segment_of_two_files_is_read_alone(tmp_path: Path) -> None:
    catalogue = Catalogue(parts_of(tmp_path, 95, 95, files=2), SEGMENT)
    assert catalogue.together([8, 9, 10, 18, 11], 8) == [[8], [9], [10, 11, 18]]


def test_a_file_that_lost_rows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = parts_of(tmp_path, 95, 95)
    spans = [Span(part.within(start, start + 10), 10) for start in (10, 90)]
    monkeypatch.setattr(parquet.RowGroups, "check_unchanged", lambda unit: None)
    with pytest.raises(SourceError, match=r"85 rows were read where 90 were counted"):
        read_together(spans)
