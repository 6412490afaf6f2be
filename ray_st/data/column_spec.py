"""Which columns of a dataset are texts and which one is the label, and whether they fit a loss."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ray_st.data.label_need import LabelNeed
from ray_st.util.arrow import is_list, is_number, is_text

LABEL_COLUMNS = ("label", "labels", "score", "scores")
"""Names of label columns, in order of precedence."""

SCORE_COLUMNS = ("score", "scores")
"""Those that score how well a pair matches; the others may be present only for a sampler."""

DATASET_NAME_COLUMN = "dataset_name"

_HELD_OUT = frozenset({"test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation"})
_SPREAD = 4  # texts that the remedy for list columns takes from each list


class ColumnError(ValueError):
    """The columns of a dataset do not fit its loss."""


@dataclass(frozen=True)
class ColumnSpec:
    """The role of each column.

    Args:
        texts: Names of the text columns, in the order in which the loss receives them.
        label: Name of the label column, or None if there is none.
        need: The labels that the loss accepts, or None if it does not declare them.
        lists: The text columns whose rows hold a list of texts each.
    """

    texts: tuple[str, ...]
    label: str | None = None
    need: LabelNeed | None = None
    lists: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns to read."""
        return self.texts if self.label is None else (*self.texts, self.label)


@dataclass(frozen=True)
class LossNeeds:
    """What a loss declares about its inputs; a user's own loss may be any module and declare nothing.

    Args:
        text_columns: Minimum and maximum number of text columns; a maximum of None means no bound.
        labels: The kind of labels that it takes, in one word; ``"none"`` if it takes none.
        in_batch_negatives: Whether the other rows of a batch serve as negatives.
        gather_across_devices: Whether negatives come from the rows of all workers.
        leaves_out_repeats: Whether it excludes repeated texts from its negatives.
        lists: Whether the second text column holds lists, with a list of labels of the same length.
    """

    text_columns: tuple[int, int | None] | None = None
    labels: str | None = None
    in_batch_negatives: bool = False
    gather_across_devices: bool = False
    leaves_out_repeats: bool = False
    lists: bool = False

    @classmethod
    def of(cls, loss: object) -> LossNeeds:
        """The needs that a loss declares."""
        declared: dict[str, Any] = {
            field.name: getattr(loss, field.name, field.default) for field in fields(cls)
        }
        return cls(**declared)

    def lists_among(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """The text columns that must hold lists."""
        return texts[1:2] if self.lists else ()


@runtime_checkable
class LimitsLabels(Protocol):
    """A loss that declares which labels it accepts."""

    different_labels: int

    @property
    def label_limits(self) -> tuple[bool, float, float]:
        """Whether labels must be whole numbers, the minimum, and the maximum."""

    @property
    def ignored_label(self) -> float | None:
        """A label value that the loss ignores."""

    def label_lengths(self, columns: int) -> tuple[int, ...]:
        """Accepted lengths of labels that are lists, for a given number of text columns."""


def split_columns(names: Sequence[str], label_columns: Sequence[str] = LABEL_COLUMNS) -> ColumnSpec:
    """Separates the text columns from the label by name; for texts, only the order matters.

    Args:
        names: Column names of a dataset, in order.
        label_columns: Names that denote a label; the first one that occurs is the label.
    """
    label = next((name for name in label_columns if name in names), None)
    texts = tuple(name for name in names if name != label and name != DATASET_NAME_COLUMN)
    return ColumnSpec(texts, label)


def check_columns(columns: ColumnSpec, loss: object, dataset: str) -> ColumnSpec:
    """Rejects a dataset that its loss cannot use, before any worker starts.

    Args:
        columns: The dataset's columns.
        loss: The loss; its class attributes ``text_columns`` (minimum, maximum) and ``labels`` declare its
            needs. A loss without them (a plain module) accepts anything.
        dataset: Name of the dataset in error messages.

    Returns:
        The columns, including which labels the loss accepts.

    Raises:
        ColumnError: If the number of text columns, or the presence or absence of a label, does not fit.
    """
    name = type(loss).__name__
    found = f"{dataset} has text columns {list(columns.texts)} and " + (
        f"label column {columns.label!r}" if columns.label else "no label column"
    )
    if not columns.texts:
        raise ColumnError(f"A dataset needs at least one text column; {found}.")
    needs = LossNeeds.of(loss)
    if needs.text_columns is not None:
        least, most = needs.text_columns
        if len(columns.texts) < least or (most is not None and len(columns.texts) > most):
            raise ColumnError(f"{name} needs {_amount(least, most)}; {found}. {_remedy(columns, least)}")
    _check_label(columns, needs, name, found)
    lists = needs.lists_among(columns.texts)
    return replace(columns, need=_need(columns, needs, loss), lists=lists)


def _check_label(columns: ColumnSpec, needs: LossNeeds, name: str, found: str) -> None:
    labels = needs.labels
    needed = labels not in (None, "none") and not str(labels).startswith("optional")
    if needed and columns.label is None:
        raise ColumnError(
            f"{name} needs a label column ({labels}) named one of {list(LABEL_COLUMNS)}; {found}. "
            "Rename the column that holds the labels."
        )
    matches_only = labels == "none" and needs.in_batch_negatives
    if matches_only and columns.label in SCORE_COLUMNS and len(columns.texts) == 2:
        raise ColumnError(
            f"{name} takes no labels: each pair is a match, also one of a low score. {found}. Keep the pairs "
            f"that match and drop the column {columns.label!r}, or choose a loss that takes labels, such as "
            "CoSENTLoss for scores."
        )


def _need(columns: ColumnSpec, needs: LossNeeds, loss: object) -> LabelNeed | None:
    if columns.label is None or needs.labels in (None, "none") or not isinstance(loss, LimitsLabels):
        return None
    whole, least, most = loss.label_limits
    return LabelNeed(
        loss=type(loss).__name__,
        whole=whole,
        least=least,
        most=most,
        ignored=loss.ignored_label,
        lengths=loss.label_lengths(len(columns.texts)),
        different=loss.different_labels,
    )


def check_classes(columns: ColumnSpec, codes: npt.NDArray[np.int64] | None, dataset: str) -> None:
    """Rejects labels that are all equal if the loss learns from differences between them.

    Args:
        columns: The dataset's columns.
        codes: (rows,) an integer for each label, equal for equal labels; None if labels are lists.
        dataset: Name of the dataset in error messages.
    """
    need = columns.need
    if need is None or codes is None or len(codes) == 0 or need.different < 2:
        return
    if (codes == codes[0]).all():
        raise ColumnError(
            f"{need.loss} learns from rows of different labels; the {len(codes)} usable rows of {dataset} "
            f"all have the same in column {columns.label!r}."
        )


def check_lengths(columns: ColumnSpec, lengths: Sequence[tuple[int, int]], dataset: str) -> None:
    """Rejects list labels of several lengths, because no batch could hold them as one array.

    Labels of lists of texts are as long as these.

    Args:
        columns: The dataset's columns.
        lengths: Each length that occurs, with the first row that has it.
        dataset: Name of the dataset in error messages.
    """
    if len(lengths) > 1 and not columns.lists:
        (length, row), (other, where) = sorted(lengths, key=lambda found: found[1])[:2]
        raise ColumnError(
            f"{dataset}: labels must be lists of one length; in column {columns.label!r} row {row} has "
            f"{length} numbers, row {where} has {other}."
        )


def check_batch(columns: ColumnSpec, loss: object, batch_size: int, world_size: int, dataset: str) -> None:
    """Rejects batches of one row for losses whose negatives are the other rows.

    Args:
        columns: The dataset's columns.
        loss: The loss.
        batch_size: Rows in a global batch.
        world_size: Number of workers.
        dataset: Name of the dataset in error messages.
    """
    needs = LossNeeds.of(loss)
    rows = batch_size if needs.gather_across_devices else -(-batch_size // world_size)
    if not needs.in_batch_negatives or rows > 1 or len(columns.texts) > 2:
        return
    raise ColumnError(
        f"{type(loss).__name__} takes the other rows of a batch as negatives; {dataset} has batches of "
        f"{batch_size} row(s) over {world_size} worker(s), one a worker. Use a larger batch"
        + (
            "."
            if needs.gather_across_devices
            else ", or gather_across_devices=True for the rows of all workers."
        )
    )


def _amount(least: int, most: int | None) -> str:
    if most is None:
        return f"at least {least} text columns"
    return f"{least} text column{'s' * (least != 1)}" if least == most else f"{least} to {most} text columns"


def _remedy(columns: ColumnSpec, least: int) -> str:
    if len(columns.texts) > least:
        return "Remove or rename columns; every column that is not a label is passed to the loss as text."
    return "Add the missing text columns, or choose a loss that fits the data."


def check_rows(rows: int, world_size: int, dataset: str) -> None:
    """Rejects a training set that is empty or has fewer rows than there are workers."""
    if rows == 0:
        raise ColumnError(
            f"{dataset} has no rows; at least one row for each of the {world_size} worker(s) is needed."
        )
    if rows < world_size:
        raise ColumnError(
            f"{dataset} has {rows} row(s), fewer than the {world_size} workers; "
            f"use at most {rows} workers or more rows."
        )


def check_splits(names: Collection[str]) -> None:
    """Rejects training on held-out splits, which a dataset with several splits brings along.

    Args:
        names: Names of the training datasets.
    """
    found = _held_out(names)
    if found:
        trains = next((name for name in names if str(name).lower().startswith("train")), None)
        remedy = (
            f"Give train_dataset=data[{trains!r}] and, to evaluate, eval_dataset=data[{found[0]!r}]"
            if trains
            else "Give the one split to train on"
        )
        raise ColumnError(
            f"train_dataset is a dict of {list(names)}, which trains on all of them, {found} too. {remedy}. "
            f"If the mixture is intended, use other names: {{'some_name': data[{found[0]!r}], …}}."
        )


def _held_out(names: Collection[str]) -> list[str]:
    """The names of held-out data: ``test``; next to a ``train…`` also ``test_sft`` or ``validation-2``."""
    first = {name: re.split(r"[^a-z]+", str(name).lower())[0] for name in names}
    beside_train = "train" in first.values()
    return [
        name
        for name, word in first.items()
        if word in _HELD_OUT and (beside_train or str(name).lower() == word)
    ]


def check_names(argument: str, unknown: Collection[str], kind: str, known: Collection[str]) -> None:
    """Rejects names in an argument that match nothing.

    Args:
        argument: The training argument.
        unknown: The names.
        kind: What they should name.
        known: What exists.
    """
    if unknown:
        raise ValueError(
            f"args.{argument} names {sorted(unknown)}, which are no {kind}; there are {list(known)}."
        )


def check_full_batch(rows: int, batch_size: int, dataset: str) -> None:
    """Rejects a dataset without a single full batch if incomplete batches are dropped.

    Args:
        rows: Its number of usable rows.
        batch_size: Rows in a global batch.
        dataset: Name of the dataset in error messages.
    """
    if rows < batch_size:
        raise ColumnError(
            f"{dataset} has {rows} usable row(s), fewer than a global batch of {batch_size}, and "
            "dataloader_drop_last=True drops incomplete batches: none of its rows would be trained on. "
            "Use a smaller batch, or dataloader_drop_last=False."
        )


def check_types(
    columns: ColumnSpec, types: Mapping[str, Any], dataset: str, loss: object | None = None
) -> None:
    """Rejects text columns whose Arrow type is known and is not what the loss takes.

    Args:
        columns: The dataset's columns.
        types: Arrow type of each column.
        dataset: Name of the dataset in error messages.
        loss: The loss; if it takes lists, the second text column must hold lists of strings, and all others
            strings.
    """
    lists = LossNeeds.of(loss).lists_among(columns.texts)
    for name in columns.texts:
        kind = types[name]
        if not isinstance(kind, pa.DataType):  # Ray's placeholder for a type that only the rows can tell
            continue
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if name in lists and not pa.types.is_null(kind):
            _check_list_type(kind, name, dataset, loss)
        elif not is_text(kind) and not pa.types.is_null(kind):
            remedy = _how_to_spread(types, columns.label) or _other_label(columns)
            raise ColumnError(
                f"{dataset}, column {name!r}: texts must be strings; found type {kind}. {remedy}"
            )


def _check_list_type(kind: pa.DataType, name: str, dataset: str, loss: object) -> None:
    inner = kind.value_type if is_list(kind) else kind
    if not is_list(kind) or not (is_text(inner) or pa.types.is_null(inner)):
        raise ColumnError(
            f"{dataset}, column {name!r}: {type(loss).__name__} needs a list of texts in each row, the "
            f"documents of its query; found type {kind}. Give the columns query, documents (lists of texts) "
            "and labels (lists of numbers, one for each document), as mine_hard_negatives makes them with "
            'output_format="labeled-list".'
        )


def _other_label(columns: ColumnSpec) -> str:
    if columns.label is not None:
        return (
            f"The label is column {columns.label!r}; every other column is a text: convert or drop this one."
        )
    return f"If it holds labels, name it one of {list(LABEL_COLUMNS)}; otherwise convert or drop it."


def _how_to_spread(types: Mapping[str, Any], label: str | None) -> str | None:
    """A function for ``datasets.Dataset.map`` that spreads lists of texts and joins their scores.

    Args:
        types: Arrow type of each column, in order.
        label: The label column, which is kept unchanged.

    Returns:
        The function as source code, with an explanation; None if no column holds lists of texts.
    """
    if not any(is_list(kind) and is_text(kind.value_type) for kind in types.values()):
        return None
    entries, scores = [], []
    for name, kind in types.items():
        if name == label or not is_list(kind):
            entries.append(f'"{name}": row["{name}"]')
        elif is_number(kind.value_type):
            scores.append(f'*row["{name}"][:{1 if _is_positive(name) else _SPREAD}]')
        elif _is_positive(name):
            entries.append(f'"{name}": row["{name}"][0]')
        else:
            pairs = f'enumerate(row["{name}"][:{_SPREAD}], 1)'
            entries.append(f'**{{f"{name}_{{n}}": text for n, text in {pairs}}}')
    if scores:
        entries.append(f'"scores": [{", ".join(scores)}]')
    lines = "".join(f"        {entry},\n" for entry in entries)
    return (
        "A loss takes one text from each column. Spread lists over columns, with a number of texts that "
        f"every row has ({_SPREAD} here):\n\ndef spread(row):\n    return {{\n{lines}    }}\n\ndataset = "
        "dataset.map(spread, remove_columns=dataset.column_names)\n"
    )


def _is_positive(name: str) -> bool:
    return name.lower().startswith("pos")
