"""Readers of delimited files: labelled sentences, scored pairs, and triplets."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ray_st.readers.input_example import InputExample
from ray_st.readers.text_rows import ReaderError, Row, first, read_rows


@dataclass(eq=False)
class LabelSentenceReader:
    """Reads sentences with labels, for losses that form triplets within a batch.

    Labels become integers in the order of their first appearance, the same for all files of a reader; see
    ``label_map``.

    Args:
        folder: The folder of the files.
        label_col_idx: Column of the label, from 0.
        sentence_col_idx: Column of the sentence.
        separator: The separator of columns; one character.
    """

    folder: str | Path
    label_col_idx: int = 0
    sentence_col_idx: int = 1
    separator: str = "\t"

    def __post_init__(self) -> None:
        self.label_map: dict[str, int] = {}

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a file, plain or compressed by gzip.

        Args:
            filename: Its name in the folder.
            max_examples: Number of examples to read; 0 for all.

        Raises:
            ReaderError: If the file cannot be read, or a row lacks a column.
        """
        return first(self._examples(filename), max_examples)

    def _examples(self, filename: str) -> Iterator[InputExample]:
        rows = read_rows(Path(self.folder) / filename, self.separator, csv.QUOTE_NONE)
        for number, row in enumerate(rows):
            label = self.label_map.setdefault(row.field(self.label_col_idx), len(self.label_map))
            yield InputExample(f"{filename}-{number}", [row.field(self.sentence_col_idx)], label)


@dataclass(eq=False)
class STSDataReader:
    """Reads pairs of sentences with a score.

    Args:
        dataset_folder: The folder of the files.
        s1_col_idx: Column of the first sentence, from 0.
        s2_col_idx: Column of the second.
        score_col_idx: Column of the score.
        delimiter: The separator of columns.
        quoting: One of the ``QUOTE_…`` constants of :mod:`csv`.
        normalize_scores: Whether to scale scores to 0…1.
        min_score: The lowest possible score.
        max_score: The highest possible score.

    Raises:
        ValueError: If ``max_score`` is not above ``min_score``.
    """

    dataset_folder: str | Path
    s1_col_idx: int = 0
    s2_col_idx: int = 1
    score_col_idx: int = 2
    delimiter: str = "\t"
    quoting: int = csv.QUOTE_NONE
    normalize_scores: bool = True
    min_score: float = 0
    max_score: float = 5

    def __post_init__(self) -> None:
        if not self.min_score < self.max_score:
            raise ValueError(f"max_score must be above min_score; got {self.max_score} and {self.min_score}.")

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a file, plain or compressed by gzip.

        Args:
            filename: Its name in the folder.
            max_examples: Number of examples to read; 0 for all.

        Raises:
            ReaderError: If the file cannot be read, a row lacks a column, or a score is not a number between
                the lowest and the highest.
        """
        return first(self._examples(filename), max_examples)

    def _examples(self, filename: str) -> Iterator[InputExample]:
        rows = read_rows(Path(self.dataset_folder) / filename, self.delimiter, self.quoting)
        for number, row in enumerate(rows):
            texts = [row.field(self.s1_col_idx), row.field(self.s2_col_idx)]
            yield InputExample(f"{filename}{number}", texts, self._score(row))

    def _score(self, row: Row) -> float:
        word = row.field(self.score_col_idx)
        try:
            score = float(word)
        except ValueError:
            score = float("nan")
        if not self.min_score <= score <= self.max_score:
            raise ReaderError(
                f"{row.place}: expected a score from {self.min_score} to {self.max_score}, found {word!r}."
            )
        low, high = self.min_score, self.max_score
        return (score - low) / (high - low) if self.normalize_scores else score


@dataclass(eq=False)
class STSBenchmarkDataReader(STSDataReader):
    """Reads the STS benchmark: sentences in columns 5 and 6, the score, 0 to 5, in column 4.

    Args:
        dataset_folder: The folder of the files.
        s1_col_idx: Column of the first sentence, from 0.
        s2_col_idx: Column of the second.
        score_col_idx: Column of the score.
        delimiter: The separator of columns.
        quoting: One of the ``QUOTE_…`` constants of :mod:`csv`.
        normalize_scores: Whether to scale scores to 0…1.
        min_score: The lowest possible score.
        max_score: The highest possible score.
    """

    s1_col_idx: int = 5
    s2_col_idx: int = 6
    score_col_idx: int = 4


@dataclass(eq=False)
class TripletReader:
    """Reads triplets of an anchor, a positive and a negative.

    Args:
        dataset_folder: The folder of the files.
        s1_col_idx: Column of the anchor, from 0.
        s2_col_idx: Column of the positive.
        s3_col_idx: Column of the negative.
        has_header: Whether to skip the first row.
        delimiter: The separator of columns.
        quoting: One of the ``QUOTE_…`` constants of :mod:`csv`.
    """

    dataset_folder: str | Path
    s1_col_idx: int = 0
    s2_col_idx: int = 1
    s3_col_idx: int = 2
    has_header: bool = False
    delimiter: str = "\t"
    quoting: int = csv.QUOTE_NONE

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a file, plain or compressed by gzip.

        Args:
            filename: Its name in the folder.
            max_examples: Number of examples to read; 0 for all.

        Raises:
            ReaderError: If the file cannot be read, or a row lacks a column.
        """
        return first(self._examples(filename), max_examples)

    def _examples(self, filename: str) -> Iterator[InputExample]:
        rows = read_rows(Path(self.dataset_folder) / filename, self.delimiter, self.quoting)
        columns = (self.s1_col_idx, self.s2_col_idx, self.s3_col_idx)
        for row in islice(rows, int(self.has_header), None):
            yield InputExample(texts=[row.field(column) for column in columns])
