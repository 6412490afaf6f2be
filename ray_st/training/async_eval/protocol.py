"""Evaluation beside training: what is asked of another process, what it answers, and how it finds the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from torch import nn

from ray_st.data.batch_source import BatchSource
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Indices, Plan
from ray_st.training.checkpoint.store import PREFIX, CheckpointStore
from ray_st.world import World

SNAPSHOTS = "evaluating"
"""Folder, in the run's folder, of weights that are kept only until they are evaluated."""


@dataclass(frozen=True)
class EvalRequest:
    """Asks for the figures of a step.

    Args:
        step: The step, which names the folder ``checkpoint-STEP`` with the weights.
        epoch: When that was, in passes over the data.
        store: Where that folder is.
    """

    step: int
    epoch: float | None
    store: CheckpointStore


@dataclass(frozen=True)
class EvalResult:
    """The figures of a step.

    Args:
        step: The step.
        epoch: When that was.
        entries: What an evaluation by the workers would have logged, an entry for each evaluation dataset.
        scores: The figures in the model's card, or None without a card.
        error: Why there are no figures, or "".
    """

    step: int
    epoch: float | None
    entries: tuple[Mapping[str, float], ...] = ()
    scores: Any = None
    error: str = ""


class EvalQueue(Protocol):
    """Takes orders from the first rank of a run and keeps the answers. It outlives the workers and their restarts."""

    def known(self) -> Sequence[int]:
        """The steps that were ordered."""

    def order(self, order: EvalRequest) -> None:
        """Has a step evaluated, after those that were ordered before; a step that is known already is not again."""

    def answers(self, steps: Sequence[int], wait_s: float) -> list[EvalResult]:
        """The answers for some steps that are there, in order of their steps.

        Args:
            steps: The steps.
            wait_s: How long to wait for the first answer if there is none.
        """

    def forget(self, after: int) -> None:
        """Drops orders and answers of later steps: a run that was restarted comes to them again."""


class SlicedBatchSource:
    """The batches of a feed as several ranks see them: each global batch becomes its ranks' shares, one by one.

    Args:
        feed: A feed of global batches.
        ranks: Number of ranks.
    """

    def __init__(self, feed: BatchSource, ranks: int) -> None:
        self._feed, self._ranks = feed, ranks
        self.names = feed.names

    @property
    def windows(self) -> Sequence[EncodedDataset]:
        """The rows of each dataset."""
        return self._feed.windows

    @property
    def rows(self) -> int:
        """Number of rows of all datasets."""
        return self._feed.rows

    @cached_property
    def steps(self) -> int:
        """Number of shares that have rows, of every epoch."""
        return len(self.plan(0))

    def plan(self, epoch: int) -> Plan:
        """The shares of an epoch's global batches."""
        plan = self._feed.plan(epoch)
        shares = [share for size in plan.sizes() for share in World(size=self._ranks).shares(int(size))]
        return Plan.of_sizes(plan.rows, np.array([share for share in shares if share], dtype=np.int64))

    def ahead(self, source: int, rows: Indices) -> None:
        """Says that rows of a dataset will be wanted soon."""
        self._feed.ahead(source, rows)


def stand_in(trainer: Any, ranks: int) -> None:
    """Prepares a trainer that is alone in its process to find the figures of a run's ranks.

    Ranks compute losses on their shares of a batch, which matters to a loss that compares the rows of a
    batch. Only a loss that gathers the ranks' rows, or sums over them, sees whole batches.

    Args:
        trainer: The trainer. Its callbacks are taken away: those of the run will see the figures.
        ranks: Number of ranks of the run.
    """
    losses = trainer.loss
    trainer.context = replace(
        trainer.worker,
        evals={
            name: feed if sees_whole_batches(_of_dataset(losses, name)) else SlicedBatchSource(feed, ranks)
            for name, feed in trainer.worker.evals.items()
        },
    )
    trainer.callback_handler.callbacks = []
    trainer.is_in_train = True  # metrics are called as those of the workers
    trainer.accelerator.prepare_model(trainer.model, evaluation_mode=True)  # mixed precision as in training


def sees_whole_batches(loss: nn.Module) -> bool:
    """Whether a loss on several ranks depends on the whole batch and not only on each rank's share."""
    return any(
        getattr(part, "gather_across_devices", False) or getattr(part, "sums", False)
        for part in loss.modules()
    )


def _of_dataset(losses: Any, name: str) -> nn.Module:
    found: nn.Module = losses[name] if isinstance(losses, Mapping) else losses
    return found


def answer(trainer: Any, order: EvalRequest) -> EvalResult:
    """Finds the figures of a step.

    Args:
        trainer: After :func:`stand_in`; its weights become those of the step.
        order: The step.

    Raises:
        CheckpointError: If the step's folder is incomplete or damaged.
    """
    found = order.store.check(f"{PREFIX}{order.step}")
    trainer.load_checkpoint(str(order.store.fetch(found.name)))
    trainer.state.global_step, trainer.state.epoch = order.step, order.epoch
    trainer.state.log_history = []
    trainer.evaluate()
    entries = [
        {name: value for name, value in entry.items() if name != "step"}
        for entry in trainer.state.log_history
    ]
    card = getattr(trainer.model, "model_card_data", None)
    return EvalResult(order.step, order.epoch, tuple(entries), getattr(card, "scores", None))
