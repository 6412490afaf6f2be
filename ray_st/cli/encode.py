"""Write the embeddings of texts in files: Parquet, CSV, TSV, JSON Lines or plain text in, Parquet out.

If OUTPUT is a file (its name ends in .parquet), this process encodes; if it is a folder, the whole Ray
cluster does, and an interrupted job resumes when it is started again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ray_st.cli.corpus_output import (
    add_backend,
    add_devices,
    add_places,
    backend_of,
    cluster_options,
    into_file,
    replacing_output,
    report,
)
from ray_st.cli.run_checks import RunFileError
from ray_st.cli.runfile import ModelSpec
from ray_st.data.sources.files import FORMATS
from ray_st.data.table_spec import TableSpec
from ray_st.runtime.encode.work_plan import EMBEDDING, choose_column

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

    from ray_st.models.sentence_transformer import SentenceTransformer

CHUNK_ROWS = 8192
"""Rows that are encoded and written at a time; texts are sorted by length within them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_places(parser, "a model", "texts")
    parser.add_argument("--column", help="the column to encode (default: `text`, or the only column)")
    parser.add_argument(
        "--format", choices=FORMATS, help="the input's format (default: inferred from its suffix)"
    )
    parser.add_argument("--prompt-name", help="name of the model's prompt to prepend to each text")
    parser.add_argument("--batch-size", type=int, default=32, help="texts in a batch (default: 32)")
    parser.add_argument("--normalize", action="store_true", help="scale embeddings to unit length")
    parser.add_argument("--truncate-dim", type=int, help="dimensions to keep (default: all)")
    parser.add_argument(
        "--precision",
        choices=("float32", "int8", "uint8", "binary", "ubinary"),
        default="float32",
        help="number format of the embeddings (default: float32)",
    )
    add_devices(parser)
    add_backend(parser)


def run(options: argparse.Namespace) -> None:
    """Encodes the texts and writes all columns of the input plus ``embedding``.

    Raises:
        RunFileError: If the input, the column or the output cannot be used.
    """
    (_into_file if into_file(options) else _into_folder)(options)


def _into_file(options: argparse.Namespace) -> None:
    from ray_st.cli import run_parts, run_tables

    table = run_tables.open_table(TableSpec(options.input, format=options.format), "INPUT")
    column = _column(table, options.column)
    with replacing_output(options.output) as path:
        model = run_parts.open_model(_spec(options), "MODEL")
        _write(table, column, model, path, options)
    print(f"{len(table)} embeddings: {options.output}")


def _into_folder(options: argparse.Namespace) -> None:
    from ray_st.cli import run_parts
    from ray_st.data.sources import Files
    from ray_st.runtime.encode.corpus import encode_corpus

    model = run_parts.open_model(_spec(options), "MODEL")
    encoded = encode_corpus(
        model,
        Files(options.input, options.format),
        options.output,
        column=options.column,
        prompt_name=options.prompt_name,
        batch_size=options.batch_size,
        normalize_embeddings=options.normalize,
        precision=options.precision,
        **cluster_options(options),
    )
    report(encoded.rows, encoded.encoded, "embeddings", options.output)


def _spec(options: argparse.Namespace) -> ModelSpec:
    return ModelSpec(options.model, truncate_dim=options.truncate_dim, **backend_of(options))


def _column(table: Dataset, asked: str | None) -> str:
    if not len(table):
        raise RunFileError("INPUT: no rows")
    try:
        return choose_column(table.column_names, asked)
    except ValueError as error:
        raise RunFileError(f"INPUT: {error} (see --column)") from error


def _write(
    table: Dataset, column: str, model: SentenceTransformer, path: Path, options: argparse.Namespace
) -> None:
    import pyarrow.parquet as pq

    from ray_st.runtime.encode.work import vector_column
    from ray_st.util.search.quantize import quantize_embeddings

    writer, first = None, None
    try:
        for start in range(0, len(table), CHUNK_ROWS):
            rows = table.select(range(start, min(start + CHUNK_ROWS, len(table)))).with_format("arrow")[:]
            vectors = model.encode(
                _texts(rows, column, start),
                prompt_name=options.prompt_name,
                batch_size=options.batch_size,
                normalize_embeddings=options.normalize,
                device=options.device,
                show_progress_bar=False,
            )
            quantized = quantize_embeddings(vectors, options.precision, calibration_embeddings=first)
            first = vectors if first is None else first  # the first chunk's ranges apply to the whole file
            written = rows.append_column(EMBEDDING, vector_column(quantized))
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
