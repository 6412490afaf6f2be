"""Arguments of a training run: transformers' own, and those of embedding models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.utils import ExplicitEnum

from ray_st.util.choices import COLLISIONS

_PROCESS_STATE = ("distributed_state", "_setup_devices", "_n_gpu")


class BatchSamplers(ExplicitEnum):
    """How rows are grouped into batches.

    - ``BATCH_SAMPLER``: in random order, as they come (default).
    - ``NO_DUPLICATES``: no text twice in a batch; for losses that use the other rows as negatives.
    - ``GROUP_BY_LABEL``: at least two rows of each label of a batch; for losses that look for positives in it.
    """

    BATCH_SAMPLER = "batch_sampler"
    NO_DUPLICATES = "no_duplicates"
    GROUP_BY_LABEL = "group_by_label"


class MultiDatasetBatchSamplers(ExplicitEnum):
    """From which dataset each batch is taken.

    - ``PROPORTIONAL``: from each in proportion to its size, until all are used up (default).
    - ``ROUND_ROBIN``: from each in turn, until one is used up.
    """

    ROUND_ROBIN = "round_robin"
    PROPORTIONAL = "proportional"


class BadRows(ExplicitEnum):
    """What to do with rows that cannot be used (no text, no number where a label should be).

    - ``ERROR``: refuse the run, naming the first of them (default).
    - ``SKIP``: leave them out, count them, and list them in a file of the run's folder.
    """

    ERROR = "error"
    SKIP = "skip"


@dataclass
class SentenceTransformerTrainingArguments(TrainingArguments):
    """transformers' :class:`~transformers.TrainingArguments` and what embedding models need besides.

    Args:
        prompts: Prompt put before texts: one for everything; one for each column name; one for each dataset name; or,
            for each dataset name, one for each column name.
        batch_sampler: How rows are grouped into batches: a :class:`BatchSamplers` or its name, or a class or function
            called as ``batch_sampler(dataset, batch_size=, drop_last=, valid_label_columns=, generator=, seed=)``.
        multi_dataset_batch_sampler: From which dataset each batch is taken: a :class:`MultiDatasetBatchSamplers` or its
            name, or a class or function called as ``sampler(dataset, batch_samplers, generator=, seed=)``.
        warmup_ratio: Share of all steps over which the learning rate rises; in current transformers a fraction given
            as ``warmup_steps``, which this becomes.
        group_by_length: Whether batches hold rows of similar length; in current transformers
            ``train_sampling_strategy="group_by_length"``, which this becomes.
        global_train_batch_size: Rows of a training batch over all workers; by default ``per_device_train_batch_size``
            times the number of workers. With it, batches do not depend on the number of workers.
        dataset_batch_sizes: The same for datasets of their own, by name.
        dataset_weights: For each dataset name, how often its batches come, relative to the others; an epoch ends when
            one dataset is used up. Goes before ``multi_dataset_batch_sampler``.
        bad_rows: What to do with unusable rows; see :class:`BadRows`.
        collisions: What becomes, without duplicates in batches, of rows that share a text with too many others to fit
            full batches: ``"keep"`` them in smaller batches at the end of the epoch (default), ``"mask"`` repeats among
            the negatives of full batches, or ``"drop"`` them.
        window_bytes: Most bytes of a dataset's encoded rows that are shuffled at once; larger data is shuffled window
            by window. By default a quarter of the smallest node's object store.
        ledger: Whether to write into the run's folder which rows each step used.
    """

    prompts: Any = field(default=None, metadata={"help": "Prompt for everything, by column, or by dataset."})
    batch_sampler: Any = field(
        default=BatchSamplers.BATCH_SAMPLER, metadata={"help": "How rows are grouped into batches."}
    )
    multi_dataset_batch_sampler: Any = field(
        default=MultiDatasetBatchSamplers.PROPORTIONAL,
        metadata={"help": "From which dataset each batch is taken."},
    )
    warmup_ratio: float = field(default=0.0, metadata={"help": "Share of steps with rising learning rate."})
    group_by_length: bool = field(default=False, metadata={"help": "Batches of rows of similar length."})
    global_train_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of a training batch over all workers."}
    )
    dataset_batch_sizes: dict[str, int] | None = field(
        default=None, metadata={"help": "Global batch sizes of single datasets, by name."}
    )
    dataset_weights: dict[str, float] | None = field(
        default=None, metadata={"help": "How often each dataset's batches come, by name."}
    )
    bad_rows: Any = field(default=BadRows.ERROR, metadata={"help": "What to do with unusable rows."})
    collisions: str = field(
        default="keep", metadata={"help": "What becomes of rows whose texts are too common."}
    )
    window_bytes: int | None = field(default=None, metadata={"help": "Most bytes that are shuffled at once."})
    ledger: bool = field(default=False, metadata={"help": "Write down which rows each step used."})

    def __post_init__(self) -> None:
        """Completes and checks the arguments."""
        self.batch_sampler = _named_or_callable(BatchSamplers, self.batch_sampler)
        self.multi_dataset_batch_sampler = _named_or_callable(
            MultiDatasetBatchSamplers, self.multi_dataset_batch_sampler
        )
        self.bad_rows = BadRows(self.bad_rows)
        if self.collisions not in COLLISIONS:
            raise ValueError(f"collisions must be one of {list(COLLISIONS)}; got {self.collisions!r}.")
        if not 0.0 <= self.warmup_ratio <= 1.0:
            raise ValueError(f"warmup_ratio must lie in [0, 1]; got {self.warmup_ratio}.")
        if self.warmup_ratio and not self.warmup_steps:
            self.warmup_steps = self.warmup_ratio
        if self.group_by_length:
            self.train_sampling_strategy = "group_by_length"
        sizes = {"global_train_batch_size": self.global_train_batch_size, **(self.dataset_batch_sizes or {})}
        for name, size in {**sizes, "window_bytes": self.window_bytes}.items():
            if size is not None and (not isinstance(size, int) or size < 1):
                raise ValueError(f"{name} must be a positive integer; got {size!r}.")
        super().__post_init__()

    @property
    def groups_by_length(self) -> bool:
        """Whether batches hold rows of similar length."""
        return str(getattr(self, "train_sampling_strategy", "")) == "group_by_length"

    def global_batch_sizes(self, world_size: int, datasets: Sequence[str]) -> dict[str, int]:
        """Rows of a global batch of each training dataset.

        Args:
            world_size: Number of workers.
            datasets: Names of the datasets; a single one has the name "".

        Raises:
            ValueError: If sizes or weights are given for datasets that are not there, or weights not for all.
        """
        for option in ("dataset_batch_sizes", "dataset_weights"):
            unknown = set(getattr(self, option) or {}) - set(datasets)
            if unknown:
                raise ValueError(
                    f"{option} names {sorted(unknown)}; the training datasets are {list(datasets)}."
                )
        if self.dataset_weights and set(self.dataset_weights) != set(datasets):
            raise ValueError(
                f"dataset_weights needs a weight for each of {list(datasets)}; got {self.dataset_weights}."
            )
        size = self.global_train_batch_size or self.per_device_train_batch_size * world_size
        return {name: (self.dataset_batch_sizes or {}).get(name, size) for name in datasets}

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


def _named_or_callable(kind: type[ExplicitEnum], value: Any) -> Any:
    return value if callable(value) and not isinstance(value, (str, kind)) else kind(value)
