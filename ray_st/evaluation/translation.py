"""How often a text's translation is the nearest of all candidates."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_st.evaluation import sentence_evaluator as base
from ray_st.evaluation.csv_log import append_row
from ray_st.evaluation.distinct import distinct
from ray_st.evaluation.metrics.nearest import nearest_both_ways
from ray_st.util.similarity import cos_sim
from ray_st.util.team import team_of

logger = logging.getLogger(__name__)

SHOWN = 5
"""Nearest candidates that are printed of a wrong match."""


class TranslationEvaluator(base.SentenceEvaluator):
    """Share of texts whose nearest candidate by cosine in the other language is their translation, in both directions.

    A candidate of the same text as the translation counts as right. Metrics are ``src2trg_accuracy``,
    ``trg2src_accuracy`` and ``mean_accuracy``, the primary metric. CSV file:
    ``translation_evaluation[_{name}]_results.csv``.

    Args:
        source_sentences: Texts (n).
        target_sentences: Their translations (n).
        show_progress_bar: Whether to show one while encoding; None asks the logging level.
        batch_size: Texts encoded at once.
        name: Put before the metrics and into the file name.
        print_wrong_matches: Whether to print each source whose nearest target is wrong, with its nearest targets.
        write_csv: Whether to write the CSV file where an output folder is given.
        truncate_dim: Dimensions to keep; by default the model's.

    Raises:
        ValueError: If the lists are empty or of unequal lengths, or a text is None; when called, if an
            embedding holds nan.
    """

    primary_metric = "mean_accuracy"

    def __init__(
        self,
        source_sentences: Sequence[str],
        target_sentences: Sequence[str],
        show_progress_bar: bool | None = False,
        batch_size: int = 16,
        name: str = "",
        print_wrong_matches: bool = False,
        write_csv: bool = True,
        truncate_dim: int | None = None,
    ) -> None:
        who = type(self).__name__
        base.check_equal_lengths(who, source_sentences=source_sentences, target_sentences=target_sentences)
        self.source_sentences = base.check_texts(who, "source_sentences", source_sentences)
        self.target_sentences = base.check_texts(who, "target_sentences", target_sentences)
        self.show_progress_bar = base.progress(show_progress_bar, logger)
        self.batch_size = batch_size
        self.name = name
        self.print_wrong_matches = print_wrong_matches
        self.write_csv = write_csv
        self.truncate_dim = truncate_dim
        self.csv_file = "_".join(filter(None, ["translation_evaluation", name, "results.csv"]))

    def __call__(
        self, model: base.Model, output_path: str | None = None, epoch: float = -1, steps: int = -1
    ) -> dict[str, float]:
        """Measures a model; see the class for the metrics."""
        self._log_start(logger, epoch, steps, self.truncate_dim)
        sources, targets = (
            self._encode(model, side) for side in (self.source_sentences, self.target_sentences)
        )
        team = team_of(model)
        to_target, to_source = nearest_both_ways(sources, targets, team)
        forward = _right(to_target, self.target_sentences)
        backward = _right(to_source, self.source_sentences)
        if self.print_wrong_matches and team.rank == 0:
            for row in np.flatnonzero(~forward).tolist():
                sys.stdout.write(self._wrong(row, cos_sim(sources[row], targets)[0]) + "\n")
        found = [float(forward.mean()), float(backward.mean())]
        logger.info("Accuracy src2trg %.4f, trg2src %.4f", *found)
        if output_path is not None and self.write_csv:
            headers = ["epoch", "steps", "src2trg", "trg2src"]
            append_row(output_path, self.csv_file, headers, [epoch, steps, *found])
        metrics = {
            "src2trg_accuracy": found[0],
            "trg2src_accuracy": found[1],
            "mean_accuracy": sum(found) / 2,
        }
        metrics = self.prefix_name_to_metrics(metrics, self.name)
        self.store_metrics_in_model_card_data(model, metrics, epoch, steps)
        return metrics

    def _encode(self, model: base.Model, texts: Sequence[str]) -> Tensor:
        embeddings: Tensor = model.encode(
            texts,
            batch_size=self.batch_size,
            show_progress_bar=self.show_progress_bar,
            convert_to_tensor=True,
            truncate_dim=self.truncate_dim,
        )
        wrong = (~torch.isfinite(embeddings)).any(dim=1).nonzero()
        if len(wrong):
            raise ValueError(
                f"{type(self).__name__} needs finite embeddings; {len(wrong)} of {len(embeddings)} are not, the first is "
                f"that of {texts[int(wrong[0])]!r:.80}. Look for nan in the model's weights."
            )
        return embeddings

    def _wrong(self, row: int, scores: Tensor) -> str:
        """A source whose nearest target is wrong, its right target, and the nearest ones."""
        nearest = torch.argsort(scores, descending=True, stable=True)[:SHOWN].tolist()
        shown = [("should be", row), *(("is near", place) for place in nearest)]
        return "\n".join(
            [
                f"source {row}: {self.source_sentences[row]}",
                *(f"  {how} target {i} ({scores[i]:.4f}): {self.target_sentences[i]}" for how, i in shown),
            ]
        )

    def metric_names(self, model: base.Model) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["src2trg_accuracy", "trg2src_accuracy", "mean_accuracy"])

    def get_config_dict(self) -> dict[str, Any]:
        """The options worth showing in the model card."""
        return self._given("truncate_dim")


def _right(nearest: NDArray[np.int64], texts: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each nearest text is, word for word, the one at its own place."""
    numbers = distinct(texts)[1]
    return numbers[nearest] == numbers
