"""Batches of examples in which no text occurs twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ray_st.data.keys import Hashes, Keys, hash_texts
from ray_st.data.samplers import NoDuplicatesBatchSampler
from ray_st.readers.input_example import InputExample


class NoDuplicatesDataLoader:
    """A loader for losses that use the other examples of a batch as negatives.

    An epoch contains each example exactly once. Incomplete batches come last; there are several if some texts
    are so frequent that they fit nowhere else. Texts that differ only in case or surrounding white space
    count as equal. Planning takes time linear in the number of examples, however often texts repeat.

    Args:
        train_examples: The examples; not reordered in place.
        batch_size: Examples per batch.
        seed: Determines the order, together with the epoch.
        drop_last: Whether to leave out incomplete batches.

    Raises:
        ValueError: If ``batch_size`` is not positive, an example has no texts, or there is no batch.
    """

    def __init__(
        self,
        train_examples: Sequence[InputExample],
        batch_size: int,
        *,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self.train_examples = train_examples
        self.batch_size = batch_size
        self.collate_fn: Callable[[list[InputExample]], Any] | None = None
        keys = Keys(_hashes(train_examples))
        self._sampler = NoDuplicatesBatchSampler(keys, batch_size, drop_last, seed=seed)
        self._plan = self._sampler.plan()
        if not len(self._plan):
            raise ValueError(
                f"No full batch of {batch_size} without a repeated text can be made of {len(train_examples)} "
                "examples; choose a smaller batch_size, or drop_last=False."
            )

    def __iter__(self) -> Iterator[Any]:
        plan = self._plan
        self.set_epoch(self._sampler.epoch + 1)
        for step in range(len(plan)):
            batch = [self.train_examples[row] for row in plan.batch(step).tolist()]
            yield batch if self.collate_fn is None else self.collate_fn(batch)

    def __len__(self) -> int:
        """Number of batches in the next epoch; may vary slightly between epochs if texts repeat often."""
        return len(self._plan)

    def set_epoch(self, epoch: int) -> None:
        """Sets the next epoch, counted from 0."""
        self._sampler.set_epoch(epoch)
        self._plan = self._sampler.plan()


def _hashes(examples: Sequence[InputExample]) -> Hashes:
    """Hashes (n, texts); examples with fewer texts repeat their first one, which changes nothing."""
    rows = [[str(text).strip().lower() for text in example.texts or []] for example in examples]
    empty = next((number for number, texts in enumerate(rows) if not texts), None)
    if empty is not None:
        raise ValueError(f"Example {empty} has no texts.")
    width = max(map(len, rows), default=1)
    filled = [texts + texts[:1] * (width - len(texts)) for texts in rows]
    if not rows:
        return np.zeros((0, 1), dtype=np.uint64)
    return np.stack([hash_texts(column) for column in zip(*filled, strict=True)], axis=1)
