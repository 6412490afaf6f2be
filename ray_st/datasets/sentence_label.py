"""Examples in runs of the same label."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ray_st.datasets.chance import draw
from ray_st.readers.input_example import InputExample

Draws = list[list[int]]


class SentenceLabelDataset(IterableDataset[InputExample]):
    """Examples for losses that need several examples per label in a batch.

    A run of ``samples_per_label`` different examples of one label is followed by a run of another label;
    labels take turns in random order. Labels with fewer examples are left out, and without replacement also
    the last examples of a label if they are too few for a run. The batch size should be a multiple of
    ``samples_per_label``. The worker processes of a ``DataLoader`` share the runs.

    Args:
        examples: Examples with one label each.
        samples_per_label: Examples per run.
        with_replacement: Whether an example may recur within an epoch, though not in the same run; an epoch
            is then as long as there are examples. Otherwise each example occurs at most once.
        seed: Determines the order, together with the epoch.

    Raises:
        ValueError: If ``samples_per_label`` is not positive, or no label has that many examples.
    """

    def __init__(
        self,
        examples: Sequence[InputExample],
        samples_per_label: int = 2,
        with_replacement: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        if samples_per_label < 1:
            raise ValueError(f"samples_per_label must be at least 1; got {samples_per_label}.")
        self.examples = examples
        self.samples_per_label = samples_per_label
        self.with_replacement = with_replacement
        self.seed = seed
        self._epoch = 0
        groups: dict[Hashable, list[int]] = {}
        for row, example in enumerate(examples):
            groups.setdefault(example.label, []).append(row)
        self._groups = [np.array(rows) for rows in groups.values() if len(rows) >= samples_per_label]
        if not self._groups:
            raise ValueError(
                f"No label has {samples_per_label} examples; found {len(groups)} labels among "
                f"{len(examples)} examples."
            )

    def __iter__(self) -> Iterator[InputExample]:
        rng = draw(self.seed, self._epoch)
        self._epoch += 1
        runs = self._drawn_again(rng) if self.with_replacement else self._drawn_once(rng)
        worker = get_worker_info()
        for run in runs if worker is None else runs[worker.id :: worker.num_workers]:
            yield from (self.examples[row] for row in run)

    def __len__(self) -> int:
        """Number of examples in an epoch."""
        return self._runs() * self.samples_per_label

    def _runs(self) -> int:
        n = self.samples_per_label
        if self.with_replacement:
            return -(-sum(map(len, self._groups)) // n)
        return sum(len(rows) // n for rows in self._groups)

    def _drawn_once(self, rng: np.random.Generator) -> Draws:
        n = self.samples_per_label
        left = [rng.permutation(rows)[: len(rows) // n * n].reshape(-1, n).tolist() for rows in self._groups]
        runs: Draws = []
        while left:
            runs += [left[label].pop() for label in rng.permutation(len(left))]
            left = [rows for rows in left if rows]
        return runs

    def _drawn_again(self, rng: np.random.Generator) -> Draws:
        runs: Draws = []
        while len(runs) < self._runs():
            runs += [
                rng.choice(self._groups[label], self.samples_per_label, replace=False).tolist()
                for label in rng.permutation(len(self._groups))
            ]
        return runs[: self._runs()]
