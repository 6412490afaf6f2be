"""Counters kept during training and carried over a restart, so that logs match an uninterrupted run.

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
from ray_st.util.host_facts import TOKEN_LENGTHS
from ray_st.world import World

LOSS_SO_FAR = "loss so far"
"""Key in a checkpoint's manifest."""


class LossParts:
    """Means of the named parts of a loss, over steps and ranks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._steps: dict[str, int] = {}

    def add(self, parts: Mapping[str, Tensor], weight: float) -> None:
        """Adds one step's parts, weighted by this rank's rows."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().double() * weight
            self._steps[name] = self._steps.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means since the last call. All ranks must call it; steps use the same dataset on all ranks."""
        found = {
            name: float(
                collectives.sum_over_ranks(total) / collectives.current_world().size / self._steps[name]
            )
            for name, total in sorted(self._sums.items())
        }
        self._sums, self._steps = {}, {}
        return found

    def sums(self) -> dict[str, tuple[float, int]]:
        """This rank's sums and step counts since the last call to :meth:`means`."""
        return {name: (float(total), self._steps[name]) for name, total in self._sums.items()}

    def restore(self, sums: Mapping[str, Sequence[float]], device: torch.device) -> None:
        """Restores the state returned by :meth:`sums`."""
        self._sums = {
            name: torch.tensor(total, dtype=torch.float64, device=device) for name, (total, _) in sums.items()
        }
        self._steps = {name: int(steps) for name, (_, steps) in sums.items()}


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
        self._saved: Mapping[str, Any] = manifest.get(LOSS_SO_FAR, {})
        self._resumed = False
        self._at_end: dict[str, Any] = {}

    def resume(self, world: World, device: torch.device) -> None:
        """Restores the sums from the checkpoint; only the first call has an effect."""
        saved, self._saved = self._saved, {}
        if not saved:
            return
        self._resumed = True
        so_far, loop = LossSoFar(**saved), self._loop
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


def tokens_of(inputs: Mapping[str, Any], padded: bool) -> int:
    """The number of tokens in the text columns of a step.

    Args:
        inputs: ``COLUMN_input_ids``, ``COLUMN_attention_mask``, …
        padded: Whether padding counts.

    Raises:
        ValueError: If there are no tokens among the inputs.
    """
    ids = {name: value for name, value in inputs.items() if name.endswith("input_ids")}
    if not ids:
        raise ValueError(
            "include_num_input_tokens_seen counts token ids, and the model's inputs have none: they are "
            f"{sorted(inputs)}. Leave it out."
        )
    if padded:
        return sum(value.numel() for value in ids.values())
    return sum(_real_tokens(inputs, name.removesuffix("input_ids")) for name in ids)


def _real_tokens(inputs: Mapping[str, Any], column: str) -> int:
    lengths, mask = inputs.get(f"{column}{TOKEN_LENGTHS}"), inputs.get(f"{column}attention_mask")
    if lengths is not None:
        return int(lengths.sum())
    ids: Tensor = inputs[f"{column}input_ids"]
    return ids.numel() if mask is None else int(mask.count_nonzero())
