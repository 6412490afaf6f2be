"""Encodes a piece of a corpus in a worker: rows in, rows with vectors out, a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ray_st.data.sources import ROW, BadRow, Limits, SourceError
from ray_st.models.sentence_transformer import SentenceTransformer
from ray_st.runtime.encode.job import EncodeOptions
from ray_st.runtime.encode.output_folder import OutputFolder
from ray_st.runtime.encode.work_plan import EMBEDDING, WorkPiece
from ray_st.util.arrow import is_list
from ray_st.util.search.quantize import quantize_embeddings

CALIBRATION_ROWS = 8192
"""Number of rows whose embeddings determine the ranges for int8 and uint8."""

_CALIBRATION_PIECES = 64
_ZSTD = "zstd"


def encode_piece(
    model: SentenceTransformer,
    piece: WorkPiece,
    options: EncodeOptions,
    folder: OutputFolder,
    ranges: np.ndarray | None = None,
) -> int:
    """Encodes a piece and writes its file: all columns of the input, and ``embedding`` (lists of d numbers).

    Args:
        model: The model.
        piece: What to encode.
        options: How to encode it.
        folder: The output folder.
        ranges: (2, d) minimum and maximum of each dimension, for int8 and uint8.

    Returns:
        The number of rows.

    Raises:
        SourceError: If a row is unusable, naming file, row and column; or if the file has changed.
    """
    writer, rows = None, 0
    with folder.writing(piece.name) as stream:
        for table in windows(piece.part.read(raise_for, numbered=True)):
            embeddings = _embeddings(model, piece.part.name, table, options)
            vectors = quantize_embeddings(embeddings, options.precision, ranges)
            written = table.drop_columns([ROW]).append_column(EMBEDDING, vector_column(vectors))
            writer = writer or pq.ParquetWriter(stream, written.schema, compression=_ZSTD)
            writer.write_table(written)
            rows += len(written)
        if writer is not None:
            writer.close()
        if rows != piece.rows:
            raise SourceError(
                f"{piece.part.name}: {rows} rows where {piece.rows} were counted: the file has changed."
            )
    return rows


def windows(tables: Iterable[pa.Table], limits: Limits | None = None) -> Iterator[pa.Table]:
    """Concatenates tables up to the size limits.

    More texts at once means batches of more similar lengths.
    """
    limits = limits or Limits()
    held: list[pa.Table] = []
    for table in tables:
        rows, size = sum(map(len, held)), sum(one.nbytes for one in held)
        if held and (rows + len(table) > limits.rows or size + table.nbytes > limits.bytes):
            yield pa.concat_tables(held)
            held = []
        held.append(table)
    if held:
        yield pa.concat_tables(held)


def vector_column(vectors: np.ndarray) -> pa.Array:
    """Vectors (n, d) as a column of lists of length d."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def calibration_pieces(pieces: Sequence[WorkPiece]) -> list[WorkPiece]:
    """The rows that determine the ranges.

    The first rows of up to 64 pieces spread evenly over the corpus, 8192 rows in total.

    Raises:
        SourceError: If there is only one row, from which no range can be computed.
    """
    if sum(piece.rows for piece in pieces) < 2:
        raise SourceError(f"{pieces[0].part.name}: int8 and uint8 need at least two rows, to find ranges.")
    count = min(len(pieces), _CALIBRATION_PIECES)
    chosen = [pieces[index * len(pieces) // count] for index in range(count)]
    most = -(-CALIBRATION_ROWS // count)
    return [
        WorkPiece(piece.name, piece.part.within(0, min(most, piece.rows)), min(most, piece.rows))
        for piece in chosen
    ]


def bounds_of(model: SentenceTransformer, piece: WorkPiece, options: EncodeOptions) -> np.ndarray:
    """(2, d) minimum and maximum of each dimension over a piece's embeddings."""
    tables = windows(piece.part.read(raise_for, numbered=True))
    found = [_embeddings(model, piece.part.name, table, options) for table in tables]
    return joined_bounds([np.stack([each.min(axis=0), each.max(axis=0)]) for each in found])


def joined_bounds(bounds: Sequence[np.ndarray]) -> np.ndarray:
    """(2, d) bounds that enclose all the given ones, whatever their order."""
    lows, highs = np.stack(bounds, axis=1)
    return np.stack([lows.min(axis=0), highs.max(axis=0)])


def _embeddings(model: SentenceTransformer, name: str, table: pa.Table, options: EncodeOptions) -> np.ndarray:
    check_texts(name, table, options.column)
    texts = table[options.column]
    embeddings: np.ndarray = model.encode(texts.to_pylist(), **options.for_encode())
    return embeddings


def check_texts(file: str, table: pa.Table, column: str) -> None:
    """Checks that a column of texts, or of lists of texts, has one in each row.

    Args:
        file: The file, for the error.
        table: Rows with their numbers in :data:`ROW`.
        column: The column.

    Raises:
        SourceError: Naming the first row with a missing text.
    """
    values = table[column]
    if values.null_count:
        row = table[ROW][pc.index(values.is_null(), True).as_py()].as_py()
        raise_for(BadRow(file, row, "expected a text, found nothing", column))
    if is_list(values.type) and pc.list_flatten(values).null_count:
        place = next(place for place, cell in enumerate(values.to_pylist()) if None in cell)
        row = table[ROW][place].as_py()
        raise_for(BadRow(file, row, "expected texts, found nothing in a list", column))


def raise_for(bad: BadRow) -> None:
    """Raises for an unusable row.

    Raises:
        SourceError: Always.
    """
    raise SourceError(f"{bad}.")
