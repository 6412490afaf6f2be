"""Arguments of a training run: those of transformers, and those of embedding models."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, get_type_hints

from transformers import SchedulerType, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SaveStrategy
from transformers.utils import ExplicitEnum

from ray_st.training_args.effects import default_of
from ray_st.training_args.grouped import GroupedArguments
from ray_st.util.secrets import placeholder, without_secrets
from ray_st.util.type_checks import PYTHON_WORDS, Hint, fits, options_of, type_name
from ray_st.util.value_checks import check_collisions, is_number, is_whole

_FOLLOW_METRICS = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
_DEFAULT_IF_NONE = ("eval_delay", "ddp_timeout", "include_num_input_tokens_seen")  # documented as optional
_OUR_MAPPINGS = [
    "prompts",
    "dataset_batch_sizes",
    "dataset_weights",
    "eval_resources",
    "learning_rate_mapping",
    "router_mapping",
]
_LOOSELY_TYPED = {"fsdp"}  # documented with more types than its annotation has


_Choice = TypeVar("_Choice", bound=ExplicitEnum)


class BatchSamplers(ExplicitEnum):
    """How rows are grouped into batches.

    - ``BATCH_SAMPLER``: in random order (default).
    - ``NO_DUPLICATES``: no text occurs twice in a global batch; for losses with in-batch negatives.
    - ``NO_DUPLICATES_HASHED``: an alias of ``NO_DUPLICATES``, which always compares texts by their hashes.
    - ``GROUP_BY_LABEL``: each label in a batch has at least two rows; for losses that find positives in the
      batch.
    """

    BATCH_SAMPLER = "batch_sampler"
    NO_DUPLICATES = "no_duplicates"
    NO_DUPLICATES_HASHED = "no_duplicates_hashed"
    GROUP_BY_LABEL = "group_by_label"


class MultiDatasetBatchSamplers(ExplicitEnum):
    """Which dataset each batch is drawn from.

    - ``PROPORTIONAL``: each dataset in proportion to its size, until all are exhausted (default).
    - ``ROUND_ROBIN``: each dataset in turn, until one is exhausted.
    """

    ROUND_ROBIN = "round_robin"
    PROPORTIONAL = "proportional"


class BadRows(ExplicitEnum):
    """What to do with unusable rows: a missing text, or a label that is not a number.

    - ``ERROR``: raise an error that names the first of them (default).
    - ``SKIP``: leave them out, count them, and list them in a file in the run's folder.
    """

    ERROR = "error"
    SKIP = "skip"


class EvalOn(ExplicitEnum):
    """Where evaluations during training run.

    - ``WORKERS``: on the workers, which pause training (default).
    - ``BACKGROUND``: in a separate process with its own resources, from checkpoints, while training
      continues; the metrics arrive later, see docs/evaluation.md.
    """

    WORKERS = "workers"
    BACKGROUND = "background"


if TYPE_CHECKING:
    _Mapped: TypeAlias = Any
    _OneBatchSampler: TypeAlias = Any
    _ManyBatchSampler: TypeAlias = Any
    _FolderOrFalse: TypeAlias = Any
else:  # the forms that transformers' command line parser reads: a member of an enumeration, or JSON
    _Mapped = dict | str | None
    _OneBatchSampler = BatchSamplers | str | Callable
    _ManyBatchSampler = MultiDatasetBatchSamplers | str | Callable
    _FolderOrFalse = str | None | Literal[False]  # the parser takes the first


@dataclass
class SentenceTransformerTrainingArguments(GroupedArguments):
    """:class:`~transformers.TrainingArguments` with the additional arguments of embedding models.

    Arguments that transformers dropped since the documentation was written are accepted too;
    :mod:`ray_st.training_args.dropped` and docs/compatibility.md say what each of them does now.

    Args:
        prompts: Prompt prepended to texts: a single one, one per column name, one per dataset name, or one
            per dataset name and column name.
        batch_sampler: How rows are grouped into batches: a :class:`BatchSamplers` or its name, or a class or
            function called as ``batch_sampler(dataset, batch_size=, drop_last=, valid_label_columns=,
            generator=, seed=)``.
        multi_dataset_batch_sampler: Which dataset each batch is drawn from: a
            :class:`MultiDatasetBatchSamplers` or its name, or a class or function called as
            ``sampler(dataset, batch_samplers, generator=, seed=)``.
        router_mapping: Task (or route) of each text column, for a model with a Router; such as ``{"question":
            "query", "answer": "document"}``, or such a dict per dataset name. Columns that are not listed
            take the default route of the :class:`ray_st.models.Router`.
        learning_rate_mapping: Learning rates by regular expression, for the weights whose names match; if
            several match, the last one applies. The model's weights are named ``model.…``, as in its
            ``state_dict``; those of a loss as in the loss, prefixed with the dataset's name and a dot if each
            dataset has its own loss.
        global_train_batch_size: Rows in a training batch over all workers; by default
            ``per_device_train_batch_size`` times the number of workers. If set, batches do not depend on the
            number of workers.
        dataset_batch_sizes: Global batch sizes of individual datasets, by name.
        dataset_weights: Relative frequency of each dataset's batches, by name; an epoch ends when one dataset
            is exhausted. Overrides ``multi_dataset_batch_sampler``.
        bad_rows: What to do with unusable rows; see :class:`BadRows`.
        collisions: What ``NO_DUPLICATES`` does with rows that no longer fit into a full batch; too many
            others share their text. ``"keep"`` puts them into smaller batches at the end of the epoch
            (default), ``"mask"`` masks the repeated texts among the negatives of full batches, ``"drop"``
            leaves the rows out.
        window_rows: Rows of a dataset that are shuffled at once; a dataset with more is shuffled window by
            window, each made of parts of the data drawn at random. None for all rows whatever their number.
        token_cache: Folder, or its URI, of encoded rows: rows that a run with the same tokenizer, prompts and
            lengths has encoded are read instead of being encoded again. By default ``token-cache`` in the
            run's folder, which further runs and searches with this ``output_dir`` use too; False for none.
        token_cache_bytes: Size of that folder: after encoding, the oldest entries are removed until the rest
            fits. Until then it may hold twice as much. The default holds some 40 million pairs of 120 tokens
            each.
        ledger: Whether to record in the run's folder which rows each step used.
        resume_only_model: Whether ``train(resume_from_checkpoint=…)`` loads only the weights and starts a new
            run at step 0. Accepts any model folder: a checkpoint of ``save_only_model=True``, or one that
            another program wrote.
        eager_download_bytes: Size up to which trained weights in an object store are read before first use,
            when ``train()`` ends; larger ones are read when the model is first used.
        eval_on: Where evaluations during training run; see :class:`EvalOn`.
        eval_resources: Resources of the background evaluation process, such as ``{"CPU": 4}``; by default one
            GPU if the workers use GPUs, else one CPU.
        scratch_dir: Folder on each machine for what is there for a while: checkpoints on their way to an
            object store and those fetched from it, and the output folder of a worker of such a run. By
            default the system's temporary folder (``TMPDIR``, or /tmp). It needs room for one checkpoint
            being written and one fetched.
    """

    # On a command line these are JSON.
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, *_OUR_MAPPINGS]  # noqa: RUF012

    report_to: None | str | list[str] = field(  # noqa: RUF036  transformers reads the second of a union
        default=None,
        metadata={"help": "Where metrics are reported; by default to all installed integrations."},
    )
    prompts: _Mapped = field(
        default=None, metadata={"help": "Prompt for all texts, by column, or by dataset."}
    )
    batch_sampler: _OneBatchSampler = field(
        default=BatchSamplers.BATCH_SAMPLER, metadata={"help": "How rows are grouped into batches."}
    )
    multi_dataset_batch_sampler: _ManyBatchSampler = field(
        default=MultiDatasetBatchSamplers.PROPORTIONAL,
        metadata={"help": "Which dataset each batch is drawn from."},
    )
    learning_rate_mapping: _Mapped = field(
        default=None, metadata={"help": "Learning rates of individual weights, by regular expression."}
    )
    router_mapping: _Mapped = field(
        default=None, metadata={"help": "Task of each text column, for a model with a Router."}
    )
    global_train_batch_size: int | None = field(
        default=None, metadata={"help": "Rows in a training batch over all workers."}
    )
    dataset_batch_sizes: _Mapped = field(
        default=None, metadata={"help": "Global batch sizes of individual datasets, by name."}
    )
    dataset_weights: _Mapped = field(
        default=None, metadata={"help": "Relative frequency of each dataset's batches, by name."}
    )
    bad_rows: BadRows | str = field(
        default=BadRows.ERROR, metadata={"help": "What to do with unusable rows."}
    )
    collisions: str = field(
        default="keep", metadata={"help": "What happens to rows whose texts are too common."}
    )
    window_rows: int | None = field(
        default=2**20, metadata={"help": "Rows of a dataset that are shuffled at once."}
    )
    token_cache: _FolderOrFalse = field(
        default=None, metadata={"help": "Folder or URI of encoded rows; by default in the run's folder."}
    )
    token_cache_bytes: int = field(
        default=20_000_000_000, metadata={"help": "Size of the folder of encoded rows."}
    )
    ledger: bool = field(default=False, metadata={"help": "Record which rows each step used."})
    resume_only_model: bool = field(
        default=False, metadata={"help": "Start a new run with the weights of the checkpoint to resume from."}
    )
    eager_download_bytes: int = field(
        default=4_000_000_000,
        metadata={"help": "Size up to which trained weights in an object store are read before first use."},
    )
    eval_on: EvalOn | str = field(
        default=EvalOn.WORKERS, metadata={"help": "Where evaluations during training run."}
    )
    eval_resources: _Mapped = field(
        default=None, metadata={"help": "Resources of the background evaluation process."}
    )
    scratch_dir: str | None = field(
        default=None, metadata={"help": "Folder on each machine for checkpoints on their way."}
    )

    def __post_init__(self) -> None:
        """Completes and validates the arguments."""
        given = vars(self)
        given.update({name: default_of(self, name) for name in _DEFAULT_IF_NONE if given[name] is None})
        self._check_types()
        self.batch_sampler = _named_or_callable(BatchSamplers, self.batch_sampler)
        self.multi_dataset_batch_sampler = _named_or_callable(
            MultiDatasetBatchSamplers, self.multi_dataset_batch_sampler
        )
        self.bad_rows = BadRows(self.bad_rows)
        if isinstance(self.token_cache, os.PathLike):
            self.token_cache = os.fspath(self.token_cache)
        if self.token_cache == "False":  # a command line has no other way to say it
            self.token_cache = False
        self.eval_on = EvalOn(self.eval_on)
        # Arguments that were saved have placeholders in place of secrets.
        tokens = ("hub_token", "push_to_hub_token")
        given.update({name: None for name in tokens if given[name] == placeholder(name)})
        self.report_to = "all" if self.report_to is None else self.report_to
        super().__post_init__()

    def check(self) -> None:
        """Validates the current arguments; call it again after a ``set_*`` helper or an assignment.

        Raises:
            ValueError: If one is invalid, or some contradict each other.
        """
        self._check_types()
        super().check()
        check_collisions(self.collisions)
        self._check_sizes()
        self._check_cache()
        self._check_rates()
        self._check_tasks()
        self._check_background()

    def _check_types(self) -> None:
        """Rejects values of the wrong type by name: transformers would fail much later, or not at all."""
        for name, hint in _plain_hints().items():
            value = getattr(self, name)
            if not fits(value, hint):
                shown = without_secrets({name: repr(value)})[name]
                wanted = type_name(hint, PYTHON_WORDS)
                raise ValueError(f"{name} must be {wanted}; got {shown} ({type(value).__name__}).")

    def _check_sizes(self) -> None:
        if not isinstance(self.prompts, Mapping | str | None):
            raise ValueError(f"prompts must be a text, or a dict of texts; got {self.prompts!r}.")
        for name in _OUR_MAPPINGS[1:]:
            if not isinstance(given := getattr(self, name), Mapping | None):
                raise ValueError(f"{name} must be a dict, or one as JSON; got {given!r}.")
        sizes = {"global_train_batch_size": self.global_train_batch_size, **(self.dataset_batch_sizes or {})}
        sizes |= {"window_rows": self.window_rows, "token_cache_bytes": self.token_cache_bytes}
        for name, size in sizes.items():
            if size is not None and not is_whole(size, least=1):
                raise ValueError(f"{name} must be a positive integer; got {size!r}.")

    def _check_cache(self) -> None:
        place = self.token_cache
        if place is not None and place is not False and (not isinstance(place, str) or not place):
            raise ValueError(
                f"token_cache must be a folder, its URI, None for a folder in the run's, or False for none; "
                f"got {place!r}."
            )

    def _check_rates(self) -> None:
        for pattern, rate in (self.learning_rate_mapping or {}).items():
            if not is_number(rate, least=0):
                raise ValueError(f"learning_rate_mapping[{pattern!r}] must be a number >= 0; got {rate!r}.")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"learning_rate_mapping: {pattern!r} is not a valid regular expression ({error})."
                ) from error

    def _check_tasks(self) -> None:
        mapping = self.router_mapping or {}
        nested = [value for value in mapping.values() if isinstance(value, Mapping)]
        tasks = [task for part in nested for task in part.values()] if nested else list(mapping.values())
        if len(nested) not in (0, len(mapping)) or not all(isinstance(task, str) for task in tasks):
            raise ValueError(
                "router_mapping must be a task for each text column, or such a dict for each dataset name; "
                f"got {mapping!r}."
            )

    def _check_background(self) -> None:
        for name, amount in (self.eval_resources or {}).items():
            if not is_number(amount) or amount <= 0:
                raise ValueError(f"eval_resources[{name!r}] must be a positive number; got {amount!r}.")
        if self.eval_on == EvalOn.WORKERS:
            if self.eval_resources:
                raise ValueError(
                    'eval_resources apply to eval_on="background" only; the workers have their own.'
                )
            return
        if self.save_strategy == SaveStrategy.BEST:
            raise ValueError(
                'eval_on="background" determines the best step too late to save only that one; got '
                'save_strategy="best". Use save_strategy="steps" or "epoch", with save_total_limit.'
            )
        if self.lr_scheduler_type in _FOLLOW_METRICS:
            schedule = SchedulerType(self.lr_scheduler_type).value
            raise ValueError(
                f'eval_on="background" delivers metrics too late for lr_scheduler_type={schedule!r}, '
                "which follows them. Use another one."
            )

    @property
    def groups_by_length(self) -> bool:
        """Whether batches hold rows of similar length."""
        # Not all releases of transformers have this argument.
        return bool(getattr(self, "train_sampling_strategy", None) == "group_by_length")

    def global_batch_sizes(self, world_size: int, datasets: Sequence[str]) -> dict[str, int]:
        """Rows of a global batch of each training dataset.

        Args:
            world_size: Number of workers.
            datasets: Names of the datasets; a single one is named "".

        Raises:
            ValueError: If sizes or weights name unknown datasets, or if weights do not cover all datasets.
        """
        options = {"dataset_batch_sizes": self.dataset_batch_sizes, "dataset_weights": self.dataset_weights}
        for option, given in options.items():
            unknown = set(given or {}) - set(datasets)
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
        """Adapts the arguments to the worker that received them; the batch size becomes the worker's share.

        Args:
            output_dir: The worker's folder.

        Raises:
            ValueError: If the worker's device does not support what they ask for.
        """
        super().settle(output_dir)
        if self.global_train_batch_size or self._splits_batches:
            self.global_train_batch_size = self._global_batch(self.world_size)
            self.per_device_train_batch_size = math.ceil(self.global_train_batch_size / self.world_size)

    @property
    def _splits_batches(self) -> bool:
        config: object = self.accelerator_config
        return isinstance(config, AcceleratorConfig) and config.split_batches

    def _global_batch(self, world_size: int) -> int:
        workers = 1 if self._splits_batches else world_size
        return self.global_train_batch_size or self.per_device_train_batch_size * workers


@cache
def _plain_hints() -> dict[str, Hint]:
    """The annotation of each argument that is a number, a text or a boolean."""
    hints = get_type_hints(SentenceTransformerTrainingArguments)
    names = {field.name for field in fields(SentenceTransformerTrainingArguments)} - _LOOSELY_TYPED
    return {name: hints[name] for name in names if set(options_of(hints[name])) <= set(PYTHON_WORDS)}


def _named_or_callable(
    kind: type[_Choice], value: _Choice | str | Callable[..., Any]
) -> _Choice | Callable[..., Any]:
    return value if callable(value) else kind(value)
