"""The tables of a retrieval dataset, from the Hub or a folder: corpus, queries and relevant documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KINDS = ("parquet", "jsonl")

Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Reader:
    """Reads tables of datasets.

    Attributes:
        rows: Maps a subset ("corpus", "queries", "qrels" or "bm25"), a dataset and the required columns to
            rows.
    """

    rows: Callable[[str, str, tuple[str, str]], Rows]

    def texts(self, subset: str, dataset: str, empty: bool = False) -> dict[str, str]:
        """Texts by id.

        Args:
            subset: "corpus" or "queries".
            dataset: Its name.
            empty: Whether to keep empty texts.
        """
        rows = self.rows(subset, dataset, ("_id", "text"))
        return {row["_id"]: row["text"] or "" for row in rows if row["text"] or empty}

    def relevant(self, dataset: str) -> dict[str, set[str]]:
        """The ids of each query's relevant documents.

        Args:
            dataset: Its name.
        """
        found: dict[str, set[str]] = {}
        for row in self.rows("qrels", dataset, ("query-id", "corpus-id")):
            documents = row["corpus-id"]
            found.setdefault(row["query-id"], set()).update(
                documents if isinstance(documents, list) else [documents]
            )
        return found

    def first_stage(self, dataset: str) -> dict[str, list[str]]:
        """The ids of the documents that BM25 found for each query, best first.

        Args:
            dataset: Its name.
        """
        rows = self.rows("bm25", dataset, ("query-id", "corpus-ids"))
        return {row["query-id"]: list(row["corpus-ids"]) for row in rows}


def from_hub(dataset_id: str) -> Reader:
    """Reads from the Hub, through ``datasets.load_dataset``.

    Args:
        dataset_id: Name on the Hub.

    Raises:
        ValueError: When reading, if the dataset, subset or split cannot be loaded, or a column is missing.
    """

    def rows(subset: str, dataset: str, columns: tuple[str, str]) -> Rows:
        from datasets import load_dataset

        where = f"subset {subset!r}, split {dataset!r} of the dataset {dataset_id!r}"
        try:
            table = load_dataset(dataset_id, subset, split=dataset)
        except (OSError, ValueError) as error:  # not found or no network; no such subset or split
            raise ValueError(
                f"Cannot load {where}: {error} A folder with the datasets can be given as folder=."
            ) from error
        _check_columns(table.column_names, columns, where)
        return table.select_columns(list(columns))

    return Reader(rows)


def from_folder(folder: str | Path) -> Reader:
    """Reads from a folder with a sub-folder of Parquet or JSON Lines files for each dataset.

    Args:
        folder: The folder.

    Raises:
        ValueError: When reading, if there is no file of a subset, a line is no JSON object, or a column is
            missing.
    """

    def rows(subset: str, dataset: str, columns: tuple[str, str]) -> Rows:
        files = _files(Path(folder).expanduser() / dataset, subset)
        if not files:
            raise ValueError(
                f"{Path(folder) / dataset} has no file for {subset!r}; expected {subset}.parquet or "
                f"{subset}.jsonl."
            )
        return [
            row
            for path in files
            for row in (_parquet if path.suffix == ".parquet" else _jsonl)(path, columns)
        ]

    return Reader(rows)


def names_in(folder: str | Path) -> list[str]:
    """The datasets in a folder: the names of its sub-folders that hold a corpus.

    Args:
        folder: The folder.

    Raises:
        ValueError: If it is no folder, or no dataset is in it.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ValueError(f"{folder} is no folder; expected one with a sub-folder for each dataset.")
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and _files(path, "corpus"))
    if not found:
        raise ValueError(f"{folder} has no dataset: no sub-folder holds a corpus.parquet or corpus.jsonl.")
    return found


def _files(folder: Path, subset: str) -> list[Path]:
    return sorted(
        path for kind in _KINDS for name in ("", "-*") for path in folder.glob(f"{subset}{name}.{kind}")
    )


def _parquet(path: Path, columns: tuple[str, str]) -> Rows:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        _check_columns(file.schema_arrow.names, columns, str(path))
        return file.read(columns=list(columns)).to_pylist()


def _jsonl(path: Path, columns: tuple[str, str]) -> Rows:
    found = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where}: no JSON ({error}).") from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}: expected a JSON object; found {line.strip():.60}")
            _check_columns(row, columns, where)
            found.append(row)
    return found


def _check_columns(there: Iterable[str], columns: tuple[str, str], where: str) -> None:
    there = list(there)
    if missing := [column for column in columns if column not in there]:
        raise ValueError(f"{where}: the columns {missing} are missing; found {there}.")
