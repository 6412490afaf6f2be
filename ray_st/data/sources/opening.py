"""Opens any supported container of rows as a source."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow.fs import FileSystem

from ray_st.data.sources.choose import Cut
from ray_st.data.sources.errors import SourceError, shown
from ray_st.data.sources.files import Files
from ray_st.data.sources.hugging import from_hugging_face, is_saved, load_hub, load_saved
from ray_st.data.sources.memory import Rows, Table, from_columns, from_pandas
from ray_st.data.sources.source import Limits, Source
from ray_st.data.sources.splits import Bound, Bounds

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_TAKEN = (
    "a path, pattern or URI of files, the name of a dataset on the Hub, a datasets.Dataset or "
    "IterableDataset, a pyarrow table, a pandas frame, a dict of columns, a list of rows, or a Source such "
    "as Files or Sql"
)


def as_source(
    value: object,
    name: str = "the dataset",
    *,
    filesystem: FileSystem | None = None,
    rows: int | None = None,
    limits: Limits | None = None,
) -> Source:
    """Opens any supported container of rows.

    Args:
        value: A path, pattern or URI of files (or a list of them), a folder written by ``save_to_disk``, the
            name of a dataset on the Hub (``owner/name``, split ``train``), a :class:`datasets.Dataset` or
            :class:`datasets.IterableDataset`, a pyarrow table, a pandas frame, a dict of columns, a list of
            rows as mappings, or a :class:`Source`.
        name: Name in error messages, if it has none of its own.
        filesystem: The file system of paths; by default inferred from their URI, or this machine's.
        rows: How many rows to read, from the start; by default all. Required for an endless stream.
        limits: Bounds on what is held in memory.

    Raises:
        SourceError: If it is none of these, or cannot be opened.
    """
    found = _opened(value, name, filesystem, rows, limits or Limits())
    if found is None:
        raise SourceError(f"{name}: expected {_TAKEN}; found {shown(value)}.")
    return found if rows is None else Cut(found, Bounds(stop=Bound(rows)))


def _opened(
    value: object, name: str, filesystem: FileSystem | None, rows: int | None, limits: Limits
) -> Source | None:
    if isinstance(value, str | Path):
        return _at(str(value), filesystem, rows, limits)
    if isinstance(value, pa.Table):
        return Table(value, name, limits)
    if isinstance(value, pa.RecordBatch):
        return Table(pa.Table.from_batches([value]), name, limits)
    # The library of such a value is already imported: the caller needed it to create the value.
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(value, pandas.DataFrame):
        return from_pandas(value, name, limits)
    if isinstance(value, Source):
        return value
    if "datasets" in sys.modules and (found := from_hugging_face(value, name, rows, limits)) is not None:
        return found
    if isinstance(value, Mapping):
        return from_columns(value, name, limits)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        if value and all(isinstance(item, str | Path) for item in value):
            return Files(list(value), filesystem=filesystem, limits=limits)
        return Rows(value, name, limits)
    return None


def _at(path: str, filesystem: FileSystem | None, rows: int | None, limits: Limits) -> Source:
    """What a string refers to: an existing local path overrides a name on the Hub."""
    if filesystem is None and is_saved(path):
        return from_hugging_face(load_saved(path), path, rows, limits)  # type: ignore[return-value]
    is_path = filesystem is not None or "://" in path or Path(path).exists() or not _HUB_NAME.fullmatch(path)
    if is_path or _names_file(path):
        return Files(path, filesystem=filesystem, limits=limits)
    return from_hugging_face(load_hub(path), path, rows, limits)  # type: ignore[return-value]


def _names_file(path: str) -> bool:
    """Whether a name without a matching file still looks more like a file than like a name on the Hub."""
    return "/" not in path or re.search(r"\.[A-Za-z0-9]{2,7}$", path) is not None
