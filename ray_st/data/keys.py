"""Keys: what a sampler needs to know about each row, in a few bytes instead of its texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from ray_st.data.column_spec import LABEL_COLUMNS, split_columns

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Keys:
    """The rows of a source as a sampler sees them.

    Args:
        hashes: (rows, texts) 64-bit hash of each text.
        tokens: (rows,) number of tokens in all texts of a row, or None if unknown.
        labels: (rows,) integer code of each row's label, or None without labels.
    """

    hashes: Hashes
    tokens: npt.NDArray[np.int64] | None = None
    labels: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.hashes)

    def take(self, rows: npt.NDArray[np.int64]) -> Keys:
        """Keys of the given rows, in the given order."""
        tokens = None if self.tokens is None else self.tokens[rows]
        return Keys(self.hashes[rows], tokens, None if self.labels is None else self.labels[rows])

    @staticmethod
    def joined(keys: Sequence[Keys]) -> Keys:
        """Keys of consecutive pieces of one source; labels are left out, whose codes are those of a piece."""
        tokens = [piece.tokens for piece in keys]
        known = [counts for counts in tokens if counts is not None]
        return Keys(
            np.concatenate([piece.hashes for piece in keys]),
            np.concatenate(known) if len(known) == len(tokens) else None,
        )


class Table(Protocol):
    """A dataset with access to columns by name, such as a :class:`datasets.Dataset`."""

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in order."""

    def __getitem__(self, name: str) -> Sequence[Any]:
        """The values of a column."""

    def __len__(self) -> int:
        """Number of rows."""


def hash_texts(texts: Iterable[str]) -> Hashes:
    """64-bit hash (XXH3) of each text; identical on every machine and in every run."""
    digest = xxhash.xxh3_64_intdigest
    return np.fromiter((digest(text.encode("utf-8", "surrogatepass")) for text in texts), dtype=np.uint64)


def label_codes(values: Sequence[Any]) -> npt.NDArray[np.int64]:
    """(rows,) small integers, equal for equal labels, numbered by first appearance."""
    codes: dict[Any, int] = {}
    return np.fromiter((codes.setdefault(value, len(codes)) for value in values), dtype=np.int64)


def keys_of(dataset: Keys | Table, label_columns: Sequence[str] | None = None) -> Keys:
    """Keys of a dataset that is passed to a sampler directly.

    Args:
        dataset: :class:`Keys`, which are returned unchanged, or a table.
        label_columns: Names that denote a label; defaults to :data:`ray_st.data.column_spec.LABEL_COLUMNS`.
    """
    if isinstance(dataset, Keys):
        return dataset
    columns = split_columns(dataset.column_names, label_columns or LABEL_COLUMNS)
    # Sliced at once: iterating over a datasets.Column value by value is slow.
    hashes = [hash_texts(map(str, dataset[name][:])) for name in columns.texts]
    labels = [] if columns.label is None else list(dataset[columns.label][:])
    # A label that is a list (such as scores for each text) names no class.
    unclassed = columns.label is None or any(isinstance(label, list) for label in labels)
    stacked = np.stack(hashes, axis=1) if hashes else np.zeros((len(dataset), 0), dtype=np.uint64)
    return Keys(stacked, labels=None if unclassed else label_codes(labels))
