"""A list of examples as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import Dataset

from ray_st.readers.input_example import InputExample


class SentencesDataset(Dataset[InputExample]):
    """Examples as they are: older scripts wrap a list in it, which a ``DataLoader`` takes directly.

    Args:
        examples: The examples.
        model: Not used.
    """

    def __init__(self, examples: Sequence[InputExample], model: Any = None) -> None:
        self.examples = examples

    def __getitem__(self, item: int) -> InputExample:
        return self.examples[item]

    def __len__(self) -> int:
        return len(self.examples)
