"""The loss of the steps so far, carried over a restart: what is logged goes on as if the run had not been broken.

transformers counts from the step where it goes on: the first loss that it logs is a mean over fewer steps than an unbroken
run's, and the loss that ``train()`` returns one over the steps of that call only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ray_st.training.distributed import collectives

LOSS_SO_FAR = "loss so far"
"""Key in a checkpoint's manifest."""


@dataclass(frozen=True)
class LossSoFar:
    """Sums of losses at a step.

    Args:
        total: Over all steps that have been logged.
        logged_at: The last of these steps.
        since: For each rank, over the steps after that.
        parts: For each rank, likewise, by the name of a part of a loss: the sum, and the number of steps.
    """

    total: float
    logged_at: int
    since: Sequence[float]
    parts: Sequence[Mapping[str, Sequence[float]]]

    def of_rank(self, rank: int, ranks: int) -> tuple[float, Mapping[str, Sequence[float]]]:
        """What a rank goes on with: its own sums, or where there were other ranks, the mean of all."""
        if ranks == len(self.since):
            return self.since[rank], self.parts[rank]
        names = {name for part in self.parts for name in part}
        means = {
            name: [_mean([part[name][i] for part in self.parts if name in part]) for i in (0, 1)]
            for name in names
        }
        return _mean(self.since), means


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def gather(trainer: Any) -> dict[str, Any]:
    """The losses so far, for a manifest. All ranks must call it.

    Args:
        trainer: A worker's trainer, in training.
    """
    mine = trainer._tr_loss.item(), trainer._parts.sums()
    since, parts = zip(*collectives.gather_objects(mine), strict=True)
    return asdict(
        LossSoFar(trainer._total_loss_scalar, trainer._globalstep_last_logged, list(since), list(parts))
    )


def restore(trainer: Any, noted: Mapping[str, Any]) -> None:
    """Lets a trainer that goes on from a checkpoint count on from there.

    Args:
        trainer: A worker's trainer, before its first step.
        noted: What :func:`gather` gave.
    """
    so_far, world = LossSoFar(**noted), trainer.here.world
    since, parts = so_far.of_rank(world.rank, world.size)
    trainer._tr_loss += since
    trainer._total_loss_scalar, trainer._globalstep_last_logged = so_far.total, so_far.logged_at
    trainer._parts.restore(parts, trainer.args.device)


def spread_over_all_steps(trainer: Any) -> None:
    """Makes the mean loss that transformers returns one over all steps of the run; it divides by those of its own call.

    Args:
        trainer: A trainer that :func:`restore` was called for, after its last step.
    """
    rest = trainer._tr_loss.item()
    steps_here = max(
        trainer.state.global_step - trainer._initial_global_step, 0.001
    )  # as transformers has it
    mean = (trainer._total_loss_scalar + rest) / max(trainer.state.global_step, 1)
    trainer._total_loss_scalar = mean * steps_here - rest
