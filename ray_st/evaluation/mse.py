"""How near a student's embeddings are to those of its teacher."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.distinct import distinct

logger = logging.getLogger(__name__)


class MSEEvaluator(base.SentenceEvaluator):
    """Mean squared difference, times 100, of a teacher's embeddings of texts and the model's of their counterparts.

    For a student that speaks other languages than its teacher, sources are in the teacher's language and targets are
    their translations (Reimers and Gurevych 2020, arXiv:2004.09813). The metric is ``negative_mse``: more is better, 0
    is best, and nan says that embeddings hold nan. CSV file: ``mse_evaluation_{name}_results.csv``.

    The teacher is asked once, when the evaluator is made; it does not travel to workers.

    Args:
        source_sentences: What the teacher encodes (n).
        target_sentences: What the model encodes (n).
        teacher_model: The teacher; needed.
        show_progress_bar: Whether to show one while encoding; None asks the logging level.
        batch_size: Texts encoded at once.
        name: Put before the metrics and into the file name.
        write_csv: Whether to write the CSV file where an output folder is given.
        truncate_dim: Dimensions to keep of both; by default each model's own.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, a text is None, or there is no teacher; when called,
            if the model's embeddings have another dimension than the teacher's.
    """

    primary_metric = "negative_mse"

    def __init__(
        self,
        source_sentences: Sequence[str],
        target_sentences: Sequence[str],
        teacher_model: Any = None,
        show_progress_bar: bool | None = False,
        batch_size: int = 32,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        who = type(self).__name__
        base.check_equal_lengths(who, source_sentences=source_sentences, target_sentences=target_sentences)
        source_sentences = base.check_texts(who, "source_sentences", source_sentences)
        self.target_sentences = base.check_texts(who, "target_sentences", target_sentences)
        if teacher_model is None:
            raise ValueError(f"{who} needs a teacher_model to encode source_sentences; found None.")
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = f"mse_evaluation_{name}_results.csv"
        self.source_embeddings = self._encode(teacher_model, source_sentences)

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metric."""
        self._log_start(logger, epoch, steps, self.truncate_dim)
        found = self._encode(model, self.target_sentences)
        error = 100 * mean_squared_error(self.source_embeddings, found)
        logger.info("MSE (*100): %.4f", error)
        if output_path is not None and self.write_csv:
            append_row(output_path, self.csv_file, ["epoch", "steps", "MSE"], [epoch, steps, error])
        metrics = self.prefix_name_to_metrics({"negative_mse": -error}, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _encode(self, model: base.Model, texts: Sequence[str]) -> NDArray[Any]:
        return model.encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_numpy=True,
            truncate_dim=self.truncate_dim,
        )

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["negative_mse"])

    @property
    def description(self) -> str:
        """What is evaluated, in words for the model card."""
        return "Knowledge Distillation"

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return self._given("truncate_dim")


class MSEEvaluatorFromDataFrame(base.SentenceEvaluator):
    """Mean squared difference, times 100, of a teacher's and the model's embeddings over parallel texts.

    For each pair of languages the teacher encodes the first and the model the second; rows in which either is blank are
    left out. The metric is ``negative_mse``, minus the mean over the pairs; nan says that embeddings hold nan. CSV file:
    ``mse_evaluation[_{name}]_results.csv`` with a column for each pair.

    The teacher is asked once, when the evaluator is made; it does not travel to workers.

    Args:
        dataframe: Rows of parallel texts by language, such as ``[{"en": "A house", "de": "Ein Haus"}, ...]``.
        teacher_model: The teacher.
        combinations: The pairs of languages, such as ``[("en", "de"), ("en", "fr")]``.
        batch_size: Texts encoded at once.
        name: Put before the metrics and into the file name.
        write_csv: Whether to write the CSV file where an output folder is given.
        truncate_dim: Dimensions to keep of both; by default each model's own.

    Raises:
        ValueError: If there are no rows or no pairs, a row misses the text of a language, or no row has both texts of
            a pair; when called, if the model's embeddings have another dimension than the teacher's.
    """

    primary_metric = "negative_mse"

    def __init__(
        self,
        dataframe: Sequence[Mapping[str, str]],
        teacher_model: base.Model,
        combinations: Sequence[tuple[str, str]],
        batch_size: int = 8,
        name: str = "",
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        who = type(self).__name__
        base.check_equal_lengths(who, dataframe=dataframe)
        base.check_equal_lengths(who, combinations=combinations)
        self.combinations = [(source, target) for source, target in combinations]
        self.batch_size = batch_size
        self.name = name
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["mse_evaluation", name, "results.csv"]))
        pairs = [_parallel(who, dataframe, *languages) for languages in self.combinations]
        self.target_sentences = [[target for _, target in rows] for rows in pairs]
        self.source_embeddings = self._encode(
            teacher_model, [[source for source, _ in rows] for rows in pairs]
        )

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metric."""
        self._log_start(logger, epoch, steps, self.truncate_dim)
        found = self._encode(model, self.target_sentences)
        errors = [100 * mean_squared_error(*both) for both in zip(self.source_embeddings, found, strict=True)]
        headers = [f"{source}-{target}" for source, target in self.combinations]
        logger.info("MSE (*100): %s", ", ".join(f"{h} {e:.4f}" for h, e in zip(headers, errors, strict=True)))
        if output_path is not None and self.write_csv:
            append_row(output_path, self.csv_file, ["epoch", "steps", *headers], [epoch, steps, *errors])
        metrics = self.prefix_name_to_metrics({"negative_mse": -np.mean(errors)}, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _encode(self, model: base.Model, columns: Sequence[Sequence[str]]) -> list[NDArray[Any]]:
        """Embeddings of several columns, made in one call with each distinct text once."""
        texts, places = distinct([text for column in columns for text in column])
        embeddings = model.encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=False,
            convert_to_numpy=True,
            truncate_dim=self.truncate_dim,
        )
        ends = np.cumsum([len(column) for column in columns])
        return [embeddings[rows] for rows in np.split(places, ends[:-1])]

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["negative_mse"])

    @property
    def description(self) -> str:
        """What is evaluated, in words for the model card."""
        return "Knowledge Distillation"


def _parallel(
    evaluator: str, rows: Sequence[Mapping[str, str]], source: str, target: str
) -> list[tuple[str, str]]:
    """The texts of two languages where neither is blank."""
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise ValueError(
                f"{evaluator} needs a list of dicts, texts by language; row {number} is {row!r:.80}. Of a pandas "
                "DataFrame, give to_dict('records')."
            )
        for language in (source, target):
            if not isinstance(row.get(language), str):
                raise ValueError(
                    f"{evaluator} needs a text for {language!r} in each row, blank if there is none; row {number} has "
                    f"{row.get(language)!r} and the keys {sorted(row)}."
                )
    both = [(row[source], row[target]) for row in rows if row[source].strip() and row[target].strip()]
    if not both:
        raise ValueError(f"{evaluator}: no row has a text for both {source!r} and {target!r}.")
    return both


def mean_squared_error(teacher: NDArray[Any], student: NDArray[Any]) -> float:
    """Mean squared difference of all numbers; nan if any is.

    Args:
        teacher: (n, d).
        student: (n, d).

    Raises:
        ValueError: If the shapes differ.
    """
    if teacher.shape != student.shape:
        raise ValueError(
            f"Teacher and student need embeddings of the same shape; found {teacher.shape} and {student.shape}. "
            "Set truncate_dim, or give the student a Dense module of the teacher's dimension."
        )
    difference = np.subtract(teacher, student, dtype=np.float32)
    return float(np.square(difference).mean(dtype=np.float64))
