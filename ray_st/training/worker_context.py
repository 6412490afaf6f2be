"""The context of a worker's loop: its rank, its batches, its checkpoint store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ray_st.data.batch_source import BatchSource
from ray_st.training.async_eval.protocol import EvalQueue
from ray_st.training.callbacks.progress_report import OpenBar
from ray_st.training.checkpoint.sample_log import SampleLog
from ray_st.training.checkpoint.store import CheckpointStore, SavedCheckpoint
from ray_st.world import World

Report = Callable[[dict[str, Any], SavedCheckpoint], None]


def no_report(metrics: dict[str, Any], checkpoint: SavedCheckpoint) -> None:
    """Ignores a checkpoint; the default for ``report``."""


@dataclass
class WorkerContext:
    """The context of one worker's loop.

    Args:
        world: This worker's rank and the number of ranks.
        store: Where checkpoints are written and found.
        train: Batches to train on.
        evals: Batches of each evaluation dataset; a single dataset has the name "".
        prompt_lengths: For each dataset, the number of prompt tokens of each text column.
        facts: What a checkpoint records besides its step: everything the sample order depends on.
        sample_log: Records which rows each step used, or None.
        eval_queue: Receives requests for evaluation in another process; None if the workers evaluate.
        report: Called on every rank after each checkpoint with the newest metrics.
        open_bar: Opens a progress bar of so many steps on the user's terminal; None for plain lines.
        texts_at_once: For each training dataset, how many texts of a batch a loss embeds at a time where the
            run has fewer workers than it may have; empty for no limit.
    """

    world: World
    store: CheckpointStore
    train: BatchSource | None = None
    evals: Mapping[str, BatchSource] = field(default_factory=dict)
    prompt_lengths: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    report: Report = no_report
    open_bar: OpenBar | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    sample_log: SampleLog | None = None
    eval_queue: EvalQueue | None = None
    texts_at_once: Mapping[str, int] = field(default_factory=dict)
