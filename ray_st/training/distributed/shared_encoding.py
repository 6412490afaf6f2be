"""The ranks of a run as a team that shares the model's work while an evaluator runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ray_st.training.distributed.collectives import gather_objects
from ray_st.util.team import in_team
from ray_st.world import World


@dataclass(frozen=True)
class RankTeam:
    """The ranks of a run, as :class:`ray_st.util.team.Team` describes.

    Attributes:
        rank: Index of this process.
        size: Number of processes.
        device: The device for received tensors; they are sent through main memory, since device names differ
            between processes.
    """

    rank: int
    size: int
    device: Any = "cpu"

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in order of rank; every rank must call it."""
        return [_moved(other, self.device) for other in gather_objects(_moved(value, "cpu"))]


@contextmanager
def dealt_encoding(model: Any, world: World) -> Iterator[None]:
    """Lets all ranks share a model's work for as long as the context is open.

    All ranks must run the same evaluators in the same order. ``model.encode`` distributes its batches and
    each rank gets all embeddings; retrieval distributes the corpus and exchanges only the hits. Both are
    bit-identical to one process, because the batches are the same and only the rank that runs them differs.

    Args:
        model: A model with a ``team``; any other model computes everything on every rank.
        world: This process's rank and the number of ranks.
    """
    if world.size == 1:
        yield
        return
    with in_team(model, RankTeam(world.rank, world.size, getattr(model, "device", "cpu"))):
        yield


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return {key: _moved(part, device) for key, part in value.items()} if isinstance(value, dict) else value
