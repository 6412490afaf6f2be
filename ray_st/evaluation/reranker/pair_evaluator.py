"""What the evaluators of rerankers share: their options, and the scores of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ray_st.evaluation.built_in import MeasuringEvaluator
from ray_st.evaluation.checked_inputs import distinct
from ray_st.evaluation.evaluated_model import ScoringModel


class PairEvaluator(MeasuringEvaluator[ScoringModel]):
    """Base of the evaluators of rerankers, which score pairs of texts.

    They share these options:

    - ``name``: Prefix of the metrics' names, and part of the names of files.
    - ``prompt_name``: Name of the model's prompt; None for its default.
    - ``batch_size``: Pairs scored at once.
    - ``show_progress_bar``: Whether to show progress while scoring; None follows the logging level.
    - ``write_csv``: Whether to append a row to the CSV file, if an output folder is given.

    While a model's ``team`` shares its ``predict``, each process gets all scores, and the same metrics.
    """

    shown: tuple[str, ...] = ()
    prompt_name: str | None = None

    def _scores(self, model: ScoringModel, pairs: Sequence[tuple[Any, Any]]) -> NDArray[np.floating]:
        """Scores of pairs; each distinct pair is scored once.

        Args:
            model: What to measure.
            pairs: n pairs of texts.

        Returns:
            (n,), or (n, num_labels) for a model with several labels.

        Raises:
            ValueError: If a score is nan or infinite, or their number is wrong.
        """
        texts, places = distinct(pairs)
        prompt = {} if self.prompt_name is None else {"prompt_name": self.prompt_name}
        found = model.predict(
            [list(pair) for pair in texts],
            batch_size=self.batch_size,
            convert_to_numpy=True,
            show_progress_bar=self.show_progress_bar,
            **prompt,
        )
        labels = model.num_labels
        scores = np.asarray(found)
        if scores.size != len(texts) * labels:
            raise ValueError(
                f"{type(self).__name__} needs scores ({len(texts)}, {labels}), as the model's num_labels is "
                f"{labels}; predict returned {scores.shape}."
            )
        scores = scores.reshape(len(texts), labels)[places]
        wrong = np.flatnonzero(~np.isfinite(scores).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"{type(self).__name__} needs finite scores; those of {len(wrong)} of {len(pairs)} pairs are "
                f"not, the first are of {pairs[wrong[0]]!r:.120}. Look for nan in the model's weights."
            )
        return scores[:, 0] if labels == 1 else scores

    def _one_score(self, model: ScoringModel, pairs: Sequence[tuple[Any, Any]]) -> NDArray[np.floating]:
        """Scores of pairs (n,), by a model with a single label.

        Raises:
            ValueError: If the model has several labels.
        """
        if model.num_labels != 1:
            raise ValueError(
                f"{type(self).__name__} needs a model with one score of each pair; this one has num_labels="
                f"{model.num_labels}. CrossEncoderClassificationEvaluator measures models with several."
            )
        return self._scores(model, pairs)
