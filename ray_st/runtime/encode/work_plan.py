"""Plans which rows of a corpus are encoded together, and checks them as far as possible beforehand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from ray_st.data.sources import Files, Part, SourceError
from ray_st.data.sources.cells import is_text
from ray_st.data.sources.errors import reading
from ray_st.data.sources.parquet import RowGroups
from ray_st.data.sources.source import Unit
from ray_st.util.names import did_you_mean

EMBEDDING = "embedding"
"""Name of the added column."""

PART_ROWS = 32_768
"""Maximum rows of a part: roughly the work that each worker must repeat after an interruption."""

_READERS = 16


@dataclass(frozen=True)
class WorkPiece:
    """Rows that become one output file.

    Args:
        name: Name of the file.
        part: The rows.
        rows: Number of rows.
    """

    name: str
    part: Part
    rows: int


def choose_column(names: Sequence[str], asked: str | None) -> str:
    """The column to encode: the requested one, or the only one, or ``text``.

    Raises:
        ValueError: If the column is missing, or a column ``embedding`` already exists.
    """
    if EMBEDDING in names:
        raise ValueError(f"already has a column `{EMBEDDING}`; rename or drop it")
    name = asked or (names[0] if len(names) == 1 else "text")
    if name not in names:
        raise ValueError(f"no column {name!r} to encode; {did_you_mean(name, names)}")
    return str(name)


def plan_pieces(source: Files, asked: str | None, part_rows: int = PART_ROWS) -> tuple[str, list[WorkPiece]]:
    """The column to encode and the pieces of a corpus, in order; no piece spans two files.

    Args:
        source: The files.
        asked: The column that the user named.
        part_rows: Maximum number of rows of a piece.

    Raises:
        SourceError: If a file cannot be read or its columns differ from the first file's, the column is
            missing or does not hold texts, a Parquet file's statistics count nulls in it, or there are no
            rows. Names the file.
    """
    kinds = source.columns()
    try:
        column = choose_column(list(kinds), asked)
    except ValueError as error:
        raise SourceError(f"{source.name}: {error}.") from error
    if not is_text(kinds[column]) and not pa.types.is_null(kinds[column]):
        raise SourceError(f"{source.name}: column {column!r}: expected texts, found {kinds[column]}.")
    return column, cut_pieces(source, [column], part_rows)


def cut_pieces(source: Files, columns: Sequence[str], part_rows: int = PART_ROWS) -> list[WorkPiece]:
    """The pieces of a corpus, in order; no piece spans two files.

    Args:
        source: The files.
        columns: Columns that must not hold nulls, as far as a Parquet file's statistics tell.
        part_rows: Maximum number of rows of a piece.

    Raises:
        SourceError: If statistics count nulls in a column, or there are no rows. Names the file.
    """
    if part_rows < 1:
        raise SourceError(f"part_rows must be at least 1; got {part_rows}.")
    parts = source.parts()
    with ThreadPoolExecutor(_READERS) as readers:
        for column in columns:
            list(readers.map(partial(_check_nulls, column=column), [part.unit for part in parts]))
        counts = list(readers.map(Part.count, parts))
    if not sum(counts):
        raise SourceError(f"{source.name}: no rows.")
    return _cut(parts, counts, part_rows)


def _cut(parts: Iterable[Part], counts: Iterable[int], part_rows: int) -> list[WorkPiece]:
    cuts = [
        (part.within(start, min(start + part_rows, rows)), min(part_rows, rows - start))
        for part, rows in zip(parts, counts, strict=True)
        for start in range(0, rows, part_rows)
    ]
    return [WorkPiece(f"part-{number:06d}.parquet", part, rows) for number, (part, rows) in enumerate(cuts)]


def _check_nulls(unit: Unit, column: str) -> None:
    """Rejects a Parquet file whose own statistics count missing texts."""
    if not isinstance(unit, RowGroups):
        return
    with reading(unit.name, "Parquet"), unit.file.open_random() as handle:
        metadata = pq.ParquetFile(handle).metadata
    paths = [metadata.schema.column(leaf).path for leaf in range(metadata.num_columns)]
    if column not in paths:  # a column of lists, whose statistics do not say which rows lack something
        return
    for group in unit.groups:
        chunk = metadata.row_group(group).column(paths.index(column))
        missing = chunk.statistics.null_count if chunk.is_stats_set else 0
        if missing:
            raise SourceError(
                f"{unit.name}: column {column!r}: {missing} of {chunk.num_values} texts in row group {group} "
                "are missing (null). Fill them in, or leave these rows out."
            )
