"""How often a text's translation is the nearest of all candidates."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ray_st.evaluation.built_in import BuiltInEvaluator, Measured
from ray_st.evaluation.checked_inputs import check_columns, distinct
from ray_st.evaluation.evaluated_model import EvaluatedModel
from ray_st.util.search.top_k import SCORES_AT_ONCE
from ray_st.util.similarity import cos_sim
from ray_st.util.team import Alone, Team, share_out, team_of

Places = NDArray[np.int64]

ALONE = Alone()

SHOWN = 5
"""Nearest candidates that are printed for a wrong match."""


class TranslationEvaluator(BuiltInEvaluator):
    """Share of texts whose nearest candidate in the other language is their translation, in both directions.

    Nearness is the cosine.

    A candidate with the same text as the translation counts as right. Metrics are ``src2trg_accuracy``,
    ``trg2src_accuracy`` and ``mean_accuracy``, the primary metric. CSV file:
    ``translation_evaluation[_{name}]_results.csv``.

    Further options are those of :class:`ray_st.evaluation.SentenceEvaluator`.

    Args:
        source_sentences: Texts (n).
        target_sentences: Their translations (n).
        print_wrong_matches: Whether to print each source whose nearest target is wrong, with its nearest
            targets.

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
        self.source_sentences, self.target_sentences = check_columns(
            type(self).__name__, source_sentences=source_sentences, target_sentences=target_sentences
        )
        self.print_wrong_matches = print_wrong_matches
        self._set_options(
            "translation_evaluation", name, write_csv, batch_size, show_progress_bar, truncate_dim
        )

    def measure(self, model: EvaluatedModel) -> Measured:
        """Measures a model; see the class for the metrics."""
        sources = self._finite(model, self.source_sentences)
        targets = self._finite(model, self.target_sentences)
        team = team_of(model)
        to_target, to_source = nearest_both_ways(sources, targets, team)
        forward = _right(to_target, self.target_sentences)
        backward = _right(to_source, self.source_sentences)
        if self.print_wrong_matches and team.rank == 0:
            for row in np.flatnonzero(~forward).tolist():
                sys.stdout.write(self._wrong(row, cos_sim(sources[row], targets)[0]) + "\n")
        found = {"src2trg": float(forward.mean()), "trg2src": float(backward.mean())}
        metrics = {f"{way}_accuracy": accuracy for way, accuracy in found.items()}
        return Measured({**metrics, "mean_accuracy": sum(found.values()) / 2}, found)

    def _finite(self, model: EvaluatedModel, texts: Sequence[str]) -> Tensor:
        embeddings: Tensor = self._encode(model, texts, convert_to_tensor=True)
        wrong = (~torch.isfinite(embeddings)).any(dim=1).nonzero()
        if len(wrong):
            raise ValueError(
                f"{type(self).__name__} needs finite embeddings; {len(wrong)} of {len(embeddings)} are not, "
                f"the first is that of {texts[int(wrong[0])]!r:.80}. Look for nan in the model's weights."
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

    def metric_names(self, model: EvaluatedModel) -> list[str]:
        """The names of the metrics that a call returns."""
        return self._prefixed(["src2trg_accuracy", "trg2src_accuracy", "mean_accuracy"])


def nearest_both_ways(
    first: Tensor, second: Tensor, team: Team = ALONE, scores_at_once: int = SCORES_AT_ONCE
) -> tuple[Places, Places]:
    """The nearest embedding by cosine on the other side, for each embedding; the first of equally near ones.

    Args:
        first: (n, d), finite.
        second: (m, d), finite.
        team: Processes that share the work; all must call this with the same embeddings.
        scores_at_once: Most similarities held at a time; at least one row's.

    Returns:
        Places in ``second`` (n,), and places in ``first`` (m,).
    """
    rows = max(1, scores_at_once // len(second))
    blocks = share_out(team, first.split(rows), lambda some: _nearest(some, second))
    # The block with the highest score holds the nearest one; argmax takes the first of ties.
    to_second, heights, to_first = zip(*blocks, strict=True)
    block = np.stack(heights).argmax(axis=0)
    return np.concatenate(to_second), block * rows + np.stack(to_first)[block, np.arange(len(second))]


def _nearest(some: Tensor, second: Tensor) -> tuple[Places, NDArray[np.floating], Places]:
    scores = cos_sim(some, second).cpu().numpy()
    return scores.argmax(axis=1), scores.max(axis=0), scores.argmax(axis=0)


def _right(nearest: Places, texts: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each nearest text equals the one at its own place."""
    numbers = distinct(texts)[1]
    return numbers[nearest] == numbers
