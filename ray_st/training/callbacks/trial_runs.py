"""What experiment trackers record about a trial: its search and its parameters."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrialRuns(TrainerCallback):
    """Groups a search's runs in Weights & Biases (a group) and MLflow (an experiment), with parameters.

    Args:
        search: The search's name.
        values: The trial's parameters, including those that are not training arguments.
    """

    def __init__(self, search: str, values: Mapping[str, Any]) -> None:
        self._search, self._values = search, dict(values)

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the group and the experiment, unless the user's environment does."""
        os.environ.setdefault("WANDB_RUN_GROUP", self._search)
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", self._search)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Writes the parameters into the run that a tracker has opened in this process."""
        wandb, mlflow = sys.modules.get("wandb"), sys.modules.get("mlflow")
        if "wandb" in (args.report_to or ()) and wandb is not None and wandb.run is not None:
            wandb.config.update({"trial": self._values}, allow_val_change=True)
        if "mlflow" in (args.report_to or ()) and mlflow is not None and mlflow.active_run() is not None:
            mlflow.log_params({f"trial/{name}": value for name, value in self._values.items()})
