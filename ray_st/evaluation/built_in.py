"""What the evaluators of this package share: options, encoding, the call, the CSV file and the model card."""

from __future__ import annotations

import csv
import logging
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from ray_st.evaluation.checked_inputs import distinct
from ray_st.evaluation.evaluated_model import EvaluatedModel, role_prompt, role_task
from ray_st.evaluation.sentence_evaluator import SentenceEvaluator

logger = logging.getLogger(__name__)

Model = TypeVar("Model", contravariant=True)


@dataclass(frozen=True)
class Measured:
    """What an evaluator measured.

    Attributes:
        metrics: By name, without the evaluator's.
        row: The CSV file's row by column heading, without epoch and steps.
        primary: Name of the primary metric, without the evaluator's; None for the one that is known already.
        card: What the model card shows, if not the metrics: a text that begins with the number, by name,
            without the evaluator's.
    """

    metrics: dict[str, float]
    row: dict[str, float]
    primary: str | None = None
    card: dict[str, str] | None = None


class MeasuringEvaluator(SentenceEvaluator, Generic[Model]):
    """Base of the evaluators of this package: a subclass defines :meth:`measure` and :meth:`metric_names`.

    Attributes:
        shown: Options to show in the model card, if they are not None.
        csv_file: Name of the CSV file.
    """

    shown: tuple[str, ...] = ("truncate_dim",)
    csv_file: str
    batch_size: int = 32
    show_progress_bar: bool = False
    truncate_dim: int | None = None
    write_csv: bool = True

    def _set_options(
        self,
        csv_stem: str,
        name: str,
        write_csv: bool,
        batch_size: int = 32,
        show_progress_bar: bool | None = False,
        truncate_dim: int | None = None,
        csv_end: str = "results.csv",
    ) -> None:
        """Sets the options that :class:`SentenceEvaluator` documents."""
        self.name, self.write_csv = name, write_csv
        self.batch_size, self.truncate_dim = batch_size, truncate_dim
        self.show_progress_bar = (
            logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
            if show_progress_bar is None
            else show_progress_bar
        )
        self.csv_file = "_".join(filter(None, (csv_stem, name, csv_end)))

    def __call__(
        self, model: Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(epoch, steps)
        return self._report(self.measure(model), model, output_path, epoch, steps)

    @abstractmethod
    def measure(self, model: Model) -> Measured:
        """Measures a model, without writing or recording anything."""

    def _log_start(self, epoch: float, steps: int) -> None:
        when = "" if epoch == -1 else f" after epoch {epoch}"
        if epoch != -1 and steps != -1:
            when = f" in epoch {epoch} after {steps} steps"
        cut = "" if self.truncate_dim is None else f" (truncated to {self.truncate_dim})"
        logger.info("%s on the %s dataset%s%s:", self.description, self.name or "unnamed", when, cut)

    def _report(
        self, found: Measured, model: Model, output_path: str | None, epoch: float, steps: int
    ) -> dict[str, float]:
        """Writes and records what was measured, and returns the metrics by their full names."""
        logger.info("%s", ", ".join(f"{key} {value:.4f}" for key, value in found.metrics.items()))
        if output_path is not None and self.write_csv:
            row = {"epoch": epoch, "steps": steps, **found.row}
            append_row(output_path, self.csv_file, list(row), list(row.values()))
        if found.primary is not None:
            self.primary_metric = found.primary
        metrics = self.prefix_name_to_metrics(found.metrics, self.name)
        card = found.card and dict(zip(self._prefixed(found.card), found.card.values(), strict=True))
        self.store_metrics_in_model_card_data(model, card or metrics, epoch, steps)
        return metrics

    def get_config_dict(self) -> dict[str, Any]:
        """The options to show in the model card."""
        values = {name: getattr(self, name) for name in self.shown}
        return {name: value for name, value in values.items() if value is not None}


class BuiltInEvaluator(MeasuringEvaluator[EvaluatedModel]):
    """Base of the evaluators of embeddings, which encode texts."""

    def _encode(
        self,
        model: EvaluatedModel,
        texts: Sequence[str],
        roles: Sequence[str] = (),
        **options: str | bool | None,
    ) -> Any:
        """Embeddings of texts, with the evaluator's options and the model's prompt for a role.

        Args:
            model: What to measure.
            texts: n texts.
            roles: Names of the texts' role; none for no prompt.
            options: More options of ``encode``, which override these.
        """
        role = {"prompt_name": role_prompt(model, roles), **role_task(model, roles)} if roles else {}
        shared = {
            "batch_size": self.batch_size,
            "show_progress_bar": self.show_progress_bar,
            "truncate_dim": self.truncate_dim,
        }
        return model.encode(texts, **{**shared, **role, **options})

    def _encode_columns(
        self,
        model: EvaluatedModel,
        columns: Sequence[Sequence[str]],
        roles: Sequence[str] = (),
        **options: str | bool | None,
    ) -> Iterator[Any]:
        """Embeddings of each column; all are encoded in one call, each distinct text once.

        Arguments are those of :meth:`_encode`.
        """
        texts, places = distinct([text for column in columns for text in column])
        embeddings = self._encode(model, texts, roles, **options)
        ends = np.cumsum([len(column) for column in columns])
        return (embeddings[rows] for rows in np.split(places, ends[:-1]))


def with_max(names: Sequence[str]) -> list[str]:
    """Several similarities and "max", the highest of them; a single one alone."""
    return [*names, "max"] if len(names) > 1 else list(names)


def append_row(folder: str | Path, file: str, headers: Sequence[str], row: Sequence[float]) -> None:
    """Appends a row to a CSV file, preceded by headers if the file's last headers are others.

    Args:
        folder: Folder of the file; created if missing.
        file: Its name.
        headers: Names of the columns.
        row: One value for each column.
    """
    path = Path(folder) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _last_headers(path)
    if known is not None and known != list(headers):
        logger.warning("%s has other columns; a second line of headers is added to it.", path)
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if known != list(headers):
            writer.writerow(headers)
        writer.writerow(row)


def _last_headers(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as stream:
        found = [row for row in csv.reader(stream) if row[:1] == ["epoch"]]
    return found[-1] if found else None
