"""Distance of a student's embeddings from those of its teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured
from ray_st.evaluation.checked_inputs import check_columns, check_equal_lengths
from ray_st.evaluation.evaluated_model import EvaluatedModel

logger = logging.getLogger(__name__)


class _MSE(BuiltInEvaluator):
    primary_metric = "negative_mse"

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["negative_mse"])

    @property
    def description(self) -> str:
        """What is evaluated, for the model card."""
        return "Knowledge Distillation"


class MSEEvaluator(_MSE):
    """Mean squared error, times 100, between a teacher's embeddings and the model's of corresponding texts.

    For a student that learns other languages than its teacher's, sources are in the teacher's language and
    targets are their translations (Reimers and Gurevych 2020, arXiv:2004.09813). The metric is
    ``negative_mse``: higher is better, 0 is best, and nan means that embeddings hold nan. CSV file:
    ``mse_evaluation_{name}_results.csv``.

    The teacher encodes once, when the evaluator is made; it is not sent to workers.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        source_sentences: What the teacher encodes (n).
        target_sentences: What the model encodes (n).
        teacher_model: The teacher; required.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, or there is no teacher; when
            called, if the model's embeddings have another dimension than the teacher's.
    """

    def __init__(
        self,
        source_sentences: Sequence[str],
        target_sentences: Sequence[str],
        teacher_model: EvaluatedModel | None = None,
        show_progress_bar: bool | None = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        who = type(self).__name__
        source_sentences, self.target_sentences = check_columns(
            who, source_sentences=source_sentences, target_sentences=target_sentences
        )
        if teacher_model is None:
            raise ValueError(f"{who} needs a teacher_model to encode source_sentences; found None.")
        self._set_options("mse_evaluation", name, write_csv, batch_size, show_progress_bar, truncate_dim)
        self.csv_file = f"mse_evaluation_{name}_results.csv"
        self.source_embeddings = self._encode(teacher_model, source_sentences, convert_to_numpy=True)

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metric."""
        found = self._encode(model, self.target_sentences, convert_to_numpy=True)
        error = 100 * mean_squared_error(self.source_embeddings, found)
        return Measured({"negative_mse": -error}, {"MSE": error})


class MSEEvaluatorFromDataFrame(_MSE):
    """Mean squared error, times 100, between a teacher's and the model's embeddings of parallel texts.

    For each pair of languages the teacher encodes the first and the model the second; rows in which either is
    blank are skipped. The metric is ``negative_mse``, the negated mean over the pairs; nan means that
    embeddings hold nan. CSV file: ``mse_evaluation[_{name}]_results.csv`` with a column for each pair.

    The teacher encodes once, when the evaluator is made; it is not sent to workers.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        dataframe: Rows of parallel texts by language, such as ``[{"en": "A house", "de": "Ein Haus"}, ...]``.
        teacher_model: The teacher.
        combinations: The pairs of languages, such as ``[("en", "de"), ("en", "fr")]``.

    Raises:
        ValueError: If there are no rows or no pairs, a row lacks the text of a language, or no row has both
            texts of a pair; when called, if the model's embeddings have another dimension than the teacher's.
    """

    shown = ()

    def __init__(
        self,
        dataframe: Sequence[Mapping[str, str]],
        teacher_model: EvaluatedModel,
        combinations: Sequence[tuple[str, str]],
        batch_size: int = 8,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        who = type(self).__name__
        check_equal_lengths(who, dataframe=dataframe)
        check_equal_lengths(who, combinations=combinations)
        self.combinations = [(source, target) for source, target in combinations]
        self._set_options("mse_evaluation", name, write_csv, batch_size=batch_size, truncate_dim=truncate_dim)
        pairs = [_parallel(who, dataframe, *languages) for languages in self.combinations]
        self.target_sentences = [[target for _, target in rows] for rows in pairs]
        sources = [[source for source, _ in rows] for rows in pairs]
        self.source_embeddings = list(self._encode_columns(teacher_model, sources, convert_to_numpy=True))

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metric."""
        found = self._encode_columns(model, self.target_sentences, convert_to_numpy=True)
        errors = [100 * mean_squared_error(*both) for both in zip(self.source_embeddings, found, strict=True)]
        headers = [f"{source}-{target}" for source, target in self.combinations]
        row = dict(zip(headers, errors, strict=True))
        logger.info("MSE (*100): %s", ", ".join(f"{header} {error:.4f}" for header, error in row.items()))
        return Measured({"negative_mse": float(-np.mean(errors))}, row)


def mean_squared_error(teacher: NDArray[Any], student: NDArray[Any]) -> float:
    """Mean squared difference over all numbers; nan if any is.

    Args:
        teacher: (n, d).
        student: (n, d).

    Raises:
        ValueError: If the shapes differ.
    """
    if teacher.shape != student.shape:
        raise ValueError(
            f"Teacher and student need embeddings of the same shape; found {teacher.shape} and "
            f"{student.shape}. Set truncate_dim, or give the student a Dense module of the teacher's "
            "dimension."
        )
    difference = np.subtract(teacher, student, dtype=np.float32)
    return float(np.square(difference).mean(dtype=np.float64))


def _parallel(
    evaluator: str, rows: Sequence[Mapping[str, str]], source: str, target: str
) -> list[tuple[str, str]]:
    """The texts of two languages where neither is blank."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"{evaluator} needs a list of dicts, texts by language; row {number} is {row!r:.80}. "
                "Convert a pandas DataFrame with to_dict('records')."
            )
        for language in (source, target):
            if not isinstance(row.get(language), str):
                raise ValueError(
                    f"{evaluator} needs a text for {language!r} in each row, blank if there is none; row "
                    f"{number} has {row.get(language)!r} and the keys {sorted(row)}."
                )
    both = [(row[source], row[target]) for row in rows if row[source].strip() and row[target].strip()]
    if not both:
        raise ValueError(f"{evaluator}: no row has a text for both {source!r} and {target!r}.")
    return both
