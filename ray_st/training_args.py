"""Arguments of a training run: transformers' own, and those of embedding models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import ExplicitEnum

_PROCESS_STATE = ("distributed_state", "_setup_devices", "_n_gpu")


class BatchSamplers(ExplicitEnum):
    """How rows are grouped into batches.

    - ``BATCH_SAMPLER``: in random order, as they come (default).
    - ``NO_DUPLICATES``: no text twice in a batch; for losses that use the other rows as negatives.
    """

    BATCH_SAMPLER = "batch_sampler"
    NO_DUPLICATES = "no_duplicates"


class MultiDatasetBatchSamplers(ExplicitEnum):
    """From which dataset each batch is taken.

    - ``PROPORTIONAL``: from each in proportion to its size, until all are used up (default).
    - ``ROUND_ROBIN``: from each in turn, until one is used up.
    """

    ROUND_ROBIN = "round_robin"
    PROPORTIONAL = "proportional"


@dataclass
class SentenceTransformerTrainingArguments(TrainingArguments):
    """transformers' :class:`~transformers.TrainingArguments` and what embedding models need besides.

    Args:
        prompts: Prompt put before texts: one for all columns, or one for each column name.
        batch_sampler: How rows are grouped into batches; see :class:`BatchSamplers`.
        multi_dataset_batch_sampler: From which dataset each batch is taken.
        warmup_ratio: Share of all steps over which the learning rate rises; in current transformers a fraction given
            as ``warmup_steps``, which this becomes.
    """

    prompts: Any = field(
        default=None, metadata={"help": "Prompt for all columns, or one for each column name."}
    )
    batch_sampler: Any = field(
        default=BatchSamplers.BATCH_SAMPLER, metadata={"help": "How rows are grouped into batches."}
    )
    multi_dataset_batch_sampler: Any = field(
        default=MultiDatasetBatchSamplers.PROPORTIONAL,
        metadata={"help": "From which dataset each batch is taken."},
    )
    warmup_ratio: float = field(default=0.0, metadata={"help": "Share of steps with rising learning rate."})

    def __post_init__(self) -> None:
        """Completes and checks the arguments."""
        self.batch_sampler = BatchSamplers(self.batch_sampler)
        self.multi_dataset_batch_sampler = MultiDatasetBatchSamplers(self.multi_dataset_batch_sampler)
        if not 0.0 <= self.warmup_ratio <= 1.0:
            raise ValueError(f"warmup_ratio must lie in [0, 1]; got {self.warmup_ratio}.")
        if self.warmup_ratio and not self.warmup_steps:
            self.warmup_steps = self.warmup_ratio
        super().__post_init__()

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process: devices are found anew where the arguments arrive."""
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in _PROCESS_STATE and not key.startswith("__cached_")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes the values; the device of this process is found when it is first asked for."""
        self.__dict__.update(state)
        self.distributed_state = None

    def settle(self, output_dir: str) -> None:
        """Makes the arguments those of the worker that they arrived at.

        Args:
            output_dir: The worker's folder.
        """
        self.output_dir = output_dir
        # accelerate joins a process group of CPU workers only if it is told that they have no accelerator.
        self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        self._setup_devices  # noqa: B018  a cached property that finds the device
