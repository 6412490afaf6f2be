"""A list of examples as a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils.data import Dataset

from ray_st.readers.input_example import InputExample


class SentencesDataset(Dataset[InputExample]):
    """A list of examples, as older scripts wrap it; a ``DataLoader`` takes the list directly.

    Args:
        examples: The examples.
        model: Not used.
    """

    def __init__(self, examples: Sequence[InputExample], model: object = None) -> None:
        self.examples = examples

    def __getitem__(self, item: int) -> InputExample:
        return self.examples[item]

    def __len__(self) -> int:
        return len(self.examples)
