"""What happens to scores and weights during ``fit``: the callback, the best model, checkpoints."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ray_st.models.card.model_card_data import SentenceTransformerModelCardData
from ray_st.models.fit_methods import FitOptions
from ray_st.models.sentence_transformer import SentenceTransformer


def score_of(evaluator: Callable[..., Any] | None, metrics: float | Mapping[str, float]) -> float:
    """The one metric by which models are compared.

    Args:
        evaluator: Its ``primary_metric``, known after it has run, names the metric.
        metrics: What the evaluator returned: the score itself, or metrics by name.

    Raises:
        ValueError: If there are several and none is named.
    """
    if not isinstance(metrics, Mapping):
        return float(metrics)
    name = getattr(evaluator, "primary_metric", None)
    if name is None or name not in metrics:
        raise ValueError(
            f"{type(evaluator).__name__} returned {sorted(metrics)}; its primary_metric must name one of "
            f"them, got {name!r}."
        )
    return float(metrics[name])


class Best:
    """Passes every score to the user's callback, and saves the best model so far.

    Args:
        model: The model.
        options: The evaluator, the callback, and where to save.
    """

    def __init__(self, model: SentenceTransformer, options: FitOptions) -> None:
        self._model, self._options = model, options
        self._score: float | None = None

    def record(self, score: float, epoch: float, steps: int) -> bool:
        """Records a score.

        Args:
            score: The evaluator's score.
            epoch: The epoch.
            steps: The step.

        Returns:
            Whether the model should be saved.
        """
        options = self._options
        if options.callback is not None:
            options.callback(score, epoch, steps)
        if not getattr(options.evaluator, "greater_is_better", True):
            score = -score
        better = not math.isnan(score) and (self._score is None or score > self._score)
        if better:
            self._score = score
        return better and options.save_best_model and options.output_path is not None

    def save(self) -> None:
        """Saves the model in its current state."""
        assert self._options.output_path is not None
        self._model.save(self._options.output_path)

    def load_and_save(self, weights: Mapping[str, Tensor], card: SentenceTransformerModelCardData) -> None:
        """Loads a worker's weights and card data into the model, and saves it."""
        self._model.load_state_dict(weights)
        self._model.model_card_data = card
        self.save()


def metrics_folder(output_path: str | None) -> str | None:
    """The folder into which an evaluator writes its metrics; created if it does not exist."""
    if output_path is None:
        return None
    folder = Path(output_path) / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def save_step(model: SentenceTransformer, folder: str, step: int, limit: int) -> None:
    """Saves a model in a folder named after its step, and deletes the oldest folders beyond the limit.

    Args:
        model: The model.
        folder: The parent of these folders.
        step: The step.
        limit: Number of folders to keep; 0 for all.
    """
    model.save(str(Path(folder) / str(step)))
    steps = sorted(int(path.name) for path in Path(folder).iterdir() if path.name.isdigit())
    for old in steps[:-limit] if limit else []:
        shutil.rmtree(Path(folder) / str(old))
