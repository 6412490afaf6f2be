"""Tables in files: CSV, TSV, JSON Lines, Parquet, Arrow and plain text, or a dataset of the Hub, read as one spec says."""

from __future__ import annotations

import csv
import glob
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = ("csv", "tsv", "json", "parquet", "arrow", "text")
"""The file formats that :func:`read_table` knows."""

_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}


class TableError(ValueError):
    """A table that cannot be read as its spec says."""


@dataclass(frozen=True)
class TableSpec:
    """Where a table is and which of it is wanted. Give either `path` or `hub`.

    Args:
        path: A file, a glob pattern, or a list of files of one format.
        hub: Name of a dataset on the Hugging Face Hub.
        subset: The Hub dataset's configuration, when it has several.
        format: One of :data:`FORMATS`; by default told from the file's suffix.
        split: Split, or slice of a split such as ``"train[:1000]"``. Local files are the split ``train``.
        columns: Columns to keep, in the order in which a loss or an evaluator receives them; by default all. Named
            as they are after `rename`.
        rename: New names of columns, by their old names.
        names: Column names of a CSV or TSV file that has no header row.
        delimiter: What separates the fields of a CSV or TSV file; by default a comma or a tab.
        quoted: Whether quotation marks in a CSV or TSV file enclose fields; by default true for CSV, false for TSV.
        rows: How many rows to keep, from the start; by default all.
    """

    path: str | list[str] | None = None
    hub: str | None = None
    subset: str | None = None
    format: str | None = None
    split: str = "train"
    columns: list[str] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    names: list[str] | None = None
    delimiter: str | None = None
    quoted: bool | None = None
    rows: int | None = None

    def __str__(self) -> str:
        return str(self.hub if self.path is None else self.path)


def read_table(spec: TableSpec) -> Dataset:
    """Read a table.

    In CSV and TSV files only an empty field is a missing value: ``NA``, ``null`` or ``None`` stay the words they are.

    Args:
        spec: Where the table is and which of it is wanted.

    Returns:
        The dataset with the columns asked for.

    Raises:
        TableError: If the spec contradicts itself, a file or column is missing, or a file is not of its format.
    """
    if (spec.path is None) == (spec.hub is None):
        raise TableError(
            "a table needs either `path` (files) or `hub` (a dataset's name on the Hub), not both"
        )
    table = _read_hub(spec) if spec.path is None else _read_files(spec)
    for old in spec.rename:
        _check_column(old, table, spec)
    table = table.rename_columns(spec.rename)
    for name in spec.columns or []:
        _check_column(name, table, spec)
    if spec.columns:
        table = table.select_columns(spec.columns)
    return table if spec.rows is None else table.select(range(min(spec.rows, len(table))))


def _check_column(name: str, table: Dataset, spec: TableSpec) -> None:
    if name not in table.column_names:
        raise TableError(f"{spec}: no column {name!r}; {did_you_mean(name, table.column_names)}")


def _read_files(spec: TableSpec) -> Dataset:
    files = _files(spec)
    kind = spec.format or _format_of(files)
    if kind not in FORMATS:
        raise TableError(f"{spec}: unknown format {kind!r}; {did_you_mean(kind, FORMATS)}")
    options = _text_options(spec, kind)
    builder = "csv" if kind == "tsv" else kind
    return _load(spec, kind, builder, data_files={"train": files}, **options)


def _read_hub(spec: TableSpec) -> Dataset:
    return _load(spec, "a dataset of the Hub", str(spec.hub), name=spec.subset)


def _load(spec: TableSpec, kind: str, builder: str, **options: Any) -> Dataset:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset(builder, split=spec.split, **options)
    except (DatasetsError, OSError, ValueError) as error:
        cause = error.__cause__ or error
        raise TableError(f"{spec}: cannot be read as {kind}: {' '.join(str(cause).split())}") from error


def _files(spec: TableSpec) -> list[str]:
    patterns = [spec.path] if isinstance(spec.path, str) else list(spec.path or [])
    files: list[str] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
        files += found
        if not found or not all(Path(name).is_file() for name in found):
            raise TableError(f"{pattern}: no such file (paths start at the working directory)")
    empty = next((name for name in files if not Path(name).stat().st_size), None)
    if empty is not None:
        raise TableError(f"{empty}: the file is empty")
    return files


def _format_of(files: list[str]) -> str:
    kinds = {_SUFFIXES.get(Path(name).suffix.lower(), "") for name in files}
    if len(kinds) != 1 or "" in kinds:
        raise TableError(
            f"{', '.join(files)}: the suffix does not tell one format; set `format` to one of {FORMATS}"
        )
    return kinds.pop()


def _text_options(spec: TableSpec, kind: str) -> dict[str, Any]:
    """What the reader of CSV and TSV needs to know."""
    given = [name for name in ("names", "delimiter", "quoted") if getattr(spec, name) is not None]
    if kind not in ("csv", "tsv"):
        if given:
            raise TableError(f"{spec}: `{given[0]}` is for CSV and TSV files, not for {kind}")
        return {}
    quoted = kind == "csv" if spec.quoted is None else spec.quoted
    options: dict[str, Any] = {
        "sep": spec.delimiter or ("," if kind == "csv" else "\t"),
        "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        "keep_default_na": False,
        "na_values": [""],
    }
    return options | ({"names": spec.names, "header": None} if spec.names else {})
