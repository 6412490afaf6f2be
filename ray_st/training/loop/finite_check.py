"""Checks that losses and gradients are finite before each step; otherwise stops and names the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_st.data.plan import Indices
from ray_st.training.distributed import collectives
from ray_st.world import World

LEAST_SCALE = 1e-4
"""The smallest scale of fp16 losses (as in fairseq).

A gradient that still overflows at this scale does not become finite at a lower one.
"""

_MOST_ROWS = 100


class LossError(ValueError):
    """The loss or gradient is not finite, or could not be computed; names the step, the rank and its rows."""


@dataclass(frozen=True)
class Batch:
    """One batch of a step, as this rank knows it.

    Args:
        rows: Row numbers of the global batch; None for a user-provided loader.
        dataset: Name of its dataset; empty for a single one.
    """

    rows: Indices | None
    dataset: str = ""

    def share(self, world: World) -> str:
        """A rank's rows, for error messages."""
        return self._named(None if self.rows is None else self.rows[world.share(len(self.rows))])

    def whole(self) -> str:
        """All ranks' rows, for error messages."""
        return self._named(self.rows)

    def _named(self, rows: Indices | None) -> str:
        if rows is None:
            return "in a batch of get_train_dataloader()"
        shown = [int(row) for row in rows[:_MOST_ROWS]]
        more = f" and {len(rows) - _MOST_ROWS:,} more" if len(rows) > _MOST_ROWS else ""
        dataset = f" of dataset {self.dataset!r}" if self.dataset else ""
        return f"rows {shown}{more}{dataset} (numbered over all datasets)"


class StepCheck:
    """Collects the losses of a step's batches and checks them and the gradient before the optimizer's step.

    Both are read together, once per step, because reading a value from an accelerator blocks the process.

    Args:
        world: This rank and the number of ranks.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._losses: list[tuple[Tensor, Batch]] = []

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Records the loss of a batch."""
        self._losses.append((loss.detach(), batch))

    def check(self, norm: Tensor | float, step: int, skips: Callable[[], bool] = lambda: False) -> float:
        """Checks the step's losses and gradient.

        Every rank must call it: if the shared gradient is not finite, the ranks exchange which losses are not
        finite, and all raise the same error.

        Args:
            norm: Norm of the gradient of the whole cluster, the same on every rank.
            step: Number of the step.
            skips: Whether the optimizer skips a step whose gradient overflows, as with scaled losses (fp16).

        Returns:
            The norm, which the host now knows.

        Raises:
            LossError: Naming the rows: those of the ranks whose loss is not finite, else those of the whole
                step.
        """
        taken, self._losses = self._losses, []
        norm, *losses = self._read(torch.as_tensor(norm), [loss for loss, _ in taken])
        pairs = zip(losses, (batch for _, batch in taken), strict=True)
        bad = [
            f"The loss is {loss} at {self.at(step, batch)}"
            for loss, batch in pairs
            if not math.isfinite(loss)
        ]
        if not math.isfinite(norm):
            bad = [line for lines in collectives.gather_objects(bad) for line in lines]
        if bad:
            raise LossError(". ".join([*bad, _ADVICE]))
        if not math.isfinite(norm) and not skips():
            rows = "; ".join(batch.whole() for _, batch in taken) or "in batches of your own training_step()"
            raise LossError(
                f"The gradient of step {step} is not a number (its norm is {norm}), though its losses "
                f"are: {rows}. Look at backward passes of your own. {_ADVICE}"
            )
        return norm

    def at(self, step: int, batch: Batch) -> str:
        """Where an error occurred: step, rank, and this rank's rows of the batch."""
        return f"step {step} on rank {self._world.rank} of {self._world.size}, {batch.share(self._world)}"

    @staticmethod
    def _read(norm: Tensor, losses: Sequence[Tensor]) -> list[float]:
        """The values of all: the one time in a step that the host waits for the device."""
        values = [norm, *(loss.to(norm.device) for loss in losses)]
        found: list[float] = torch.stack([value.reshape(()) for value in values]).tolist()
        return found


_ADVICE = (
    "Nothing was saved since the last checkpoint. Look at these rows, lower the learning rate, or train "
    "without mixed precision."
)
