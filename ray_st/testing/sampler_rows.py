"""Rows for samplers: hard cases, from shared texts to labels of very different sizes."""

from __future__ import annotations

import datasets
import numpy as np

from ray_st.data.keys import Keys


def unique_rows(rows: int, salt: int = 0) -> Keys:
    """Unique texts in two columns; six labels of like size.

    Args:
        rows: How many.
        salt: Other numbers give other texts.
    """
    rng = np.random.default_rng([rows, salt])
    hashes = rng.integers(2**32, 2**63, (rows, 2), dtype=np.uint64)
    return Keys(hashes, rng.integers(1, 40, rows), rng.integers(0, 6, rows))


def _with_hot_duplicates(rows: int) -> Keys:
    """A third of all rows share anchors by Zipf's law, and some of these are positives elsewhere."""
    made, rng = unique_rows(rows), np.random.default_rng(1)
    hot = rng.random(rows) < 0.33
    made.hashes[hot, 0] = rng.zipf(1.5, hot.sum()).clip(max=50)
    made.hashes[rng.random(rows) < 0.05, 1] = 1
    return made


def _with_a_value_in_half_of_all_rows(rows: int) -> Keys:
    made = unique_rows(rows)
    made.hashes[::2, 1] = 7
    return made


def _with_a_label_far_larger_than_the_rest(rows: int) -> Keys:
    made = unique_rows(rows)
    assert made.labels is not None
    made.labels[: rows * 9 // 10] = 0
    return made


def _with_several_positives_an_anchor(rows: int) -> Keys:
    """Every row shares its anchor with two others, as in NLI: no row is free to go anywhere."""
    made = unique_rows(rows)
    made.hashes[:, 0] = np.arange(rows) // 3
    return made


def _with_anchors_that_return(rows: int) -> Keys:
    """Forty anchors in turn; every positive is its own."""
    made = unique_rows(rows)
    made.hashes[:, 0] = np.arange(rows) % 40
    return made


DATASETS: dict[str, Keys] = {
    "unique": unique_rows(203),
    "shared": _with_several_positives_an_anchor(150),
    "hot": _with_hot_duplicates(301),
    "half": _with_a_value_in_half_of_all_rows(150),
    "large label": _with_a_label_far_larger_than_the_rest(210),
    "tiny": Keys(np.arange(10, dtype=np.uint64).reshape(5, 2), np.arange(1, 6), np.array([0, 0, 1, 1, 2])),
}
"""Every dataset that samplers are run on, by name."""

SMALL = {"returning": _with_anchors_that_return(103), "distinct": unique_rows(103)}
"""Two more, whose rows fill no whole number of batches of ten."""

NO_ROWS = Keys(np.zeros((0, 2), dtype=np.uint64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
"""A dataset without rows."""


def as_dataset(rows: Keys) -> datasets.Dataset:
    """The same rows as a dataset, for samplers that read texts: ``anchor``, ``positive`` and ``label``.

    Args:
        rows: Equal hashes become equal texts; a text has as many words as its row has tokens.
    """
    counts = np.ones(len(rows), dtype=np.int64) if rows.tokens is None else rows.tokens
    columns = {
        name: [
            " ".join([str(value), *["word"] * int(count - 1)])
            for value, count in zip(hashes, counts, strict=True)
        ]
        for name, hashes in zip(("anchor", "positive"), rows.hashes.T.tolist(), strict=True)
    }
    labels = np.zeros(len(rows), dtype=np.int64) if rows.labels is None else rows.labels
    return datasets.Dataset.from_dict({**columns, "label": labels.tolist()})


def edges(rows: int) -> list[int]:
    """The end of each of the datasets that :func:`split` cuts rows into."""
    return [4, rows // 4, rows // 2, rows] if rows > 16 else [1, 2, 3, rows]


def split(rows: Keys) -> list[Keys]:
    """The rows as three datasets of different sizes and one of four rows."""
    return [rows.take(part) for part in np.split(np.arange(len(rows)), edges(len(rows))[:-1])]
