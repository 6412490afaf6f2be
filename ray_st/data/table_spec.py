"""A table in a run file: the location of its rows and which of them to use, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from ray_st.data.sources import (
    Bound,
    Bounds,
    Chosen,
    Cut,
    Files,
    Joined,
    Source,
    SourceError,
    as_source,
    load_hub,
    load_saved,
    parse_split,
)
from ray_st.data.sources.hugging import is_saved
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_FOR_FILES = ("format", "types", "names", "delimiter", "quoted")


@dataclass(frozen=True)
class TableSpec:
    """The location of a table and which rows and columns to use. Give either `path` or `hub`.

    Args:
        path: A file, folder, pattern or URI, a list of them, a folder written by ``save_to_disk``, or a
            mapping from split names to any of these.
        hub: Name of a dataset on the Hugging Face Hub.
        subset: The Hub dataset's configuration, if it has several.
        format: One of :data:`ray_st.data.sources.FORMATS`; by default inferred from the files' suffix.
        split: Split, slice of a split such as ``"train[:80%]"``, or several joined by ``+``. Paths that name
            no splits are treated as the split ``train``.
        columns: Columns to keep, in the order in which a loss or an evaluator receives them; by default all.
            Given by their names after `rename`.
        rename: New names of columns, by their old names.
        types: Types of columns in files, by their old names, to override what is inferred from the first
            rows.
        names: Column names of a CSV or TSV file that has no header row.
        delimiter: The field separator of a CSV or TSV file; by default a comma or a tab.
        quoted: Whether quotation marks in a CSV or TSV file enclose fields; by default true for CSV, false
            for TSV.
        rows: Number of rows to keep, from the start; by default all.
    """

    path: str | list[str] | dict[str, str | list[str]] | None = None
    hub: str | None = None
    subset: str | None = None
    format: str | None = None
    split: str = "train"
    columns: list[str] | None = None
    rename: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    names: list[str] | None = None
    delimiter: str | None = None
    quoted: bool | None = None
    rows: int | None = None

    def __str__(self) -> str:
        return str(self.hub if self.path is None else self.path)

    def files(self) -> list[str]:
        """Its paths, patterns and URIs; empty for a dataset on the Hub."""
        parts = self.path.values() if isinstance(self.path, dict) else [self.path]
        return [
            one for part in parts if part is not None for one in ([part] if isinstance(part, str) else part)
        ]


def open_table(spec: TableSpec) -> Source:
    """Opens a table.

    Args:
        spec: The location of the table and which rows and columns to use.

    Returns:
        A source of the requested rows and columns; files are not read yet.

    Raises:
        SourceError: If the spec contradicts itself or names something that does not exist.
    """
    _check(spec)
    slices = [Cut(_open_split(spec, piece.split), piece.bounds) for piece in parse_split(spec.split)]
    source: Source = slices[0] if len(slices) == 1 else Joined(slices)
    if spec.columns is not None or spec.rename:
        source = Chosen(source, spec.columns, spec.rename)
    return source if spec.rows is None else Cut(source, Bounds(stop=Bound(spec.rows)))


def read_table(spec: TableSpec) -> Dataset:
    """Reads a table into memory.

    Args:
        spec: The location of the table and which rows and columns to use.

    Raises:
        SourceError: If it cannot be read as specified, or a row is unusable.
    """
    import datasets

    source = open_table(spec)
    schema = pa.schema(list(source.columns().items()))
    tables = [table for part in source.parts() for table in part.read()]
    return datasets.Dataset(pa.concat_tables(tables) if tables else schema.empty_table())


def _check(spec: TableSpec) -> None:
    if (spec.path is None) == (spec.hub is None):
        raise SourceError(
            "a table needs either `path` (files) or `hub` (a dataset's name on the Hub), not both"
        )
    if spec.rows is not None and spec.rows < 1:
        raise SourceError(f"{spec}: rows: expected at least 1, found {spec.rows}.")
    if spec.hub is None and spec.subset is not None:
        raise SourceError(f"{spec}: `subset` is for a dataset of the Hub, not for files.")
    if spec.hub is not None:
        _check_no_file_options(spec, "a dataset of the Hub")


def _check_no_file_options(spec: TableSpec, kind: str) -> None:
    given = next((name for name in _FOR_FILES if getattr(spec, name) not in (None, {})), None)
    if given is not None:
        raise SourceError(f"{spec}: `{given}` is for files, not for {kind}.")


def _open_split(spec: TableSpec, split: str) -> Source:
    if spec.hub is not None:
        return as_source(load_hub(spec.hub, spec.subset, split), spec.hub)
    path = _path_of(spec, split)
    if isinstance(path, str) and is_saved(path):
        _check_no_file_options(spec, "a folder that save_to_disk wrote")
        return as_source(load_saved(path, split), path)
    if split != "train" and not isinstance(spec.path, dict):
        raise SourceError(
            f"{spec}: no split {split!r}: files are the split 'train' unless `path` names files by split."
        )
    return Files(
        path,
        spec.format,
        names=spec.names,
        delimiter=spec.delimiter,
        quoted=spec.quoted,
        types=spec.types,
    )


def _path_of(spec: TableSpec, split: str) -> str | list[str]:
    assert spec.path is not None
    if not isinstance(spec.path, dict):
        return spec.path
    if split not in spec.path:
        raise SourceError(f"{spec}: no split {split!r}; {did_you_mean(split, spec.path)}")
    return spec.path[split]
