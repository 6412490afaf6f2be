"""Readers of several files with corresponding lines: parallel texts and inference data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ray_st.readers.input_example import InputExample
from ray_st.readers.text_rows import ReaderError, first, read_together

_LABELS = {"contradiction": 0, "entailment": 1, "neutral": 2}


@dataclass(eq=False)
class NLIDataReader:
    """Reads pairs of sentences and whether the first entails the second.

    Args:
        dataset_folder: The folder of the files ``s1.NAME``, ``s2.NAME`` and ``labels.NAME``.
    """

    dataset_folder: str | Path

    def get_examples(self, filename: str, max_examples: int = 0) -> list[InputExample]:
        """The examples of a split.

        Args:
            filename: The end of the three files' names, such as ``train.gz``; they may be compressed
                by gzip.
            max_examples: Number of examples to read; 0 for all.

        Raises:
            ReaderError: If a file cannot be read or ends before the others, or a label is none of
                :meth:`get_labels`.
        """
        return first(self._examples(filename), max_examples)

    def _examples(self, filename: str) -> Iterator[InputExample]:
        folder = Path(self.dataset_folder)
        paths = [folder / f"{part}.{filename}" for part in ("s1", "s2", "labels")]
        for number, (one, two, label) in enumerate(read_together(paths)):
            word = label.field(0)
            if word.lower() not in _LABELS:
                raise ReaderError(f"{label.place}: expected a label among {list(_LABELS)}, found {word!r}.")
            yield InputExample(f"{filename}-{number}", [one.field(0), two.field(0)], self.map_label(word))

    @staticmethod
    def get_labels() -> dict[str, int]:
        """The number of each label."""
        return dict(_LABELS)

    def get_num_labels(self) -> int:
        """Number of labels."""
        return len(_LABELS)

    def map_label(self, label: str) -> int:
        """The number of a label, whatever its case."""
        return _LABELS[label.strip().lower()]


@dataclass(eq=False)
class PairedFilesReader:
    """Reads texts from corresponding lines of several files; their label is 1.

    Args:
        filepaths: The files, plain or compressed by gzip.
    """

    filepaths: Sequence[str | Path]

    def get_examples(self, max_examples: int = 0) -> list[InputExample]:
        """The examples.

        Args:
            max_examples: Number of examples to read; 0 for all.

        Raises:
            ReaderError: If a file cannot be read, or ends before the others.
        """
        lines = first(read_together([Path(path) for path in self.filepaths]), max_examples)
        texts = ([row.field(0) for row in rows] for rows in lines)
        return [InputExample(str(number), row, 1) for number, row in enumerate(texts)]
