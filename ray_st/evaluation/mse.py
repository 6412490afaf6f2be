"""How near a student's embeddings are to those of its teacher."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from ray_st.evaluation import base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.metrics_distillation import mean_squared_error

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
