"""An evaluator distributed over all ranks; if it fails on one rank, it ends on all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray_st.training.distributed.collectives import gather_objects
from ray_st.training.distributed.shared_encoding import dealt_encoding
from ray_st.util.team import Team, in_team, team_of
from ray_st.world import World


class PeerError(RuntimeError):
    """Another rank failed in a joint operation; see that rank's own error for details."""


@dataclass(frozen=True)
class _Failure:
    """What a failed rank sends instead of the value that the others expect."""

    rank: int
    reason: str


@dataclass(frozen=True)
class _WatchfulTeam:
    """A team whose members detect that one of them has failed instead of taking part."""

    team: Team

    @property
    def rank(self) -> int:
        return self.team.rank

    @property
    def size(self) -> int:
        return self.team.size

    def gather(self, value: Any) -> list[Any]:
        return _checked(self.team.gather(value))


@contextmanager
def together(model: Any, world: World) -> Iterator[None]:
    """Lets all ranks run the same evaluators, sharing a model's work, for as long as the context is open.

    The metrics are the same on every rank, bit-identical to those of one process. Before the context closes
    the ranks exchange whether they succeeded. A rank that fails earlier reports it in its next exchange,
    where the others wait for it: otherwise they would wait forever.

    Args:
        model: The model; see :func:`ray_st.training.distributed.shared_encoding.dealt_encoding`.
        world: This process's rank and the number of ranks.

    Raises:
        PeerError: If another rank failed, naming the rank and its error; that rank raises its own.
    """
    if world.size == 1:
        yield
        return
    with dealt_encoding(model, world), in_team(model, _WatchfulTeam(team_of(model))):
        try:
            yield
        except PeerError:
            raise
        except Exception as error:
            gather_objects(_Failure(world.rank, f"{type(error).__name__}: {error}"))
            raise
        _checked(gather_objects(None))


def _checked(values: list[Any]) -> list[Any]:
    failed = [value for value in values if isinstance(value, _Failure)]
    if failed:
        raise PeerError("; ".join(f"rank {failure.rank} failed: {failure.reason}" for failure in failed))
    return values
