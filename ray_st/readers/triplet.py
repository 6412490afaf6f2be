"""Files with an anchor, a positive and a negative in each line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ray_st.readers.files import first, read_rows
from ray_st.readers.input_example import InputExample


class TripletReader:
    """Reads triplets.

    Args:
        dataset_folder: Where the files are.
        s1_col_idx: Column of the anchor, from 0.
        s2_col_idx: Column of the positive.
        s3_col_idx: Column of the negative.
        has_header: Whether the first row is left out.
        delimiter: What separates columns.
        quoting: One of the ``QUOTE_…`` constants of :mod:`csv`.
    """

    def __init__(
        self,
        dataset_folder: str | Path,
        s1_col_idx: int = 0,
        s2_col_idx: int = 1,
        s3_col_idx: int = 2,
        has_header: bool = False,
        delimiter: str = "\t",
        quoting: int = csv.QUOTE_NONE,
    ) -> None:
        self.dataset_folder = dataset_folder
        self.s1_col_idx = s1_col_idx
        self.s2_col_idx = s2_col_idx
        self.s3_col_idx = s3_col_idx
        self.has_header = has_header
        self.delimiter = delimiter
        self.quoting = quoting

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a file, plain or compressed by gzip.

        Args:
            filename: Its name in the folder.
            max_examples: How many to read; 0 for all.

        Raises:
            ReaderError: If the file cannot be read, or a row lacks a column.
        """
        return first(self._examples(filename), max_examples)

    def _examples(self, filename: str) -> Iterator[InputExample]:
        rows = read_rows(Path(self.dataset_folder) / filename, self.delimiter, self.quoting)
        columns = (self.s1_col_idx, self.s2_col_idx, self.s3_col_idx)
        for row in islice(rows, int(self.has_header), None):
            yield InputExample(texts=[row.field(column) for column in columns])
