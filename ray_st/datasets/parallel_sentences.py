"""Translations, labelled with the vector of the translated sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch.utils.data import Dataset

from ray_st.readers.input_example import InputExample
from ray_st.readers.text_rows import read_lines


class Teacher(Protocol):
    """Anything that turns texts into vectors."""

    def encode(self, sentences: list[str], **options: object) -> Any:
        """(n, d) for n texts."""


class ParallelSentencesDataset(Dataset[InputExample]):
    """Sentences in several languages, each with a teacher's vector of the sentence in the first language.

    For :class:`ray_st.losses.MSELoss`. Examples are created in rounds: a round takes as many source sentences
    of each set as its weight, continuing where the previous round stopped, and shuffles all their
    translations, including the sources. An index only counts reads: it returns the next example of the round,
    so that an epoch is as long as there are distinct sentences, and sets occur in proportion to their
    weights.

    Args:
        student_model: The model to train; stored as an attribute, otherwise unused.
        teacher_model: Its ``encode`` computes the vectors.
        batch_size: Texts that the teacher encodes at once.
        use_embedding_cache: Whether to keep computed vectors.
        seed: Determines the order.
    """

    def __init__(
        self,
        student_model: object,
        teacher_model: Teacher,
        batch_size: int = 8,
        use_embedding_cache: bool = True,
        *,
        seed: int = 0,
    ) -> None:
        self.student_model = student_model
        self.teacher_model = teacher_model
        self.batch_size = batch_size
        self.use_embedding_cache = use_embedding_cache
        self.num_sentences = 0
        self._rng = np.random.default_rng(seed)
        self._sets: list[_Set] = []
        self._vectors: dict[str, Any] = {}
        self._round: list[InputExample] = []

    def load_data(
        self,
        filepath: str | Path,
        weight: int = 100,
        max_sentences: int | None = None,
        max_sentence_length: int | None = 128,
    ) -> None:
        """Adds the sentences of a file, plain or compressed by gzip.

        Each line has a sentence and its translations, separated by tabs; blank lines are skipped.

        Args:
            filepath: The file.
            weight: Source sentences of this set in a round.
            max_sentences: Number of source sentences to use; None for all.
            max_sentence_length: Lines with a longer sentence (in characters) are skipped; None for no limit.

        Raises:
            ValueError: If the file cannot be read (a ``ReaderError``), and as :meth:`add_dataset`.
        """
        lines = ((row.place, row.fields[0].split("\t")) for row in read_lines(Path(filepath)))
        rows = ((place, [text.strip() for text in texts]) for place, texts in lines)
        filled = ((place, texts) for place, texts in rows if any(texts))
        self._add(filled, str(filepath), weight, max_sentences, max_sentence_length)

    def add_dataset(
        self,
        parallel_sentences: Iterable[Sequence[str]],
        weight: int = 100,
        max_sentences: int | None = None,
        max_sentence_length: int | None = 128,
    ) -> None:
        """Adds sentences, each with its translations.

        Args:
            parallel_sentences: Rows of a sentence and its translations; empty translations are ignored.
            weight: Source sentences of this set in a round.
            max_sentences: Number of source sentences to use; None for all.
            max_sentence_length: Rows with a longer sentence (in characters) are skipped; None for no limit.

        Raises:
            ValueError: If no row is left, a row has no source sentence, or the weight is not positive.
        """
        rows = ((f"parallel_sentences, row {number}", row) for number, row in enumerate(parallel_sentences))
        self._add(rows, "parallel_sentences", weight, max_sentences, max_sentence_length)

    def _add(
        self,
        rows: Iterable[tuple[str, Sequence[str]]],
        name: str,
        weight: int,
        limit: int | None,
        longest: int | None,
    ) -> None:
        if weight < 1:
            raise ValueError(f"weight must be at least 1; got {weight}.")
        found: dict[str, dict[str, None]] = {}
        for place, row in rows:
            if not row or not row[0].strip():
                raise ValueError(f"{place}: expected a sentence in the first column, found none.")
            if longest and max(map(len, row)) > longest:
                continue
            if limit and len(found) == limit and row[0] not in found:
                break
            found.setdefault(row[0], {}).update(dict.fromkeys(text for text in row if text.strip()))
        if not found:
            raise ValueError(f"{name} has no row with sentences of at most {longest} characters.")
        self.num_sentences += sum(map(len, found.values()))
        entries = [(source, list(texts)) for source, texts in found.items()]
        self._sets.append(_Set(entries, weight, self._rng))

    def __getitem__(self, item: int) -> InputExample:
        if not -len(self) <= item < len(self):
            raise IndexError(f"There are {len(self)} sentences; got the index {item}.")
        if not self._round:
            self._round = self._next_round()
        return self._round.pop()

    def __len__(self) -> int:
        """Number of distinct sentences in all sets."""
        return self.num_sentences

    def _next_round(self) -> list[InputExample]:
        entries = [entry for part in self._sets for entry in part.take()]
        vectors = self._encode([source for source, _ in entries])
        examples = [
            InputExample(texts=[text], label=vectors[source]) for source, texts in entries for text in texts
        ]
        return [examples[place] for place in self._rng.permutation(len(examples))]

    def _encode(self, sources: list[str]) -> dict[str, Any]:
        known = self._vectors if self.use_embedding_cache else {}
        new = [source for source in dict.fromkeys(sources) if source not in known]
        if new:
            options = {"batch_size": self.batch_size, "show_progress_bar": False, "convert_to_numpy": True}
            known.update(zip(new, self.teacher_model.encode(new, **options), strict=True))
        return known


class _Set:
    """Sentences with their translations, in an endless order that is reshuffled after each pass."""

    def __init__(self, entries: list[tuple[str, list[str]]], weight: int, rng: np.random.Generator) -> None:
        self.entries, self.weight, self.rng, self.next = entries, weight, rng, 0

    def take(self) -> list[tuple[str, list[str]]]:
        taken = []
        for _ in range(self.weight):
            taken.append(self.entries[self.next])
            self.next += 1
            if self.next == len(self.entries):
                self.next = 0
                self.entries = [self.entries[place] for place in self.rng.permutation(len(self.entries))]
        return taken
