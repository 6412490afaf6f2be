"""Write the embeddings of a file's texts: Parquet, CSV, TSV, JSON Lines or plain text in, Parquet out."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_st.cli.checks import RunFileError
from ray_st.cli.runfile import ModelSpec
from ray_st.data.sources.files import FORMATS
from ray_st.data.table_spec import TableSpec
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

CHUNK_ROWS = 8192
"""Rows that are encoded and written at a time; texts are sorted by length within them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model folder, or a name on the Hub")
    parser.add_argument("input", metavar="INPUT", help="the file that holds the texts")
    parser.add_argument(
        "output", metavar="OUTPUT", help="the Parquet file to write; replaced when it is complete"
    )
    parser.add_argument("--column", help="the column to encode; by default `text`, or the only column")
    parser.add_argument(
        "--format", choices=FORMATS, help="the input's format; by default told from its suffix"
    )
    parser.add_argument("--prompt-name", help="the model's prompt to put before each text")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch (default: 32)")
    parser.add_argument("--normalize", action="store_true", help="scale embeddings to length one")
    parser.add_argument("--truncate-dim", type=int, help="dimensions to keep (default: all)")
    parser.add_argument(
        "--precision",
        choices=("float32", "int8", "uint8", "binary", "ubinary"),
        default="float32",
        help="the numbers that an embedding is made of (default: float32)",
    )
    parser.add_argument("--device", help="such as cuda or cpu (default: a GPU if there is one)")


def run(options: argparse.Namespace) -> None:
    """Encode the texts and write all columns of the input and ``embedding``.

    Raises:
        RunFileError: If the input, the column or the output cannot be used.
    """
    from ray_st.cli import parts

    if options.batch_size < 1:
        raise RunFileError(f"--batch-size: expected at least 1, found {options.batch_size}")
    table = parts.open_table(TableSpec(options.input, format=options.format), "INPUT")
    column = _column(table, options.column)
    with _replacing(Path(options.output)) as path:
        model = parts.open_model(ModelSpec(options.model, truncate_dim=options.truncate_dim), "MODEL")
        _write(table, column, model, path, options)
    print(f"{len(table)} embeddings: {options.output}")


def _column(table: Dataset, asked: str | None) -> str:
    names = table.column_names
    if not len(table):
        raise RunFileError("INPUT: no rows")
    if "embedding" in names:
        raise RunFileError("INPUT: already has a column `embedding`; rename or drop it")
    name = asked or (names[0] if len(names) == 1 else "text")
    if name not in names:
        raise RunFileError(f"INPUT: no column {name!r} to encode; {did_you_mean(name, names)} (see --column)")
    return str(name)


def _write(table: Dataset, column: str, model: Any, path: Path, options: argparse.Namespace) -> None:
    import pyarrow.parquet as pq

    writer = None
    try:
        for start in range(0, len(table), CHUNK_ROWS):
            rows = table.select(range(start, min(start + CHUNK_ROWS, len(table)))).with_format("arrow")[:]
            vectors = model.encode(
                _texts(rows, column, start),
                prompt_name=options.prompt_name,
                batch_size=options.batch_size,
                normalize_embeddings=options.normalize,
                precision=options.precision,
                device=options.device,
                show_progress_bar=False,
            )
            written = rows.append_column("embedding", _vectors(vectors))
            writer = writer or pq.ParquetWriter(path, written.schema)
            writer.write_table(written)
    finally:
        if writer:
            writer.close()


def _texts(rows: pa.Table, column: str, start: int) -> list[str]:
    texts = rows[column].to_pylist()
    odd = next((place for place, text in enumerate(texts) if not isinstance(text, str)), None)
    if odd is not None:
        raise RunFileError(
            f"INPUT: row {start + odd}, column {column!r}: expected text, found {texts[odd]!r}"
        )
    return texts


def _vectors(vectors: np.ndarray) -> pa.Array:
    """Vectors (n, d) as a column of lists of length d."""
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


@contextmanager
def _replacing(output: Path) -> Iterator[Path]:
    """A new file beside `output` that takes its place when all is well, and is gone otherwise."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    except OSError as error:
        raise RunFileError(f"OUTPUT: {output} cannot be written: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
