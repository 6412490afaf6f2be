"""The samplers that training arguments name."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import ConcatDataset

from ray_st.data.column_spec import LABEL_COLUMNS, ColumnSpec
from ray_st.data.grouping import GroupByLabelBatchSampler, GroupByLengthBatchSampler
from ray_st.data.keys import Keys, Table
from ray_st.data.mixing import (
    Concatenated,
    ProportionalBatchSampler,
    RoundRobinBatchSampler,
    WeightedBatchSampler,
)
from ray_st.data.samplers import DefaultBatchSampler, NoDuplicatesBatchSampler, RandomOrder
from ray_st.training_args import (
    BatchSamplers,
    MultiDatasetBatchSamplers,
    SentenceTransformerTrainingArguments,
)


def batch_sampler(
    args: SentenceTransformerTrainingArguments,
    dataset: Keys | Table,
    batch_size: int,
    drop_last: bool,
    valid_label_columns: Sequence[str] | None,
    generator: torch.Generator | None,
    seed: int,
) -> Any:
    """The batch sampler that ``args.batch_sampler`` names, or that its class or function creates.

    Arguments as in :meth:`ray_st.SentenceTransformerTrainer.get_batch_sampler`.
    """
    kind = args.batch_sampler
    if not isinstance(kind, BatchSamplers):
        return kind(
            dataset,
            batch_size=batch_size,
            drop_last=drop_last,
            valid_label_columns=valid_label_columns,
            generator=_seeded(generator, seed),
            seed=seed,
        )
    if kind in (BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED):
        return NoDuplicatesBatchSampler(
            dataset, batch_size, drop_last, valid_label_columns, generator, seed, args.collisions
        )
    if kind == BatchSamplers.GROUP_BY_LABEL:
        return GroupByLabelBatchSampler(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
    if args.groups_by_length:
        return GroupByLengthBatchSampler(dataset, batch_size, drop_last, generator, seed)
    seed = int(generator.initial_seed()) if generator is not None else seed
    return DefaultBatchSampler(RandomOrder(len(dataset), seed), batch_size, drop_last)


def _seeded(generator: torch.Generator | None, seed: int) -> torch.Generator:
    """A generator for user-defined samplers, which may not handle None."""
    return torch.Generator().manual_seed(seed) if generator is None else generator


def check_sampler(
    args: SentenceTransformerTrainingArguments, columns: ColumnSpec, batch_size: int, label: str
) -> None:
    """Raises if the selected sampler cannot work with a dataset, before its rows are read.

    Args:
        args: The arguments.
        columns: The dataset's columns.
        batch_size: Rows of a global batch.
        label: The dataset's name in error messages.

    Raises:
        ValueError: If the sampler groups labels and there are none, or the batch size does not allow it.
    """
    if args.batch_sampler != BatchSamplers.GROUP_BY_LABEL:
        return
    if columns.label is None:
        raise ValueError(
            f"{label}: batch_sampler='group_by_label' needs a label column named one of "
            f"{list(LABEL_COLUMNS)}; found the columns {list(columns.names)}."
        )
    if batch_size < 4 or batch_size % 2:
        raise ValueError(
            f"{label}: batch_sampler='group_by_label' needs a global batch size that is even and at least 4; "
            f"got {batch_size}."
        )


def multi_dataset_batch_sampler(
    args: SentenceTransformerTrainingArguments,
    names: Sequence[str],
    dataset: Concatenated | ConcatDataset[Any],
    batch_samplers: list[Any],
    generator: torch.Generator | None,
    seed: int | None,
) -> Any:
    """The sampler over several datasets that the arguments name.

    Args:
        args: The arguments; ``dataset_weights`` overrides ``multi_dataset_batch_sampler``.
        names: Names of the datasets, in order.
        dataset: The datasets as one.
        batch_samplers: A batch sampler for each dataset.
        generator: A generator whose initial seed is used instead of ``seed``.
        seed: Seed of the order of datasets.
    """
    if args.dataset_weights:
        weights = [args.dataset_weights[name] for name in names]
        return WeightedBatchSampler(dataset, batch_samplers, weights, generator, seed)
    kind = args.multi_dataset_batch_sampler
    if not isinstance(kind, MultiDatasetBatchSamplers):
        return kind(dataset, batch_samplers, generator=_seeded(generator, seed or 0), seed=seed)
    if kind == MultiDatasetBatchSamplers.ROUND_ROBIN:
        return RoundRobinBatchSampler(dataset, batch_samplers, generator, seed)
    return ProportionalBatchSampler(dataset, batch_samplers, generator, seed)


def order_settings(
    args: SentenceTransformerTrainingArguments, methods: SamplerMethods, names: Sequence[str]
) -> dict[str, Any]:
    """The settings that the sample order depends on, by their names in error messages.

    Args:
        args: Training arguments.
        methods: The trainer's methods; overridden ones are named instead of the arguments.
        names: Names of the training datasets, in order.
    """
    settings = {
        "batch sampler": methods.overridden("get_batch_sampler") or _sampler_name(args),
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
    }
    if len(names) > 1:
        overridden = methods.overridden("get_multi_dataset_batch_sampler")
        settings["datasets, in order"] = list(names)
        settings["sampler of several datasets"] = overridden or _mixing_name(args)
    return settings


def _sampler_name(args: SentenceTransformerTrainingArguments) -> str:
    kind = args.batch_sampler
    if not isinstance(kind, BatchSamplers):
        return code_name(kind)
    if kind in (BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED):  # the same sampler
        return f"{BatchSamplers.NO_DUPLICATES.value}, collisions={args.collisions}"
    return f"{kind.value}, grouped by length" if args.groups_by_length else kind.value


def _mixing_name(args: SentenceTransformerTrainingArguments) -> str:
    if args.dataset_weights:
        return f"weighted {json.dumps(args.dataset_weights, sort_keys=True)}"
    kind = args.multi_dataset_batch_sampler
    return kind.value if isinstance(kind, MultiDatasetBatchSamplers) else code_name(kind)


def code_name(code: object) -> str:
    """The dotted name of a class or function, or of the class of an object that creates samplers."""
    if isinstance(code, functools.partial):
        given = ", ".join(
            [*map(repr, code.args), *(f"{key}={value!r}" for key, value in code.keywords.items())]
        )
        return f"{code_name(code.func)}({given})"
    named = code if hasattr(code, "__qualname__") else type(code)
    return f"{named.__module__}.{named.__qualname__}"


def in_order(keys: Keys, seed: int, batch_size: int) -> DefaultBatchSampler:
    """A sampler of rows in their original order, for evaluation."""
    return DefaultBatchSampler(RandomOrder(len(keys), shuffle=False), batch_size)


@dataclass(frozen=True)
class SamplerMethods:
    """The trainer's documented sampler methods, callable on the driver and where plans are made.

    An overridden ``get_batch_sampler`` needs an instance of its class wherever it is called. The instance has
    no model, not even on the driver, so that a method that needs one fails immediately.

    Args:
        kind: The trainer's class.
        base: The library's class, whose methods follow the arguments.
        args: Training arguments.
        attributes: Attributes set by a subclass.
        trainer: The driver's trainer, which mixes datasets there; it is not pickled. Elsewhere, an instance
            of the class with ``surroundings`` is used instead.
        surroundings: Attributes of that instance: the training data, model and loss.
    """

    kind: type
    base: type
    args: SentenceTransformerTrainingArguments
    attributes: Mapping[str, Any]
    trainer: Any = None
    surroundings: Mapping[str, Any] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the driver's trainer."""
        return {**vars(self), "trainer": None}

    def overridden(self, method: str) -> str | None:
        """The dotted name of a method that a subclass overrides; None for the library's own."""
        own = inspect.getattr_static(self.kind, method)
        return None if own is inspect.getattr_static(self.base, method) else code_name(own)

    @property
    def wants_dataset(self) -> bool:
        """Whether samplers are user-defined, and may therefore read the dataset itself."""
        own_class = not isinstance(self.args.batch_sampler, BatchSamplers)
        return own_class or self.overridden("get_batch_sampler") is not None

    def streams(self, datasets: int) -> bool:
        """Whether the number of steps follows from the number of rows alone.

        Of samplers that are a user's own nothing is known; batches without duplicates may need smaller ones
        at the end of an epoch, and labels without partners drop out.

        Args:
            datasets: Number of training datasets.
        """
        known = not self.wants_dataset and (
            datasets == 1
            or (
                isinstance(self.args.multi_dataset_batch_sampler, MultiDatasetBatchSamplers)
                and self.overridden("get_multi_dataset_batch_sampler") is None
            )
        )
        kind = self.args.batch_sampler
        unique = kind in (BatchSamplers.NO_DUPLICATES, BatchSamplers.NO_DUPLICATES_HASHED)
        return known and (kind == BatchSamplers.BATCH_SAMPLER or (unique and self.args.collisions != "keep"))

    def over_several(self, keys: Concatenated, samplers: list[Any], seed: int) -> Any:
        """Creates the sampler over several datasets with the documented method.

        Args:
            keys: The datasets' keys as one.
            samplers: A batch sampler for each dataset.
            seed: Seed of the order of datasets.
        """
        trainer = self.trainer or self.instance(**self.surroundings)
        return trainer.get_multi_dataset_batch_sampler(keys, samplers, seed=seed)

    def instance(self, **attributes: Any) -> Any:
        """An instance of the trainer's class with its arguments and further attributes.

        Its constructor is not called: that would load the model, which sampling does not need.
        """
        make: Any = self.kind.__new__
        trainer = make(self.kind)
        vars(trainer).update(self.attributes, args=self.args, **attributes)
        return trainer


@dataclass(frozen=True)
class SamplerMaker:
    """Creates a training dataset's sampler with the trainer's method, here or where plans are made.

    Args:
        methods: The trainer's methods.
        whole: The dataset itself, for a user-defined sampler; None to pass keys.
        batch_size: Rows of a global batch.
        drop_last: Whether to drop partial batches.
    """

    methods: SamplerMethods
    whole: Any
    batch_size: int
    drop_last: bool

    def __call__(self, keys: Keys, seed: int) -> Any:
        """A sampler over rows with these keys."""
        rows = self.whole if self.whole is not None and len(self.whole) == len(keys) else keys
        options: dict[str, Any] = {"batch_size": self.batch_size, "drop_last": self.drop_last}
        more: dict[str, Any] = {"valid_label_columns": list(LABEL_COLUMNS), "seed": seed}
        make = self.methods.instance().get_batch_sampler
        # Overrides written for earlier versions of the documented method take fewer arguments.
        known = inspect.signature(make).parameters
        takes_any = any(parameter.kind == parameter.VAR_KEYWORD for parameter in known.values())
        options.update({key: value for key, value in more.items() if takes_any or key in known})
        return make(rows, **options)
