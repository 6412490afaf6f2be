"""How a step's rows are distributed over the ranks, and the weights of the ranks' losses that follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.losses.lockstep import Lockstep
from ray_st.losses.loss import Loss
from ray_st.training.data.step_loader import SHARES, Inputs
from ray_st.training.distributed import collectives
from ray_st.training.strategies.step_module import LossOrLosses, losses_of
from ray_st.util.host_facts import PAIR_COUNTS
from ray_st.world import World


class RowShares:
    """Extracts each rank's row count from a step's inputs and passes it to the losses.

    A trainer uses one for both training and evaluation, since a loss has a single link to the other ranks.

    Args:
        loss: The loss, or one for each dataset.
        device: This rank's device.
        lockstep: The agreement of ranks that must make their calls of the model together, or None.
    """

    def __init__(self, loss: LossOrLosses, device: torch.device, lockstep: Lockstep | None) -> None:
        self.loss, self._device, self._lockstep = loss, device, lockstep
        self._gather = collectives.ClusterGather()

    def bind(self) -> None:
        """Moves the losses to the device and gives them access to the other ranks.

        Sharded weights are moved when their shards are made: no rank has room for whole ones.
        """
        for each in losses_of(self.loss).values():
            if self._lockstep is None:
                each.to(self._device)
            for part in each.modules():
                if isinstance(part, Loss):
                    part.bind(self._gather)
                    part.lockstep = self._lockstep

    def take(self, inputs: dict[str, Any]) -> list[int]:
        """The number of rows of each rank; removed from the inputs.

        User-provided loaders do not include it; then the ranks exchange their counts.
        """
        shares: list[int] | None = inputs.pop(SHARES, None)
        if shares is None:
            shares = collectives.gather_objects(rows_of(inputs))
        self._gather.share(shares)
        return shares

    @property
    def idle(self) -> bool:
        """Whether this rank has only a filler row in this step."""
        return self._gather.idle


class RowWeights:
    """Loss weights that make a step's loss the mean over its rows, however they are split.

    The reduction averages over ranks, and the loop over the batches of a step, regardless of size. So each
    share is weighted by its row count divided by the count it would have if all shares were equal.

    Args:
        world: This rank and the number of ranks.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._rows_a_batch: float | None = None

    def begin(self, batches: Sequence[Inputs]) -> None:
        """Counts the rows of a step's batches over all ranks; every rank must call it.

        Args:
            batches: This rank's shares. Batches from a user-provided loader lack the row counts of the other
                ranks; these are added in place.
        """
        if any(SHARES not in inputs for inputs in batches):
            counts = collectives.gather_objects([rows_of(inputs) for inputs in batches])
            for inputs, shares in zip(batches, zip(*counts, strict=True), strict=True):
                inputs[SHARES] = list(shares)
        rows = [sum(inputs[SHARES]) for inputs in batches]
        self._rows_a_batch = sum(rows) / len(rows) if rows else None

    def of(self, shares: Sequence[int], sums: bool = False) -> float:
        """The weight of this rank's part of a batch.

        Args:
            shares: Rows of each rank.
            sums: Whether the loss is a sum over rows. Then all batches have equal weight, since larger ones
                already have larger losses.
        """
        rows = sum(shares) if sums or self._rows_a_batch is None else self._rows_a_batch
        return shares[self._world.rank] * self._world.size / rows


def rows_of(inputs: Mapping[str, Any]) -> int:
    """Number of rows of a rank's inputs; of pairs of texts, a row may have several."""
    counts = next((value for name, value in inputs.items() if name.endswith(PAIR_COUNTS)), None)
    if counts is not None:
        return len(counts)
    return next(len(value) for value in inputs.values() if isinstance(value, Tensor) and value.ndim)


def is_sum(loss: nn.Module) -> bool:
    """Whether a loss, or the loss it wraps, is a sum over rows."""
    return any(isinstance(part, Loss) and part.sums for part in loss.modules())
