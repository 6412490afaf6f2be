"""How several datasets are mixed: which dataset each batch comes from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ray_st.data.plan import Indices, Plan
from ray_st.data.samplers import FollowsEpochs, PlannedBatchSampler, known_steps, order_rng, plan_of

if TYPE_CHECKING:
    from torch import Generator
    from torch.utils.data import ConcatDataset


@dataclass(frozen=True)
class Concatenated:
    """Concatenated datasets: row ``i`` of dataset ``d`` is row ``starts[d] + i`` overall.

    Args:
        datasets: The datasets, or their keys.
    """

    datasets: Sequence[Any]

    @property
    def cumulative_sizes(self) -> list[int]:
        """The end of each dataset, as in :class:`torch.utils.data.ConcatDataset`."""
        return np.cumsum([len(dataset) for dataset in self.datasets]).tolist()

    @property
    def starts(self) -> Indices:
        """(datasets,) the start of each dataset."""
        return np.array([0, *self.cumulative_sizes[:-1]], dtype=np.int64)

    def __len__(self) -> int:
        return self.cumulative_sizes[-1] if self.datasets else 0


class MultiDatasetDefaultBatchSampler(PlannedBatchSampler):
    """Base of samplers that take each batch from one of several datasets; a subclass yields the batches.

    Its ``__iter__`` yields lists of row indices over all datasets; those of dataset ``d`` start at
    ``dataset.cumulative_sizes[d - 1]``. A mixture has no batch size of its own: each dataset has its own.

    Args:
        dataset: The datasets: :class:`Concatenated` or a :class:`torch.utils.data.ConcatDataset`.
        batch_samplers: A batch sampler for each dataset.
        generator: A :class:`torch.Generator` whose initial seed is used instead of ``seed``.
        seed: Seed of the order of datasets.

    Raises:
        ValueError: If there is not exactly one sampler for each dataset.
    """

    def __init__(
        self,
        dataset: Concatenated | ConcatDataset[Any],
        batch_samplers: Sequence[Any],
        generator: Generator | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(1, False, generator, seed)
        if len(dataset.datasets) != len(batch_samplers):
            raise ValueError(
                f"Each dataset needs a batch sampler; got {len(dataset.datasets)} datasets and "
                f"{len(batch_samplers)} samplers."
            )
        self.batch_samplers = list(batch_samplers)
        self._starts = np.array([0, *dataset.cumulative_sizes[:-1]], dtype=np.int64)
        # Kept only for subclasses with their own ``__iter__``: it holds a key for every row and is sent along
        # with this sampler.
        self.dataset = dataset if self.has_own_batches else None

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose batches are drawn next, for all datasets."""
        super().set_epoch(epoch)
        for sampler in self.batch_samplers:
            if isinstance(sampler, FollowsEpochs):
                sampler.set_epoch(epoch)

    @abstractmethod
    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the epoch."""

    def _plan(self, rng: np.random.Generator) -> Plan:
        return Plan.of_batches(self)


class MixingBatchSampler(MultiDatasetDefaultBatchSampler):
    """Base of samplers that only decide which dataset each step takes its batch from."""

    __iter__ = PlannedBatchSampler.__iter__

    def steps(self) -> int | None:
        """Number of batches in every epoch, or None if an epoch must be planned to know it."""
        counts = [known_steps(sampler) for sampler in self.batch_samplers]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            return None
        return len(self.order(np.array(known, dtype=np.int64), order_rng(self.seed, 0)))

    @abstractmethod
    def order(self, counts: Indices, rng: np.random.Generator) -> Indices:
        """(steps,) the dataset of each step, given the number of batches of each dataset."""

    def _plan(self, rng: np.random.Generator) -> Plan:
        plans = [plan_of(sampler) for sampler in self.batch_samplers]
        order = self.order(np.array([len(plan) for plan in plans], dtype=np.int64), rng)
        moved = [plan.moved(start) for plan, start in zip(plans, self._starts, strict=True)]
        return interleave(moved, order)


def interleave(plans: Sequence[Plan], order: Indices) -> Plan:
    """Interleaves the batches of several plans in the given order of datasets; each plan keeps its order."""
    everything = Plan.joined(plans)
    first = np.cumsum([0, *(len(plan) for plan in plans)])[:-1]
    by_dataset = np.argsort(order, kind="stable")
    # For each step, how many earlier steps take a batch of the same dataset.
    nth = np.empty(len(order), dtype=np.int64)
    sorted_order = order[by_dataset]
    nth[by_dataset] = np.arange(len(order)) - np.searchsorted(sorted_order, sorted_order)
    return everything.reorder(first[order] + nth)


class RoundRobinBatchSampler(MixingBatchSampler):
    """Takes a batch from each dataset in turn, until one is exhausted.

    The remaining rows of larger datasets are not used.
    """

    def order(self, counts: Indices, rng: np.random.Generator) -> Indices:
        """(steps,) 0, 1, 2, …, 0, 1, 2, …, repeated as often as the smallest dataset has batches."""
        return np.tile(np.arange(len(counts)), int(counts.min()) if len(counts) else 0)


class ProportionalBatchSampler(MixingBatchSampler):
    """Takes batches from datasets in proportion to their size, in random order, until all are exhausted."""

    def order(self, counts: Indices, rng: np.random.Generator) -> Indices:
        """(steps,) each dataset once for each of its batches, shuffled."""
        datasets = np.repeat(np.arange(len(counts)), counts)
        return datasets[rng.permutation(len(datasets))]


class WeightedBatchSampler(MixingBatchSampler):
    """Takes batches from datasets in the ratio of given weights, evenly spread, until one is exhausted.

    Args:
        dataset: The datasets.
        batch_samplers: A batch sampler for each dataset.
        weights: A positive weight for each dataset; equal weights give round robin.
        generator: A :class:`torch.Generator` whose initial seed is used instead of ``seed``.
        seed: Seed of the order.

    Raises:
        ValueError: If a weight is not positive, or there is not exactly one for each dataset.
    """

    def __init__(
        self,
        dataset: Concatenated | ConcatDataset[Any],
        batch_samplers: Sequence[Any],
        weights: Sequence[float],
        generator: Generator | None = None,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dataset, batch_samplers, generator, seed)
        if len(weights) != len(batch_samplers) or not all(weight > 0 for weight in weights):
            raise ValueError(f"weights must be one positive number for each dataset; got {list(weights)}.")
        self._weights = np.asarray(weights, dtype=np.float64)

    def order(self, counts: Indices, rng: np.random.Generator) -> Indices:
        """(steps,) batch ``i`` of a dataset of weight w is due at time ``(i + 1) / w``."""
        end = float((counts / self._weights).min()) if len(counts) else 0.0
        # 1e-9: a batch that is due exactly at the end counts, whatever the division rounds to.
        taken = np.minimum(np.floor(end * self._weights + 1e-9).astype(np.int64), counts)
        dataset = np.repeat(np.arange(len(counts)), taken)
        nth = np.concatenate([np.arange(1, count + 1) for count in taken]) if len(taken) else np.zeros(0)
        return dataset[np.argsort(nth / self._weights[dataset], kind="stable")]
