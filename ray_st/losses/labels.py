"""Checks and normalises the labels of a loss; errors name the kind needed and what was found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ray_st.util.host_facts import host_copy, remember

OPTIONAL = "optional "
"""Prefix of label kinds that a loss uses if there are labels and does without otherwise."""


ONE_EACH = "one number for each document"
"""Kind of the labels of lists of documents: (n, m), shorter lists end in NaN."""


def check_labels(kind: str, labels: Tensor | None, rows: int, owner: str) -> Tensor | None:
    """Normalises labels to the form of their kind.

    Args:
        kind: One of :data:`KINDS`, perhaps after :data:`OPTIONAL`.
        labels: As given to the loss.
        rows: Number of rows n of the batch.
        owner: The loss's name, for errors.

    Returns:
        None for a kind without labels; otherwise (n,) or, for vectors, (n, ...).

    Raises:
        ValueError: If labels are missing, of another type or shape, NaN, or out of range.
    """
    known = kind_of(kind)
    if known.shape is None or (labels is None and kind.startswith(OPTIONAL)):
        return None
    need = f"{owner} needs labels ({kind}): a tensor with {known.form}, {rows} in all"
    if not isinstance(labels, Tensor):
        raise ValueError(
            f"{need}; found {type(labels).__name__}. Give the dataset a column named label or score."
        )
    # Looking at values on a device would wait for it, and the host has most labels, too.
    host, values = host_copy(labels), known.shape(labels, rows, need)
    seen = values if host is labels else known.shape(host, rows, need)
    known.check(seen, need)
    made = _converted(values, known.whole)
    return made if host is labels else remember(made, _converted(seen, known.whole))


def _one_a_row(labels: Tensor, rows: int, need: str) -> Tensor:
    if labels.is_complex() or labels.numel() != rows:
        raise ValueError(f"{need}; found {labels.dtype} of shape {tuple(labels.shape)}.")
    return labels.reshape(-1)


def _each_row(labels: Tensor, rows: int, need: str) -> Tensor:
    if labels.is_complex() or labels.ndim == 0 or len(labels) != rows:
        raise ValueError(f"{need}; found {labels.dtype} of shape {tuple(labels.shape)}.")
    return labels


def _list_each(labels: Tensor, rows: int, need: str) -> Tensor:
    if labels.is_complex() or labels.ndim != 2 or len(labels) != rows:
        raise ValueError(f"{need}; found {labels.dtype} of shape {tuple(labels.shape)}.")
    return labels


def _converted(labels: Tensor, whole: bool) -> Tensor:
    if whole:
        return labels.long()  # unsigned values above 2**63 become negative but stay distinct
    return labels if labels.is_floating_point() else labels.float()


def _numbers(labels: Tensor, need: str) -> None:
    if not labels.is_floating_point():
        return
    wrong = labels.isnan().reshape(len(labels), -1).any(1)
    if wrong.any():
        raise ValueError(
            f"{need}; found NaN in row(s) {wrong.nonzero().reshape(-1).tolist()[:8]} of the batch."
        )


def _lists(labels: Tensor, need: str) -> None:
    """Lists may end in NaN, where they are shorter than others."""
    if not labels.is_floating_point():
        return
    missing = labels.isnan()
    wrong = (missing[:, :-1] & ~missing[:, 1:]).any(1)
    if wrong.any():
        rows = wrong.nonzero().reshape(-1).tolist()[:8]
        raise ValueError(f"{need}; found NaN before a number in row(s) {rows} of the batch.")


def _classes(numbers: Tensor, need: str) -> None:
    _numbers(numbers, need)
    if not numbers.is_floating_point():
        return
    wrong = numbers[numbers.long() != numbers]
    if len(wrong):
        raise ValueError(f"{need}, whole numbers; found {wrong.tolist()[:8]}.")
    exact = 2 / torch.finfo(numbers.dtype).eps
    rounded = numbers[numbers.abs() > exact]
    if len(rounded):
        raise ValueError(
            f"{need}; found {rounded.tolist()[:8]} in {numbers.dtype}, which holds not every whole number "
            f"above {exact:,.0f}. Give classes as integers."
        )


def _between_0_and_1(labels: Tensor, need: str) -> None:
    _numbers(labels, need)
    numbers = _converted(labels, whole=False)
    wrong = numbers[(numbers < 0) | (numbers > 1)]
    if len(wrong):
        raise ValueError(f"{need}, from 0 to 1; found {wrong.tolist()[:8]}.")


def _zero_or_one(labels: Tensor, need: str) -> None:
    _numbers(labels, need)
    numbers = _converted(labels, whole=False)
    wrong = numbers[(numbers != 0) & (numbers != 1)]
    if len(wrong):
        raise ValueError(f"{need}, each 0 or 1; found {wrong.tolist()[:8]}.")


@dataclass(frozen=True)
class Kind:
    """A kind of labels.

    Attributes:
        shape: Gives labels their shape, or raises; gets the labels, the number of rows and the start of an
            error. None for no labels.
        check: Raises for values that are none of this kind; gets shaped labels and the start of an error.
        whole: Whether labels become integers; otherwise they are floating-point numbers.
        limits: Whether a label must be a whole number, the least and the greatest.
        lengths: Allowed lengths, in the form of :meth:`ray_st.losses.loss.Loss.label_lengths`.
        form: The form of the labels, for errors.
    """

    shape: Callable[[Tensor, int, str], Tensor] | None
    check: Callable[[Tensor, str], None] = _numbers
    whole: bool = False
    limits: tuple[bool, float, float] = (False, -math.inf, math.inf)
    lengths: tuple[int, ...] = (0, 1)
    form: str = "one number a row"


KINDS = {
    "none": Kind(None, lengths=()),
    "float score": Kind(_one_a_row),
    "class": Kind(_one_a_row, _classes, whole=True, limits=(True, -math.inf, math.inf)),
    "1 if positive, 0 if negative": Kind(_one_a_row, _zero_or_one, limits=(True, 0.0, 1.0)),
    "1 if positive, 0 if negative, or between": Kind(_one_a_row, _between_0_and_1, limits=(False, 0.0, 1.0)),
    "1 if equal, 0 if not": Kind(_one_a_row, _zero_or_one, limits=(True, 0.0, 1.0)),
    "teacher scores": Kind(_each_row, lengths=(-1,), form="one list of numbers a row"),
    "teacher embeddings": Kind(
        _each_row, lengths=(-1,), form="one embedding a row or one for each text column"
    ),
    ONE_EACH: Kind(
        _list_each,
        _lists,
        lengths=(-1,),
        form="one list of numbers a row, as long as its list of documents and padded with NaN",
    ),
}
"""Kinds of labels, as losses name them."""


def kind_of(name: str) -> Kind:
    """A kind of labels.

    Args:
        name: One of :data:`KINDS`, perhaps after :data:`OPTIONAL`.
    """
    return KINDS[name.removeprefix(OPTIONAL)]


def one_class(labels: Tensor, owner: str) -> bool:
    """Whether all rows of a batch are of one class, so that no triplet can be formed.

    Args:
        labels: Classes of the pool (N,), on the host.
        owner: The loss's name.

    Raises:
        ValueError: If they are, where gradients are enabled.
    """
    alike = bool((labels == labels[0]).all())
    if alike and torch.is_grad_enabled():
        raise ValueError(
            f"{owner} needs rows of at least two classes in a batch; found {len(labels)} row(s), all of "
            f"class {int(labels[0])}. Use BatchSamplers.GROUP_BY_LABEL, a larger batch, or "
            "gather_across_devices."
        )
    return alike
