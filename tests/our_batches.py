"""Our batches, for the peer's trainers."""

from __future__ import annotations

from typing import Any

import torch

from ray_st.data.samplers import DefaultBatchSampler, RandomOrder


class OurBatches(torch.utils.data.BatchSampler):
    """Our batches, as the peer's trainer takes them."""

    def __init__(self, rows: int, batch_size: int) -> None:
        self.ours = DefaultBatchSampler(RandomOrder(rows, seed=42), batch_size)
        self.batch_size, self.drop_last = batch_size, False

    def __iter__(self) -> Any:
        return iter(self.ours)

    def __len__(self) -> int:
        return len(self.ours)

    def set_epoch(self, epoch: int) -> None:
        self.ours.set_epoch(epoch)
