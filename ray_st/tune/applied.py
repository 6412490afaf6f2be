"""A trainer takes over the hyperparameters of a trial: it then trains what the trial trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers.trainer_utils import BestRun, number_of_arguments

from ray_st.model_trainer import ModelTrainer
from ray_st.study.drawn_trial import DrawnTrial
from ray_st.study.trial_arguments import argument_names, check_names, with_values
from ray_st.training.loss_factory import takes_trial

_CHANGED = ("args", "model", "model_wrapped", "loss", "train_dataset", "_applied")


def apply_hyperparameters(
    trainer: ModelTrainer,
    best: BestRun | Mapping[str, Any],
    data_init: Callable[[DrawnTrial], Any] | None = None,
) -> None:
    """Gives a trainer a trial's hyperparameters; ``ModelTrainer.apply_hyperparameters`` calls it.

    Args:
        trainer: The trainer; unchanged after an error.
        best: A search's result, or hyperparameters by name.
        data_init: The search's, if it had one.

    Raises:
        ValueError: If the trainer runs in a worker, or ``best`` is something else.
        SpaceError: If nothing uses a name, or the arguments reject a value.
    """
    if trainer.context is not None:
        raise ValueError("apply_hyperparameters is for a trainer on the driver; this one runs in a worker.")
    values = _values(best)
    before = {name: value for name, value in vars(trainer).items() if name in _CHANGED}
    try:
        _take_over(trainer, values, data_init)
    except BaseException:
        vars(trainer).update(before)
        trainer.callback_handler.model = trainer.model
        raise


def _values(best: object) -> dict[str, Any]:
    if isinstance(best, BestRun):
        return dict(best.hyperparameters)
    if isinstance(best, Mapping) and all(isinstance(name, str) for name in best):
        return dict(best)
    which = " Give one of the runs of the list." if isinstance(best, list) else ""
    raise ValueError(
        "apply_hyperparameters takes the result of hyperparameter_search, or a dict of hyperparameters by "
        f"name; got {type(best).__name__}.{which}"
    )


def _take_over(
    trainer: ModelTrainer, values: Mapping[str, Any], data_init: Callable[[DrawnTrial], Any] | None
) -> None:
    trial = DrawnTrial(0, values)
    arguments = argument_names(trainer.args)
    trainer.take_trial(with_values(trainer.args, values), trial)
    if data_init is not None:
        trainer.train_dataset = data_init(trial)
    readers = _readers(trainer, data_init is not None)
    check_names(sorted(values), arguments, trial.read, readers, "apply_hyperparameters")


def _readers(trainer: ModelTrainer, has_data_init: bool) -> list[str]:
    """What gets to see the hyperparameters besides the arguments."""
    if trainer.model_init is None:
        return []
    losses = trainer.loss_init
    parts = list(losses.values()) if isinstance(losses, Mapping) else [losses]
    return [
        *(["model_init"] if number_of_arguments(trainer.model_init) else []),
        *(["the loss initialiser"] if any(takes_trial(part) for part in parts) else []),
        *(["data_init"] if has_data_init else []),
    ]
