"""Files with a label and a sentence in each line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from ray_st.readers.files import first, read_rows
from ray_st.readers.input_example import InputExample


class LabelSentenceReader:
    """Reads sentences with labels, as losses that make triplets of a batch need them.

    Labels become integers in the order of their first appearance, the same in all files of a reader; ``label_map``
    holds them.

    Args:
        folder: Where the files are.
        label_col_idx: Column of the label, from 0.
        sentence_col_idx: Column of the sentence.
        separator: What separates columns; one character.
    """

    def __init__(
        self, folder: str | Path, label_col_idx: int = 0, sentence_col_idx: int = 1, separator: str = "\t"
    ) -> None:
        self.folder = folder
        self.label_col_idx = label_col_idx
        self.sentence_col_idx = sentence_col_idx
        self.separator = separator
        self.label_map: dict[str, int] = {}

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
        rows = read_rows(Path(self.folder) / filename, self.separator, csv.QUOTE_NONE)
        for number, row in enumerate(rows):
            label = self.label_map.setdefault(row.field(self.label_col_idx), len(self.label_map))
            yield InputExample(f"{filename}-{number}", [row.field(self.sentence_col_idx)], label)
