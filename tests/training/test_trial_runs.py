from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from ray_st.training.callbacks.trackers import TrialRuns


class Module:
    """Stands in for wandb and mlflow, with a run open."""

    def __init__(self) -> None:
        self.run, self.config, self.noted = object(), self, []  # type: ignore[var-annotated]

    def update(self, values: Any, allow_val_change: bool) -> None:
        self.noted.append(values)

    def active_run(self) -> Any:
        return self.run

    def log_params(self, values: Any) -> None:
        self.noted.append(values)


@pytest.mark.parametrize("report_to", [["wandb", "mlflow"], [], None])
def test_a_trial_is_told_of_in_its_own_run(report_to: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb, mlflow = Module(), Module()
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)  # type: ignore[arg-type]
    for name, given in (("WANDB_RUN_GROUP", "mine"), ("MLFLOW_EXPERIMENT_NAME", None)):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name) if given is None else monkeypatch.setenv(name, given)
    callback, nothing = TrialRuns("first", {"loss.name": "CoSENTLoss"}), Any
    args: Any = SimpleNamespace(report_to=report_to)
    callback.on_init_end(args, nothing, nothing)  # type: ignore[arg-type]
    callback.on_train_begin(args, nothing, nothing)  # type: ignore[arg-type]
    assert (os.environ["WANDB_RUN_GROUP"], os.environ["MLFLOW_EXPERIMENT_NAME"]) == ("mine", "first")
    told = bool(report_to)
    assert wandb.noted == [{"trial": {"loss.name": "CoSENTLoss"}}] * told
    assert mlflow.noted == [{"trial/loss.name": "CoSENTLoss"}] * told
