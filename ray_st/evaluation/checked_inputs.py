"""What evaluators are given: checks, columns of examples, and distinct texts.

A repeated text is encoded once, and gets the same embedding to the last bit.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence, Sized
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ray_st.similarity_functions import SimilarityFunction

logger = logging.getLogger(__name__)


class Example(Protocol):
    """Texts that belong together, and their label; such as :class:`ray_st.InputExample`."""

    texts: Any
    label: Any


def columns_of(examples: Sequence[Example], count: int) -> list[list[str]]:
    """The texts of examples, column by column.

    Args:
        examples: Each with at least ``count`` texts.
        count: Number of columns.
    """
    return [[example.texts[place] for example in examples] for place in range(count)]


def check_equal_lengths(evaluator: str, **columns: Sized) -> None:
    """Checks that columns have rows, and the same number of them.

    Args:
        evaluator: Name for the error.
        columns: The columns by argument name.

    Raises:
        ValueError: Naming the lengths found.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{evaluator} needs lists of the same length; found {lengths}.")
    if not all(lengths.values()):
        raise ValueError(f"{evaluator} needs at least one row; {', '.join(lengths)} are empty.")


def check_texts(evaluator: str, name: str, texts: Sequence[Any]) -> list[Any]:
    """Checks that texts are a list, none of them None.

    Args:
        evaluator: Name for the error.
        name: The argument.
        texts: The texts; anything that the model can encode.

    Returns:
        The texts as a list.

    Raises:
        ValueError: Naming the first row without a text.
    """
    if isinstance(texts, str):
        raise ValueError(
            f"{evaluator} needs {name} as a list of texts; found the single text {texts[:40]!r}."
        )
    texts = list(texts)
    for row, text in enumerate(texts):
        if text is None:
            raise ValueError(f"{evaluator} needs a text in each row of {name}; row {row} is None.")
    return texts


def check_columns(evaluator: str, **columns: Sequence[Any]) -> list[list[Any]]:
    """Checks columns of texts: :func:`check_equal_lengths`, then :func:`check_texts` for each.

    Args:
        evaluator: Name for the errors.
        columns: The columns by argument name.

    Returns:
        The columns as lists.
    """
    check_equal_lengths(evaluator, **columns)
    return [check_texts(evaluator, name, column) for name, column in columns.items()]


def check_pairs(evaluator: str, pairs: Sequence[Sequence[Any]]) -> list[tuple[Any, Any]]:
    """Checks that each row is a pair of texts.

    Args:
        evaluator: Name for the error.
        pairs: The rows.

    Raises:
        ValueError: Naming the first row that is no pair, or lacks a text.
    """
    checked = []
    for row, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"{evaluator} needs pairs of two texts; row {row} is {pair!r:.80}.")
        if None in pair:
            raise ValueError(f"{evaluator} needs two texts in each pair; row {row} has None: {pair!r:.80}.")
        checked.append((pair[0], pair[1]))
    return checked


def finite_scores(evaluator: str, scores: Sequence[float]) -> NDArray[np.float64]:
    """Checks that scores are finite numbers; warns if they are all the same.

    Args:
        evaluator: Name for the error.
        scores: (n,), n at least 1.

    Raises:
        ValueError: Naming the first row without a finite number.
    """
    for row, score in enumerate(scores):
        if not isinstance(score, int | float | np.number) or not np.isfinite(score):
            raise ValueError(
                f"{evaluator} needs a finite number in each row of scores; row {row} is {score!r}."
            )
    numbers = np.asarray(scores, dtype=np.float64)
    if np.ptp(numbers) == 0:
        logger.warning("%s: all scores are %s, so every correlation will be nan.", evaluator, numbers[0])
    return numbers


def class_labels(evaluator: str, labels: Sequence[float]) -> NDArray[np.int64]:
    """Checks that labels are classes, whole numbers from 0; warns if they are all the same.

    Args:
        evaluator: Name for the error.
        labels: (n,), n at least 1; 1.0 and True stand for 1.

    Raises:
        ValueError: Naming the first row without a class.
    """
    for row, label in enumerate(labels):
        if not isinstance(label, int | float | np.number | np.bool_) or label < 0 or label % 1 != 0:
            raise ValueError(
                f"{evaluator} needs a class in each row of labels, a whole number from 0; row {row} is "
                f"{label!r}."
            )
    classes = np.asarray([int(label) for label in labels], dtype=np.int64)
    if np.ptp(classes) == 0:
        logger.warning("%s: all labels are %d, so the metrics are meaningless.", evaluator, classes[0])
    return classes


def choose_similarities(
    evaluator: str, main: str | SimilarityFunction | None, names: Sequence[str] | None
) -> tuple[SimilarityFunction | None, list[str]]:
    """Reconciles the two arguments that choose similarities.

    Args:
        evaluator: Name for the error.
        main: The similarity of the primary metric.
        names: The similarities to measure.

    Returns:
        The main similarity, and the names; no names stand for the model's own similarity.

    Raises:
        ValueError: If a name is unknown, or the main similarity is not among the names.
    """
    chosen = [SimilarityFunction(name).value for name in names or []]
    if not main:
        return None, chosen
    first = SimilarityFunction(main)
    if chosen and first.value not in chosen:
        raise ValueError(
            f"{evaluator}: the main similarity {first.value!r} must be among similarity_fn_names {chosen}."
        )
    return first, chosen or [first.value]


def distinct(texts: Sequence[Any]) -> tuple[list[Any], NDArray[np.int64]]:
    """The distinct texts in the order of their first occurrence, the same in every process.

    Args:
        texts: n texts; or other inputs of a model, which all count as distinct if they cannot be hashed.

    Returns:
        The distinct texts, and for each of the n its place among them (n,).
    """
    places: dict[Any, int] = {}
    try:
        numbers = [places.setdefault(text, len(places)) for text in texts]
    except TypeError:  # not hashable
        return list(texts), np.arange(len(texts))
    return list(places), np.asarray(numbers, dtype=np.int64)
