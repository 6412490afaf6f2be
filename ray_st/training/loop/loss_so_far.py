"""The loss of the steps so far, carried over a restart, so that logs match an uninterrupted run.

transformers counts from the step where it resumes: the first loss it logs is a mean over fewer steps than in
an uninterrupted run, and the loss that ``train()`` returns covers the steps of that call only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import TrainerState

from ray_st.training.distributed import collectives
from ray_st.training.loop.loss_parts import LossParts
from ray_st.world import World

LOSS_SO_FAR = "loss so far"
"""Key in a checkpoint's manifest."""


class CountsLosses(Protocol):
    """The attributes in which transformers' Trainer accumulates losses."""

    state: TrainerState
    _tr_loss: Tensor
    _total_loss_scalar: float
    _globalstep_last_logged: int
    _initial_global_step: int


@dataclass(frozen=True)
class LossSoFar:
    """Sums of losses at a step.

    Args:
        total: Sum over all logged steps.
        logged_at: The last of these steps.
        since: For each rank, the sum over the steps after that.
        parts: For each rank, over the same steps, by name of a part of the loss: the sum and the number of
            steps.
    """

    total: float
    logged_at: int
    since: Sequence[float]
    parts: Sequence[Mapping[str, Sequence[float]]]

    def of_rank(self, rank: int, ranks: int) -> tuple[float, Mapping[str, Sequence[float]]]:
        """What a rank resumes with: its own sums, or the mean over all if the number of ranks changed."""
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


class LossCounter:
    """Saves transformers' loss sums to checkpoints and restores them.

    Args:
        loop: The trainer, which holds the sums in transformers' attributes.
        parts: The parts of the loss, counted separately.
        manifest: Manifest of the checkpoint that the run resumes from; empty without one. Manifests of
            earlier versions do not contain losses.
    """

    def __init__(self, loop: CountsLosses, parts: LossParts, manifest: Mapping[str, Any]) -> None:
        self._loop, self._parts = loop, parts
        self._then: Mapping[str, Any] = manifest.get(LOSS_SO_FAR, {})
        self._resumed = False
        self._at_end: dict[str, Any] = {}

    def resume(self, world: World, device: torch.device) -> None:
        """Restores the sums from the checkpoint; only the first call has an effect."""
        noted, self._then = self._then, {}
        if not noted:
            return
        self._resumed = True
        so_far, loop = LossSoFar(**noted), self._loop
        since, parts = so_far.of_rank(world.rank, world.size)
        loop._tr_loss += since
        loop._total_loss_scalar, loop._globalstep_last_logged = so_far.total, so_far.logged_at
        self._parts.restore(parts, device)

    def gathered(self) -> dict[str, Any]:
        """The losses so far, for a manifest; every rank must call it."""
        if self._at_end:
            return self._at_end
        mine = self._loop._tr_loss.item(), self._parts.sums()
        since, parts = zip(*collectives.gather_objects(mine), strict=True)
        total, logged_at = self._loop._total_loss_scalar, self._loop._globalstep_last_logged
        return asdict(LossSoFar(total, logged_at, list(since), list(parts)))

    def end(self) -> None:
        """Makes transformers' returned mean loss cover all steps of the run; every rank must call it.

        transformers divides by the steps of its own call.
        """
        self._at_end = self.gathered()
        if not self._resumed:
            return
        loop = self._loop
        rest = loop._tr_loss.item()
        steps_here = max(loop.state.global_step - loop._initial_global_step, 0.001)  # as in transformers
        mean = (loop._total_loss_scalar + rest) / max(loop.state.global_step, 1)
        loop._total_loss_scalar = mean * steps_here - rest
