"""Datasets of the ``datasets`` library: in memory, on disk, streamed, or from the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from ray_st.data.sources.errors import Report, SourceError, message_of
from ray_st.data.sources.memory import PART_ROWS, Examples, Slice
from ray_st.data.sources.part import Part
from ray_st.data.sources.source import Chunk, Limits, Unit
from ray_st.data.sources.source_kinds import pick, plain
from ray_st.util.names import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_FIRST_STEP = 16


@dataclass(frozen=True)
class Mapped:
    """Rows of a memory-mapped Dataset.

    Args:
        dataset: The dataset; its rows are read through its indices.
        name: Name in error messages.
        first: Number of the first row.
        stop: Number after the last row.
    """

    dataset: Dataset
    name: str
    first: int
    stop: int
    held: ClassVar[bool] = True
    seekable: ClassVar[bool] = True
    uncounted: ClassVar[int] = 0
    decoded: ClassVar[int] = 1
    local: bool = True

    def count(self, most: int | None = None) -> int:
        """Number of rows."""
        return self.stop - self.first

    def counted(self, limits: Limits) -> Mapped:
        """The unit itself: the number of rows is known."""
        return self

    def between(self, start: int, stop: int) -> Mapped:
        """The rows from `start` up to `stop`."""
        return replace(self, first=start, stop=stop)

    def check_unchanged(self) -> None:
        """A mapped file stays as it was, even if another takes its name."""

    def chunks(self, schema: pa.Schema, limits: Limits, report: Report) -> Iterator[Chunk]:
        """The rows, in chunks whose length is estimated from the sizes of preceding rows."""
        rows = self.dataset.select_columns(schema.names).with_format("arrow")
        start, step = self.first, min(_FIRST_STEP, limits.rows)
        while start < self.stop:
            table = rows[start : min(start + step, self.stop)]
            yield Chunk(table, np.arange(start, start + len(table)))
            start += len(table)
            fitting = limits.bytes // (table.nbytes // len(table) + 1)
            step = max(1, min(fitting, 4 * step, limits.rows))


def _range(dataset: Dataset, start: int, stop: int) -> Iterator[Mapping[str, Any]]:
    """A range of a dataset's rows, through its transform."""
    return (dataset[row] for row in range(start, stop))


@dataclass(frozen=True)
class HfDataset:
    """A :class:`datasets.Dataset` as a source: its rows in the order of its indices, through its transform.

    Args:
        dataset: The dataset. A format (``with_format("torch")``) is ignored; a transform (``set_transform``)
            is applied row by row, and may change the columns.
        name: Name in error messages.
        limits: Bounds on how much is read at a time.
    """

    dataset: Dataset
    name: str = "the dataset"
    limits: Limits = field(default_factory=Limits)

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """Arrow type of each column; see :meth:`Source.columns`."""
        return pick(self._types, wanted, self.name)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """Parts of :data:`~ray_st.data.sources.memory.PART_ROWS` rows; see :meth:`Source.parts`."""
        schema = pa.schema(list(self.columns(wanted).items()))
        starts = range(0, len(self.dataset), PART_ROWS)
        units = [
            self._unit(start, min(start + PART_ROWS, len(self.dataset)), schema.names) for start in starts
        ]
        return [Part(unit, schema, tuple(schema.names), limits=self.limits) for unit in units]

    @cached_property
    def _types(self) -> dict[str, pa.DataType]:
        if self._transformed:
            stop = min(len(self.dataset), _FIRST_STEP)
            return Examples(partial(_range, self.dataset, 0, stop), self.name).infer()
        return {item.name: plain(item.type) for item in self.dataset.features.arrow_schema}

    @property
    def _transformed(self) -> bool:
        return bool(self.dataset.format["type"] == "custom")

    def _unit(self, start: int, stop: int, names: list[str]) -> Unit:
        if self._transformed:
            return Examples(partial(_range, self.dataset, start, stop), self.name, first=start)
        if self.dataset.cache_files:  # mapped from files: only their paths are pickled
            return Mapped(self.dataset, self.name, start, stop)
        table = self.dataset.select_columns(names).with_format("arrow")[start:stop]
        return Slice(table, self.name, start)


@dataclass(frozen=True)
class HfStream:
    """A :class:`datasets.IterableDataset` as a source, read from its start each time.

    Args:
        dataset: The stream. Every iteration must start over with the same rows.
        rows: How many rows to read; None reads all, so the stream must be finite.
        name: Name in error messages.
        limits: Bounds on how much is read at a time.
    """

    dataset: IterableDataset
    rows: int | None = None
    name: str = "the stream"
    limits: Limits = field(default_factory=Limits)

    def columns(self, wanted: Sequence[str] | None = None) -> dict[str, pa.DataType]:
        """Arrow type of each column, from its features or first rows; see :meth:`Source.columns`."""
        return pick(self._types, wanted, self.name)

    def parts(self, wanted: Sequence[str] | None = None) -> list[Part]:
        """A single part, since a stream must be read from its start; see :meth:`Source.parts`."""
        schema = pa.schema(list(self.columns(wanted).items()))
        return [Part(self._unit, schema, tuple(schema.names), limits=self.limits)]

    @property
    def _unit(self) -> Examples:
        return Examples(partial(iter, self.dataset), self.name, self.rows)

    @cached_property
    def _types(self) -> dict[str, pa.DataType]:
        if self.dataset.features is not None:
            return {item.name: plain(item.type) for item in self.dataset.features.arrow_schema}
        types = self._unit.infer()
        if not types:
            raise SourceError(f"{self.name}: the stream has no rows; its columns cannot be told.")
        return types


def load_hub(
    path: str,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Loads one split of a dataset from the Hub, or from the Hub's cache when offline.

    Never runs code of a dataset.

    Raises:
        SourceError: If it does not exist, cannot be reached, or has no such configuration or split.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset(path, config, split=split, revision=revision, streaming=streaming)
    except (DatasetsError, OSError, ValueError) as error:
        only_cached = " HF_HUB_OFFLINE is set: only what the cache holds is used."
        note = only_cached if datasets.config.HF_HUB_OFFLINE else ""
        raise SourceError(
            f"{path}: split {split!r} of this dataset of the Hub cannot be loaded: {message_of(error)}{note} "
            "For a private or gated one, log in with `hf auth login`; for a file or folder, check the path."
        ) from error


def is_saved(path: str) -> bool:
    """Whether a path is a folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    return any((Path(path) / name).is_file() for name in ("state.json", "dataset_dict.json"))


def load_saved(path: str, split: str = "train") -> Dataset:
    """Opens a folder written by ``save_to_disk``; a single dataset is treated as the split ``train``.

    Raises:
        SourceError: If it is damaged or has no such split.
    """
    import datasets

    try:
        loaded = datasets.load_from_disk(path)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"{path}: this folder of save_to_disk cannot be opened: {message_of(error)}"
        ) from error
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}
    if not isinstance(loaded, dict) and split == "train":
        return loaded
    if split not in splits:
        raise SourceError(f"{path}: no split {split!r}; {did_you_mean(split, splits)}")
    return splits[split]


def from_hugging_face(
    value: object, name: str, rows: int | None, limits: Limits
) -> HfDataset | HfStream | None:
    """A source for an object of the ``datasets`` library; None for other objects.

    Raises:
        SourceError: If it contains several datasets.
    """
    import datasets

    if isinstance(value, datasets.Dataset):
        return HfDataset(value, name, limits)
    if isinstance(value, datasets.IterableDataset):
        return HfStream(value, rows, name, limits)
    if isinstance(value, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise SourceError(
            f"{name}: expected one dataset, found the splits {list(value)}; choose one by its name."
        )
    return None
