"""The ranks of a run as a team that shares the work of evaluators; if one fails on a rank, it ends on all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ray_st.models.card.model_card_data import SentenceTransformerModelCardData
from ray_st.training.distributed.collectives import gather_objects
from ray_st.training.distributed.paired_calls import PairedCalls
from ray_st.util.endings import PeerError, PeerFailure
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
        calls: Pairs the calls of the model; None if each rank may call it by itself.
    """

    rank: int
    size: int
    device: torch.device | str = "cpu"
    calls: PairedCalls | None = None

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, in order of rank; every rank must call it.

        Raises:
            PeerError: If another rank failed instead of taking part.
        """
        if self.calls is not None:
            self.calls.wait()
        values = gather_objects(_moved(value, "cpu"))
        if failed := [value for value in values if isinstance(value, PeerFailure)]:
            raise PeerError(failed)
        return [_moved(other, self.device) for other in values]


@contextmanager
def together(model: nn.Module, world: World, paired: bool = False) -> Iterator[None]:
    """Lets all ranks run the same evaluators, sharing a model's work, for as long as the context is open.

    All ranks must run the same evaluators in the same order. ``model.encode`` distributes its batches and
    each rank gets all embeddings; retrieval distributes the corpus and exchanges only the hits. Metrics are
    bit-identical to those of one process, because the batches are the same and only the rank that runs them
    differs.

    Before the context closes the ranks exchange whether they succeeded. A rank that fails earlier reports it
    in its next exchange, where the others wait for it: otherwise they would wait forever.

    Args:
        model: A model with a ``team``; any other model computes everything on every rank.
        world: This process's rank and the number of ranks.
        paired: Whether every rank has to take part in each call of the model. A rank that fails within a call
            raises at once: the others wait inside of it, where nothing can be exchanged.

    Raises:
        PeerError: If another rank failed, naming the rank and its error; that rank raises its own.
    """
    if world.size == 1:
        yield
        return
    calls = PairedCalls(model, world) if paired else None
    team = RankTeam(world.rank, world.size, getattr(model, "device", "cpu"), calls)
    with in_team(model, team), nullcontext() if calls is None else calls.watched():
        try:
            yield
        except PeerError:
            raise
        except Exception as error:
            if calls is not None:
                if calls.inside:
                    raise
                calls.wait()
            gather_objects(PeerFailure.of(world.rank, error))
            raise
        team.gather(None)


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [_moved(part, device) for part in value]
    return {key: _moved(part, device) for key, part in value.items()} if isinstance(value, dict) else value


# ---- outside of training ----


@dataclass(frozen=True)
class Measured:
    """The results of evaluators.

    Args:
        metrics: Metrics by name.
        primary_metrics: Each evaluator's ``primary_metric``, known after its first call, or None.
        card: The model's card data, with the metrics.
    """

    metrics: dict[str, float]
    primary_metrics: tuple[str | None, ...]
    card: SentenceTransformerModelCardData | None


def measure(
    model: nn.Module,
    evaluators: Sequence[Callable[..., Any]],
    world: World,
    output_path: str | None = None,
    epoch: float = -1,
    steps: int = -1,
) -> Measured:
    """Runs evaluators; every rank must call it, and all get the same metrics.

    Args:
        model: The model, on this rank's device.
        evaluators: Evaluators, or any callables like them. One that returns a single number is named
            ``evaluator_{i}`` by its position.
        world: This process's rank and the number of ranks.
        output_path: Folder for the evaluators' files, which the first rank writes; None for none.
        epoch: Passed to the evaluators.
        steps: Likewise.

    Raises:
        PeerError: If an evaluator fails on another rank.
    """
    metrics: dict[str, float] = {}
    with together(model, world):
        for i, evaluator in enumerate(evaluators):
            path = output_path if world.is_first else None
            found = evaluator(model, output_path=path, epoch=epoch, steps=steps)
            metrics |= found if isinstance(found, Mapping) else {f"evaluator_{i}": found}
    return Measured(
        {name: float(value) for name, value in metrics.items()},
        tuple(getattr(evaluator, "primary_metric", None) for evaluator in evaluators),
        getattr(model, "model_card_data", None),
    )
