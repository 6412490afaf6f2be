"""Trials for TensorBoard's HParams tab: parameters and objectives side by side."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ray_st.study.journal import TrialRecord, objective_names

FOLDER = "tensorboard"


def write_hparams(folder: Path, trial: TrialRecord) -> None:
    """Writes a finished trial: ``tensorboard --logdir`` on the search's folder shows it, curve of the objective included.

    Args:
        folder: The search's folder.
        trial: The trial.
    """
    names = objective_names(len(trial.objectives))
    values = {name: _shown(value) for name, value in trial.values.items()}
    last = dict(zip(names, trial.objectives, strict=True))
    writer_class: Any = importlib.import_module("tensorboardX").SummaryWriter  # Ray Tune brings it along
    with writer_class(str(folder / FOLDER / f"trial-{trial.number}")) as writer:
        for event in trial.history[:-1]:
            for name, value in zip(names, event["objectives"], strict=True):
                writer.add_scalar(name, value, event["step"])
        writer.add_hparams(values, last, name=".", global_step=trial.step)


def _shown(value: Any) -> bool | int | float | str:
    return value if isinstance(value, bool | int | float | str) else str(value)
