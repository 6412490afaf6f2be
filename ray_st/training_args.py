"""Arguments of a training run: transformers' own, and those of embedding models."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_utils import SaveStrategy
from transformers.utils import ExplicitEnum

from ray_st.util.arguments.effects import default_of
from ray_st.util.arguments.grouped import GroupedArguments
from ray_st.util.arguments.typed import check_types
from ray_st.util.choices import COLLISIONS
from ray_st.util.secrets import placeholder

_LED_BY_FIGURES = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
_DEFAULT_IF_NONE = ("eval_delay", "ddp_timeout", "include_num_input_tokens_seen")  # documented as optional
_OUR_MAPPINGS = [
    "prompts",
    "dataset_batch_sizes",
    "dataset_weights",
    "eval_resources",
    "learning_rate_mapping",
    "router_mapping",
]


class BatchSamplers(ExplicitEnum):
    """How rows are grouped into batches.

    - ``BATCH_SAMPLER``: in random order, as they come (default).
    - ``NO_DUPLICATES``: no text twice in a batch; for losses that use the other rows as negatives.
    - ``NO_DUPLICATES_HASHED``: the same: texts are always compared by their hashes.
    - ``GROUP_BY_LABEL``: at least two rows of each label of a batch; for losses that look for positives in it.
    """

    BATCH_SAMPLER = "batch_sampler"
    NO_DUPLICATES = "no_duplicates"
    NO_DUPLICATES_HASHED = "no_duplicates_hashed"
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


class EvalOn(ExplicitEnum):
    """Who evaluates while training.

    - ``WORKERS``: the workers, which interrupt training for it (default).
    - ``BACKGROUND``: a process with resources of its own, from checkpoints, while training goes on; its figures arrive
      later, see docs/evaluation.md.
    """

    WORKERS = "workers"
    BACKGROUND = "background"


if TYPE_CHECKING:
    _Mapped: TypeAlias = Any
    _OneBatchSampler: TypeAlias = Any
    _ManyBatchSampler: TypeAlias = Any
else:  # what transformers' parser of command lines reads: a member of an enumeration, or JSON
    _Mapped = dict | str | None
    _OneBatchSampler = BatchSamplers | str | Callable
    _ManyBatchSampler = MultiDatasetBatchSamplers | str | Callable


@dataclass
class SentenceTransformerTrainingArguments(GroupedArguments):
    """transformers' :class:`~transformers.TrainingArguments` and what embedding models need besides.

    Arguments that transformers dropped since the documentation was written are accepted too; what becomes of each is in
    :mod:`ray_st.util.arguments.dropped` and in docs/compatibility.md.

    Args:
        prompts: Prompt put before texts: one for everything; one for each column name; one for each dataset name; or,
            for each dataset name, one for each column name.
        batch_sampler: How rows are grouped into batches: a :class:`BatchSamplers` or its name, or a class or function
            called as ``batch_sampler(dataset, batch_size=, drop_last=, valid_label_columns=, generator=, seed=)``.
        multi_dataset_batch_sampler: From which dataset each batch is taken: a :class:`MultiDatasetBatchSamplers` or its
            name, or a class or function called as ``sampler(dataset, batch_samplers, generator=, seed=)``.
        router_mapping: For a model with a :class:`ray_st.models.Router`: for each text column the task (or row of the
            Router) that it takes, such as ``{"question": "query", "answer": "document"}``; or that for each dataset
            name. A column that it leaves out takes the default row.
        learning_rate_mapping: For each regular expression, the learning rate of the weights in whose names it is found;
            of several, the last counts. The model's weights are named ``model.…``, as in its ``state_dict``; those that
            a loss owns as in the loss, after the dataset's name and a dot where each dataset has its own.
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
        resume_only_model: What ``train(resume_from_checkpoint=…)`` takes from there: the weights alone, with which a new
            run begins at step 0. Any model folder will do: one of ``save_only_model=True``, or of another program.
        eval_on: Who evaluates while training; see :class:`EvalOn`.
        eval_resources: What the process that evaluates in the background gets, such as ``{"CPU": 4}``; by default one
            GPU if the workers use GPUs, else one CPU.
    """

    # On a command line these are JSON.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, *_OUR_MAPPINGS]  # noqa: RUF012

    report_to: None | str | list[str] = field(  # noqa: RUF036  transformers reads the second of a union
        default=None,
        metadata={"help": "Where figures are reported; by default to all integrations installed."},
    )
    prompts: _Mapped = field(
        default=None, metadata={"help": "Prompt for everything, by column, or by dataset."}
    )
    batch_sampler: _OneBatchSampler = field(
        default=BatchSamplers.BATCH_SAMPLER, metadata={"help": "How rows are grouped into batches."}
    )
    multi_dataset_batch_sampler: _ManyBatchSampler = field(
        default=MultiDatasetBatchSamplers.PROPORTIONAL,
        metadata={"help": "From which dataset each batch is taken."},
    )
    learning_rate_mapping: _Mapped = field(
        default=None, metadata={"help": "Learning rates of single weights, by regular expression."}
    )
    router_mapping: _Mapped = field(
        default=None, metadata={"help": "Task of each text column, for a model with a Router."}
    )
    global_train_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of a training batch over all workers."}
    )
    dataset_batch_sizes: _Mapped = field(
        default=None, metadata={"help": "Global batch sizes of single datasets, by name."}
    )
    dataset_weights: _Mapped = field(
        default=None, metadata={"help": "How often each dataset's batches come, by name."}
    )
    bad_rows: BadRows | str = field(
        default=BadRows.ERROR, metadata={"help": "What to do with unusable rows."}
    )
    collisions: str = field(
        default="keep", metadata={"help": "What becomes of rows whose texts are too common."}
    )
    window_bytes: int | None = field(default=None, metadata={"help": "Most bytes that are shuffled at once."})
    ledger: bool = field(default=False, metadata={"help": "Write down which rows each step used."})
    resume_only_model: bool = field(
        default=False, metadata={"help": "Begin a new run with the weights of the checkpoint to resume from."}
    )
    eval_on: EvalOn | str = field(default=EvalOn.WORKERS, metadata={"help": "Who evaluates while training."})
    eval_resources: _Mapped = field(
        default=None, metadata={"help": "What the process that evaluates in the background gets."}
    )

    def __post_init__(self) -> None:
        """Completes and checks the arguments."""
        for name in _DEFAULT_IF_NONE:
            if getattr(self, name) is None:
                setattr(self, name, default_of(self, name))
        check_types(self, SentenceTransformerTrainingArguments)
        self.batch_sampler = _named_or_callable(BatchSamplers, self.batch_sampler)
        self.multi_dataset_batch_sampler = _named_or_callable(
            MultiDatasetBatchSamplers, self.multi_dataset_batch_sampler
        )
        self.bad_rows = BadRows(self.bad_rows)
        self.eval_on = EvalOn(self.eval_on)
        for name in ("hub_token", "push_to_hub_token"):  # written arguments that are read again
            if getattr(self, name) == placeholder(name):
                setattr(self, name, None)
        self.report_to = "all" if self.report_to is None else self.report_to
        super().__post_init__()

    def check(self) -> None:
        """Checks the arguments as they are now; after a ``set_*`` helper or an assignment, call it again.

        Raises:
            ValueError: If one cannot be used, or some contradict each other.
        """
        check_types(self, SentenceTransformerTrainingArguments)
        super().check()
        if self.collisions not in COLLISIONS:
            raise ValueError(f"collisions must be one of {list(COLLISIONS)}; got {self.collisions!r}.")
        self._check_sizes()
        self._check_rates()
        self._check_tasks()
        self._check_background()

    def _check_sizes(self) -> None:
        if not isinstance(self.prompts, Mapping | str | None):
            raise ValueError(f"prompts must be a text, or a dict of texts; got {self.prompts!r}.")
        for name in _OUR_MAPPINGS[1:]:
            if not isinstance(getattr(self, name), Mapping | None):
                raise ValueError(f"{name} must be a dict, or one as JSON; got {getattr(self, name)!r}.")
        sizes = {"global_train_batch_size": self.global_train_batch_size, **(self.dataset_batch_sizes or {})}
        for name, size in {**sizes, "window_bytes": self.window_bytes}.items():
            if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
                raise ValueError(f"{name} must be a positive integer; got {size!r}.")

    def _check_rates(self) -> None:
        for pattern, rate in (self.learning_rate_mapping or {}).items():
            if not isinstance(rate, int | float) or isinstance(rate, bool) or rate < 0:
                raise ValueError(f"learning_rate_mapping[{pattern!r}] must be a number >= 0; got {rate!r}.")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"learning_rate_mapping: {pattern!r} is no regular expression ({error})."
                ) from error

    def _check_tasks(self) -> None:
        mapping = self.router_mapping or {}
        nested = [value for value in mapping.values() if isinstance(value, Mapping)]
        tasks = [task for part in nested for task in part.values()] if nested else list(mapping.values())
        if len(nested) not in (0, len(mapping)) or not all(isinstance(task, str) for task in tasks):
            raise ValueError(
                "router_mapping must be a task for each text column, or for each dataset name such a dict; got "
                f"{mapping!r}."
            )

    def _check_background(self) -> None:
        for name, amount in (self.eval_resources or {}).items():
            if not isinstance(amount, int | float) or isinstance(amount, bool) or amount <= 0:
                raise ValueError(f"eval_resources[{name!r}] must be a positive number; got {amount!r}.")
        if self.eval_on == EvalOn.WORKERS:
            if self.eval_resources:
                raise ValueError(
                    'eval_resources are those of eval_on="background"; the workers have their own.'
                )
            return
        if self.save_strategy == SaveStrategy.BEST:
            raise ValueError(
                'eval_on="background" finds out too late which step is the best to save only that; got '
                'save_strategy="best". Use save_strategy="steps" or "epoch", with save_total_limit.'
            )
        if self.lr_scheduler_type in _LED_BY_FIGURES:
            raise ValueError(
                f'eval_on="background" has figures too late for lr_scheduler_type={SchedulerType(self.lr_scheduler_type).value!r}, '
                "which follows them. Use another one."
            )

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
        size = self._global_batch(world_size)
        return {name: (self.dataset_batch_sizes or {}).get(name, size) for name in datasets}

    def settle(self, output_dir: str) -> None:
        """Makes the arguments those of the worker that they arrived at; its batch size becomes the worker's share.

        Args:
            output_dir: The worker's folder.

        Raises:
            ValueError: If the worker's device cannot do what they ask for.
        """
        super().settle(output_dir)
        if self.global_train_batch_size or self._splits_batches:
            self.global_train_batch_size = self._global_batch(self.world_size)
            self.per_device_train_batch_size = math.ceil(self.global_train_batch_size / self.world_size)

    @property
    def _splits_batches(self) -> bool:
        return bool(getattr(self.accelerator_config, "split_batches", False))

    def _global_batch(self, world_size: int) -> int:
        workers = 1 if self._splits_batches else world_size
        return self.global_train_batch_size or self.per_device_train_batch_size * workers


def _named_or_callable(kind: type[ExplicitEnum], value: Any) -> Any:
    return value if callable(value) and not isinstance(value, (str, kind)) else kind(value)
