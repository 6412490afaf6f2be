"""What becomes of scores and weights while older scripts train: a callback, the best model, checkpoints."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_st.models.fit_methods import FitOptions


def score_of(evaluator: Any, figures: Any) -> float:
    """The one figure that says which model is better.

    Args:
        evaluator: Names it as its ``primary_metric``, after it has run.
        figures: What the evaluator returned: the figure itself, or figures by name.

    Raises:
        ValueError: If there are several and none is named.
    """
    if not isinstance(figures, Mapping):
        return float(figures)
    name = getattr(evaluator, "primary_metric", None)
    if name not in figures:
        raise ValueError(
            f"{type(evaluator).__name__} returned {sorted(figures)}; its primary_metric must name one of "
            f"them, got {name!r}."
        )
    return float(figures[name])


class Best:
    """Hears every score, passes it on to the user's callback, and saves the model when it is the best so far.

    Args:
        model: The model.
        options: The evaluator, the callback, and where to save.
    """

    def __init__(self, model: Any, options: FitOptions) -> None:
        self._model, self._options = model, options
        self._score: float | None = None

    def hear(self, score: float, epoch: float, steps: int) -> bool:
        """Takes up a score.

        Args:
            score: The evaluator's figure.
            epoch: The epoch.
            steps: The step.

        Returns:
            Whether the model is to be saved.
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
        """Saves the model as it is."""
        assert self._options.output_path is not None
        self._model.save(self._options.output_path)

    def take(self, weights: Mapping[str, Any], card: Any) -> None:
        """Gives the model weights and card data from elsewhere, and saves it."""
        self._model.load_state_dict(weights)
        self._model.model_card_data = card
        self.save()


def figures_folder(output_path: str | None) -> str | None:
    """Where an evaluator writes its figures; made if it is not there."""
    if output_path is None:
        return None
    folder = Path(output_path) / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def save_step(model: Any, folder: str, step: int, limit: int) -> None:
    """Saves a model in a folder named after its step, and deletes the oldest of more than some.

    Args:
        model: The model.
        folder: The folder of these folders.
        step: The step.
        limit: How many to keep; 0 for all.
    """
    model.save(str(Path(folder) / str(step)))
    steps = sorted(int(path.name) for path in Path(folder).iterdir() if path.name.isdigit())
    for old in steps[:-limit] if limit else []:
        shutil.rmtree(Path(folder) / str(old))
