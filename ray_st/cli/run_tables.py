"""Opens the tables that a run file names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ray_st.cli.run_checks import at, located
from ray_st.data.sources.errors import SourceError
from ray_st.data.sources.source import Source
from ray_st.data.table_spec import TableSpec, read_table
from ray_st.data.table_spec import open_table as open_source

if TYPE_CHECKING:
    from datasets import Dataset


def open_table(spec: TableSpec, where: str) -> Dataset:
    """Read a table.

    Raises:
        RunFileError: If it cannot be read as its spec says.
    """
    import datasets

    datasets.disable_progress_bars()  # they would mix with the command's output
    with located(where, SourceError):
        return read_table(spec)


def open_tables(specs: TableSpec | Mapping[str, TableSpec], where: str) -> Source | dict[str, Source]:
    """Opens a table, or several by name; their rows are read by the workers when the run starts.

    Raises:
        RunFileError: If files are missing, or their columns do not agree.
    """
    if isinstance(specs, TableSpec):
        return _opened(specs, where)
    return {name: _opened(spec, at(where, name)) for name, spec in specs.items()}


def _opened(spec: TableSpec, where: str) -> Source:
    with located(where, SourceError):
        source = open_source(spec)
        source.columns()
    return source
