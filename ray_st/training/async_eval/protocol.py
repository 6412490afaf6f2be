"""Evaluation in another process during training: requests, results, and how the metrics are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from torch import nn

from ray_st.data.batch_source import BatchSource
from ray_st.data.encoded_dataset import EncodedDataset
from ray_st.data.plan import Indices, Piece, Plan
from ray_st.training.callbacks.evaluator_files import EvaluatorFiles
from ray_st.training.checkpoint.store import PREFIX, CheckpointStore
from ray_st.training.loop.row_weights import is_sum
from ray_st.world import World

if TYPE_CHECKING:
    from ray_st.training.loop.hf_loop import HfLoop

SNAPSHOTS = "evaluating"
"""Folder, in the run's folder, of weights that are kept only until they are evaluated."""


@dataclass(frozen=True)
class EvalRequest:
    """Requests the metrics of a step.

    Args:
        step: The step, which names the folder ``checkpoint-STEP`` with the weights.
        epoch: The step's epoch, in passes over the data.
        store: Where that folder is.
    """

    step: int
    epoch: float | None
    store: CheckpointStore


@dataclass(frozen=True)
class EvalResult:
    """The metrics of a step.

    Args:
        step: The step.
        epoch: The step's epoch.
        entries: What an evaluation by the workers would have logged, an entry for each evaluation dataset.
        scores: The metrics in the model's card, or None without a card.
        error: Why there are no metrics, or "".
    """

    step: int
    epoch: float | None
    entries: tuple[Mapping[str, float], ...] = ()
    scores: Any = None
    error: str = ""


class EvalQueue(Protocol):
    """Receives requests from a run's first rank and keeps the results.

    It outlives the workers and their restarts.
    """

    def known(self) -> Sequence[int]:
        """The steps that were requested."""

    def request(self, request: EvalRequest) -> None:
        """Requests a step's evaluation, after earlier requests; a known step is not evaluated again."""

    def results(self, steps: Sequence[int], wait_s: float) -> list[EvalResult]:
        """The available results for some steps, by step.

        Args:
            steps: The steps.
            wait_s: How long to wait for the first result if there is none.
        """

    def forget(self, after: int) -> None:
        """Drops requests and results of later steps, which a restarted run reaches again."""


class SlicedBatchSource:
    """A batch source's global batches as several ranks see them: split into the ranks' shares, one by one.

    Args:
        source: A source of global batches.
        ranks: Number of ranks.
    """

    def __init__(self, source: BatchSource, ranks: int) -> None:
        self._source, self._ranks = source, ranks
        self.names = source.names

    @property
    def windows(self) -> Sequence[EncodedDataset]:
        """The rows of each dataset."""
        return self._source.windows

    @property
    def rows(self) -> int:
        """Number of rows of all datasets."""
        return self._source.rows

    @cached_property
    def steps(self) -> int:
        """Number of shares that have rows, of every epoch."""
        return len(self.piece(0, 0).plan)

    def piece(self, epoch: int, step: int) -> Piece:
        """The shares of an epoch's global batches, which evaluation plans as one piece."""
        plan = self._source.piece(epoch, 0).plan
        shares = [share for size in plan.sizes() for share in World(size=self._ranks).shares(int(size))]
        return Piece(Plan.of_sizes(plan.rows, np.array([share for share in shares if share], dtype=np.int64)))

    def ahead(self, source: int, rows: Indices) -> None:
        """Announces that rows of a dataset will be needed soon."""
        self._source.ahead(source, rows)


def stand_in(trainer: HfLoop, ranks: int) -> None:
    """Prepares a trainer that is alone in its process to compute the metrics of a run's ranks.

    Ranks compute losses on their shares of a batch, which matters to a loss that compares the rows of a
    batch. Only a loss that gathers the ranks' rows, or sums over them, sees whole batches.

    Args:
        trainer: The trainer. Its callbacks are removed, since the run's own callbacks report the metrics.
        ranks: Number of ranks of the run.
    """
    losses = trainer.loss
    trainer.context = replace(
        trainer.worker,
        evals={
            name: source
            if sees_whole_batches(losses[name] if isinstance(losses, Mapping) else losses)
            else SlicedBatchSource(source, ranks)
            for name, source in trainer.worker.evals.items()
        },
    )
    trainer.callback_handler.callbacks = []
    EvaluatorFiles(trainer.worker.store, World()).on_open(trainer.state)
    trainer.is_in_train = True  # metrics are called as those of the workers
    trainer.take_training_types()


def sees_whole_batches(loss: nn.Module) -> bool:
    """Whether a loss on several ranks depends on the whole batch and not only on each rank's share."""
    return is_sum(loss) or any(getattr(part, "gather_across_devices", False) for part in loss.modules())


def evaluate_request(trainer: HfLoop, request: EvalRequest) -> EvalResult:
    """Computes the metrics of a step.

    Args:
        trainer: After :func:`stand_in`; its weights become those of the step.
        request: The step.

    Raises:
        CheckpointError: If the step's folder is incomplete or damaged.
    """
    name = f"{PREFIX}{request.step}"
    trainer.load_checkpoint(str(request.store.fetch(name)))
    request.store.drop(name)
    state: Any = trainer.state  # transformers annotates `epoch` as a number
    state.global_step, state.epoch, state.log_history = request.step, request.epoch, []
    trainer.evaluate()
    EvaluatorFiles(trainer.worker.store, World()).bring()
    entries = [
        {name: value for name, value in entry.items() if name != "step"} for entry in state.log_history
    ]
    card = trainer.family.card(trainer.model)
    return EvalResult(request.step, request.epoch, tuple(entries), None if card is None else card.scores)
