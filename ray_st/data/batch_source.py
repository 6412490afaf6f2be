"""The interface that gives a rank its batches: plans, piece by piece, and random access to encoded rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Indices, Piece, Plan
from ray_st.data.samplers import FollowsEpochs, known_steps, plan_of


class BatchSource(Protocol):
    """The batches of a run's datasets, as one rank sees them.

    Rows are numbered consecutively across all datasets.
    """

    @property
    def names(self) -> Sequence[str]:
        """Names of the datasets; a single dataset is named ""."""

    @property
    def windows(self) -> Sequence[EncodedDataset]:
        """The rows of each dataset."""

    @property
    def steps(self) -> int:
        """Number of global batches in every epoch."""

    @property
    def rows(self) -> int:
        """Number of rows in all datasets."""

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch; all rows of a batch come from one dataset."""

    def ahead(self, source: int, rows: Indices) -> None:
        """Hints that rows of a dataset will be needed soon."""


class PiecePlanner(Protocol):
    """Plans the batches of epochs, piece by piece."""

    @property
    def steps(self) -> int:
        """Number of batches of every epoch."""

    def piece(self, epoch: int, step: int) -> Piece:
        """The batches around a step of an epoch."""


class Planner:
    """Plans epochs with a batch sampler, so that all have the same number of steps.

    If epochs differ in their number of batches, shorter ones are stretched to the longest. With
    ``drop_last``, which guarantees full batches, longer ones are cut to the shortest instead.

    Args:
        sampler: A batch sampler; its ``set_epoch`` is called if it has one.
        epochs: Maximum number of epochs of the run.
        usable: (n,) maps the sampler's row indices to row numbers, if some rows are left out.

    Raises:
        ValueError: If an epoch has no batches.
    """

    def __init__(self, sampler: Iterable[list[int]], epochs: int, usable: Indices | None = None) -> None:
        self._sampler, self._usable = sampler, usable
        self._latest: tuple[int, Plan] | None = None
        self._drop_last = bool(getattr(sampler, "drop_last", False))
        self.steps = self._count(max(epochs, 1))
        if self.steps == 0:
            raise ValueError(
                f"{type(sampler).__name__} makes no batch in an epoch. With dataloader_drop_last=True only "
                "full batches count, and of several datasets in turn the one without a full batch ends the "
                "epoch: use smaller batches, or dataloader_drop_last=False."
            )

    def _count(self, epochs: int) -> int:
        known = known_steps(self._sampler)
        if known is not None:
            return known
        lengths = [len(self._draw(epoch)) for epoch in reversed(range(epochs))]
        return min(lengths) if self._drop_last else max(lengths)

    def _draw(self, epoch: int) -> Plan:
        if self._latest is None or self._latest[0] != epoch:
            if isinstance(self._sampler, FollowsEpochs):
                self._sampler.set_epoch(epoch)
            self._latest = (epoch, plan_of(self._sampler))
        return self._latest[1]

    def plan(self, epoch: int) -> Plan:
        """The global batches of an epoch."""
        plan = self._draw(epoch)
        plan = (plan.first(self.steps) if self._drop_last else plan).stretch(self.steps)
        return plan if self._usable is None else Plan(self._usable[plan.rows], plan.starts)

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches of an epoch, as a piece."""
        return Piece(self.plan(epoch))


class MemoryBatchSource:
    """A batch source that holds its rows and planner in this process.

    Args:
        windows: All rows of each dataset, by dataset name.
        planner: Plans the epochs.
    """

    def __init__(self, windows: Mapping[str, EncodedDataset], planner: PiecePlanner) -> None:
        self.names, self.windows = list(windows), list(windows.values())
        self.steps, self.rows = planner.steps, sum(len(window) for window in self.windows)
        self._planner = planner

    def piece(self, epoch: int, step: int) -> Piece:
        """The global batches around a step of an epoch."""
        return self._planner.piece(epoch, step)

    def ahead(self, source: int, rows: Indices) -> None:
        """Does nothing: all rows are already here."""
