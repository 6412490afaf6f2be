"""Files whose lines belong together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ray_st.readers.files import first, read_together
from ray_st.readers.input_example import InputExample


class PairedFilesReader:
    """Reads texts that stand in the same line of several files; their label is 1.

    Args:
        filepaths: The files, plain or compressed by gzip.
    """

    def __init__(self, filepaths: Sequence[str | Path]) -> None:
        self.filepaths = filepaths

    def get_examples(self, max_examples: int = 0) -> list[InputExample]:
        """The examples.

        Args:
            max_examples: How many to read; 0 for all.

        Raises:
            ReaderError: If a file cannot be read, or ends before the others.
        """
        lines = first(read_together([Path(path) for path in self.filepaths]), max_examples)
        return [
            InputExample(str(number), [row.field(0) for row in rows], 1) for number, rows in enumerate(lines)
        ]
