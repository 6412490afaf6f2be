"""Texts by which the ranges of activations are found: of the Hub, a file, or the caller's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HUB = ("nyu-mll/glue", "sst2", "train", "sentence")
_BUILDERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class CalibrationTexts:
    """Where texts are.

    Args:
        source: A name on the Hub, a file, a ``datasets.Dataset``, or a list of texts or pairs.
        config: The configuration of a dataset of the Hub.
        split: The split.
        column: The column of texts, or the two columns of pairs.
    """

    source: Any = None
    config: str | None = None
    split: str | None = None
    column: str | Sequence[str] | None = None

    def read(self, most: int) -> list[Any]:
        """The first texts or pairs.

        Args:
            most: How many, at most.

        Raises:
            ValueError: If the arguments do not say which texts, or there is no such column.
        """
        if most < 1:
            raise ValueError(f"num_samples must be at least 1; got {most}.")
        if isinstance(self.source, Sequence) and not isinstance(self.source, str):
            return list(self.source[:most])
        return list(itertools.islice(self._rows(), most))

    def _rows(self) -> Iterator[Any]:
        table, column = self._table()
        names = [column] if isinstance(column, str) else list(column)
        if missing := [name for name in names if name not in table.column_names]:
            raise ValueError(
                f"column_name: there is no {missing[0]!r}; the columns are {table.column_names}."
            )
        for row in table:
            values = [row[name] for name in names]
            if odd := [value for value in values if not isinstance(value, str)]:
                raise ValueError(f"column_name: {names} hold {odd[0]!r:.80}, which is no text.")
            yield tuple(values) if len(values) > 1 else values[0]

    def _table(self) -> tuple[Any, str | Sequence[str]]:
        """The rows, and the column or columns of texts."""
        import datasets

        if isinstance(self.source, datasets.Dataset):
            return self.source, self._column(self.source.column_names)
        if self.source is not None and Path(self.source).suffix in _BUILDERS:
            kind = _BUILDERS[Path(self.source).suffix]
            more = {"sep": "\t"} if Path(self.source).suffix == ".tsv" else {}
            split = self.split or "train"
            table = datasets.load_dataset(kind, data_files=str(self.source), split=split, **more)
            return table, self._column(table.column_names)
        if self.source is None and self.config is None and self.split is None and self.column is None:
            name, config, split, column = _HUB
            return datasets.load_dataset(name, config, split=split), column
        if self.source is None or self.config is None or self.split is None or self.column is None:
            raise ValueError(
                "Name all of dataset_name, dataset_config_name, dataset_split and column_name, or none; "
                "or give a file or a list of texts as dataset_name."
            )
        return datasets.load_dataset(self.source, self.config, split=self.split), self.column

    def _column(self, names: Sequence[str]) -> str | Sequence[str]:
        if self.column is None:
            raise ValueError(f"column_name: which of {list(names)} has the texts?")
        return self.column
