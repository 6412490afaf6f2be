"""Batch samplers: index samplers over keys, run on the batch of the whole cluster.

A sampler sees the rows of a source and the *global* batch size and yields lists of row indices. It knows
nothing about workers: its batches are split by rank afterwards, so they are the same on any number of
workers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ray_st.data.keys import Keys, Table, keys_of
from ray_st.data.packing import find_repeats, pack_without_repeats
from ray_st.data.plan import Plan
from ray_st.util.value_checks import check_collisions, is_whole

if TYPE_CHECKING:
    from torch import Generator


@runtime_checkable
class FollowsEpochs(Protocol):
    """A sampler whose order depends on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose batches are drawn next."""


def order_rng(seed: int, epoch: int) -> np.random.Generator:
    """The random generator for an epoch's order.

    A negative seed is interpreted as its 64-bit two's complement, as in torch.
    """
    return np.random.default_rng([seed % 2**64, epoch])


class PlannedBatchSampler(ABC):
    """Base of samplers that plan a whole epoch as arrays.

    The order is a pure function of (seed, epoch): :meth:`set_epoch` selects another epoch; nothing else
    changes it.

    A subclass with its own ``__iter__``, which yields lists of row indices, is a batch sampler too: its
    epochs are planned from what it yields.

    Args:
        batch_size: Rows in a global batch.
        drop_last: Whether to drop incomplete batches.
        generator: A :class:`torch.Generator` whose initial seed is used instead of ``seed``. For a subclass
            whose ``__iter__`` draws from it, it is seeded with the seed plus the epoch.
        seed: Seed of the order.

    Raises:
        ValueError: If ``batch_size`` is not a positive integer.
    """

    def __init__(
        self, batch_size: int, drop_last: bool, generator: Generator | None = None, seed: int | None = 0
    ) -> None:
        if not is_whole(batch_size, least=1, numpy=True):
            raise ValueError(f"batch_size must be a positive integer; got {batch_size!r}.")
        self.batch_size = int(batch_size)
        self.drop_last = drop_last
        self.generator = generator
        self.seed = int(generator.initial_seed()) if generator is not None else int(seed or 0)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose batches are drawn next."""
        self.epoch = epoch
        if self.generator is not None and self.has_own_batches:
            self.generator.manual_seed(self.seed + epoch)

    @property
    def has_own_batches(self) -> bool:
        """Whether a subclass yields the batches from its own ``__iter__``."""
        return type(self).__iter__ is not PlannedBatchSampler.__iter__

    def plan(self) -> Plan:
        """The batches of the epoch as arrays."""
        return Plan.of_batches(self) if self.has_own_batches else self._full_plan()

    def _full_plan(self) -> Plan:
        plan = self._plan(order_rng(self.seed, self.epoch))
        if not self.drop_last:
            return plan
        full = plan.sizes() == self.batch_size
        return Plan.of_sizes(plan.rows[np.repeat(full, plan.sizes())], plan.sizes()[full])

    def steps(self) -> int | None:
        """Number of batches in every epoch, or None if an epoch must be planned to know it."""
        return None

    def _steps_of(self, rows: int) -> int:
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    @abstractmethod
    def _plan(self, rng: np.random.Generator) -> Plan:
        """All batches, including incomplete ones."""

    def __iter__(self) -> Iterator[list[int]]:
        plan = self._full_plan()
        for step in range(len(plan)):
            yield plan.batch(step).tolist()

    def __len__(self) -> int:
        steps = known_steps(self)
        return len(self.plan()) if steps is None else steps


def known_steps(sampler: object) -> int | None:
    """Number of batches in every epoch of a batch sampler; None if an epoch must be planned to know it."""
    if isinstance(sampler, PlannedBatchSampler) and not sampler.has_own_batches:
        return sampler.steps()
    return None


def plan_of(sampler: Iterable[list[int]]) -> Plan:
    """The batches of the current epoch of any batch sampler."""
    return sampler.plan() if isinstance(sampler, PlannedBatchSampler) else Plan.of_batches(sampler)


class RandomOrder:
    """The rows of a dataset in an order drawn from (seed, epoch).

    Args:
        rows: Number of rows.
        seed: Seed of the order.
        shuffle: Whether to shuffle at all.
    """

    def __init__(self, rows: int, seed: int = 0, shuffle: bool = True) -> None:
        self.rows, self.seed, self.shuffle, self.epoch = rows, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose order is drawn next."""
        self.epoch = epoch

    def order(self) -> np.ndarray:
        """(rows,) the order of the current epoch."""
        if not self.shuffle:
            return np.arange(self.rows)
        return order_rng(self.seed, self.epoch).permutation(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.order().tolist())

    def __len__(self) -> int:
        return self.rows


class DefaultBatchSampler(PlannedBatchSampler):
    """Consecutive rows of an order, ``batch_size`` at a time; also the base class of custom samplers.

    A subclass given as ``args.batch_sampler`` is constructed with the dataset in place of the order, and
    yields lists of row indices from its own ``__iter__``.

    Args:
        sampler: Row indices in the wanted order, for example :class:`RandomOrder`; for a subclass, the
            dataset.
        batch_size: Rows in a global batch.
        drop_last: Whether to drop an incomplete last batch.
        valid_label_columns: Names that denote a label; for subclasses.
        generator: See :class:`PlannedBatchSampler`; for subclasses.
        seed: Seed of the order; for subclasses.
        dataset: Alias of ``sampler``.
    """

    def __init__(
        self,
        sampler: Iterable[int] | Keys | Table | None = None,
        batch_size: int = 0,
        drop_last: bool = False,
        valid_label_columns: Sequence[str] | None = None,
        generator: Generator | None = None,
        seed: int | None = 0,
        *,
        dataset: Keys | Table | None = None,
    ) -> None:
        super().__init__(batch_size, drop_last, generator, seed)
        self.valid_label_columns = valid_label_columns
        given = dataset if sampler is None else sampler
        # An iterator would be exhausted after one epoch.
        self.sampler: Any = list(given) if isinstance(given, Iterator) else given

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch whose batches come next, also in an underlying sampler that follows epochs."""
        super().set_epoch(epoch)
        if isinstance(self.sampler, FollowsEpochs):
            self.sampler.set_epoch(epoch)

    def steps(self) -> int | None:
        """Number of batches in every epoch; None if the underlying sampler has no length."""
        return self._steps_of(len(self.sampler)) if isinstance(self.sampler, Sized) else None

    def _plan(self, rng: np.random.Generator) -> Plan:
        if isinstance(self.sampler, RandomOrder):
            order = self.sampler.order()
        else:
            order = np.fromiter(self.sampler, dtype=np.int64)
        return Plan.consecutive(order, self.batch_size)


class NoDuplicatesBatchSampler(PlannedBatchSampler):
    """Batches in which no text occurs twice, across all text columns; labels and dataset names do not count.

    For losses that use the other rows of a batch as negatives: a duplicate of a positive would be a false
    negative. Rows that share a text with very many others do not all fit into full batches; ``collisions``
    decides what happens to those left over.

    Args:
        dataset: The rows: :class:`ray_st.data.keys.Keys` or a :class:`datasets.Dataset`.
        batch_size: Rows in a global batch.
        drop_last: Whether to drop incomplete batches.
        valid_label_columns: Names that denote a label.
        generator: A :class:`torch.Generator` whose initial seed is used instead of ``seed``.
        seed: Seed of the order.
        collisions: ``"keep"``: leftover rows stay in smaller batches at the end of the epoch, so every row is
            in exactly one batch; ``"mask"``: they fill full batches, in which texts do repeat, for a loss
            that excludes repeats from its negatives; ``"drop"``: they are skipped for the epoch, except for
            one incomplete batch.
        precompute_hashes: Has no effect: texts are always compared by hashes that are computed once.
        precompute_num_proc: Has no effect.
        precompute_batch_size: Has no effect.

    Raises:
        ValueError: If ``batch_size`` or ``collisions`` is invalid.
    """

    def __init__(
        self,
        dataset: Keys | Table,
        batch_size: int,
        drop_last: bool = False,
        valid_label_columns: Sequence[str] | None = None,
        generator: Generator | None = None,
        seed: int | None = 0,
        collisions: str = "keep",
        precompute_hashes: bool = True,
        precompute_num_proc: int | None = None,
        precompute_batch_size: int = 1000,
    ) -> None:
        super().__init__(batch_size, drop_last, generator, seed)
        check_collisions(collisions)
        self.collisions = collisions
        self._repeats = find_repeats(keys_of(dataset, valid_label_columns).hashes)

    def steps(self) -> int | None:
        """Number of batches in every epoch, or None if it varies slightly, as it does if texts repeat."""
        varies = len(self._repeats.rows) and self.collisions != "mask"
        return None if varies else self._steps_of(len(self._repeats.rows) + len(self._repeats.free))

    def crowded(self) -> int:
        """Number of rows left over in the first epoch because too many others share a text with them."""
        if not len(self._repeats.rows):
            return 0
        plan = pack_without_repeats(self._repeats, self.batch_size, order_rng(self.seed, 0))
        return len(plan.rows) - self._settled(plan)

    def _plan(self, rng: np.random.Generator) -> Plan:
        plan = pack_without_repeats(self._repeats, self.batch_size, rng)
        if self.collisions == "keep":
            return plan
        settled = self._settled(plan)
        if self.collisions == "drop":
            return Plan.of_sizes(plan.rows[:settled], plan.sizes()[: np.searchsorted(plan.starts, settled)])
        full = int((plan.sizes() == self.batch_size).sum()) * self.batch_size
        left = plan.rows[full:]
        rest = Plan.consecutive(left[rng.permutation(len(left))], self.batch_size)
        return Plan.joined([Plan.consecutive(plan.rows[:full], self.batch_size), rest])

    def _settled(self, plan: Plan) -> int:
        """Rows in full batches, which come first, and in one incomplete batch, which is always allowed."""
        full = int((plan.sizes() == self.batch_size).sum())
        return int(plan.starts[min(full + 1, len(plan))])
