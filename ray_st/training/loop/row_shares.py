"""How a step's rows are distributed over the ranks, for losses that gather them."""

from __future__ import annotations

from typing import Any

import torch

from ray_st.losses.loss import Loss
from ray_st.training.data.step_loader import SHARES
from ray_st.training.distributed import collectives
from ray_st.training.loop.row_weights import rows_of
from ray_st.training.strategies.step_module import LossOrLosses, losses_of


class RowShares:
    """Extracts each rank's row count from a step's inputs and passes it to the losses.

    A trainer uses one for both training and evaluation, since a loss has a single link to the other ranks.

    Args:
        loss: The loss, or one for each dataset.
        device: This rank's device.
        one_call: Whether a loss may run the model only once per step, because sharded weights are gathered
            for each call.
    """

    def __init__(self, loss: LossOrLosses, device: torch.device, one_call: bool) -> None:
        self.loss, self._device, self._one_call = loss, device, one_call
        self._gather = collectives.ClusterGather()

    def bind(self) -> None:
        """Moves the losses to the device and gives them access to the other ranks."""
        for each in losses_of(self.loss).values():
            each.to(self._device)
            for part in each.modules():
                if isinstance(part, Loss):
                    part.bind(self._gather)
                    part.one_call = self._one_call

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
