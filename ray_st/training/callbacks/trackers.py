"""Experiment trackers: transformers' callbacks, opened by one process and continued when a run resumes.

If a run resumes, after a restart of the workers or from a checkpoint, each tracker is opened with what it
returned when the run began. Repeated steps give the same metrics again, since the sample order is the same;
TensorBoard hides the earlier ones, W&B and MLflow keep both.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import (
    CodeCarbonCallback,
    MLflowCallback,
    TensorBoardCallback,
    WandbCallback,
)
from transformers.integrations.integration_utils import default_logdir, get_reporting_integration_callbacks

from ray_st.models.card.run_facts import Emissions

FLUSHED_S = 0.2
"""Seconds after which logged values are in W&B's file; W&B's own default is 15.

A worker that is killed loses no more than that.
"""

_FLUSH = "x_transaction_log_flush_interval"


class TrackerError(ValueError):
    """A tracker cannot be opened."""


@runtime_checkable
class Tracker(Protocol):
    """A callback that records metrics elsewhere; inactive unless it is open.

    Attributes:
        name: Its name in ``report_to``.
        every_node: Whether one process per node opens it, instead of the first rank only.
    """

    name: str
    every_node: bool

    def open(self, args: TrainingArguments, step: int, known: Any) -> Any:
        """Opens it.

        Args:
            args: The worker's training arguments.
            step: The step from which training resumes.
            known: What this method returned when the run began; None for a new run.

        Returns:
            What it needs to resume, as a JSON value.
        """

    def close(self, failed: bool) -> None:
        """Closes it if it is open, and flushes its data.

        Args:
            failed: Whether training ended with an error.
        """


def make_trackers(report_to: str | list[str] | None) -> list[type[TrainerCallback]]:
    """The tracker callbacks named by the training arguments.

    Args:
        report_to: As in the training arguments.

    Raises:
        ValueError: If transformers does not know one.
    """
    return [_OURS.get(kind, kind) for kind in get_reporting_integration_callbacks(report_to)]


class TensorBoard(TensorBoardCallback):
    """Event files in ``logging_dir``, by default in a folder of ``runs`` in the run's folder."""

    name, every_node = "tensorboard", False

    def __init__(self) -> None:
        super().__init__()
        self._given = self.logging_dir

    def open(self, args: TrainingArguments, step: int, known: str | None) -> str:
        """Opens a file; if the run resumes, in the same folder, where it hides repeated steps."""
        folder = known or self._given or default_logdir()
        self.logging_dir = str(Path(str(args.output_dir), folder))
        again = {} if known is None else {"purge_step": step + 1 if step else 0}
        self.tb_writer = self._SummaryWriter(log_dir=self.logging_dir, **again)
        return folder

    def _init_summary_writer(self, args: TrainingArguments) -> None:
        """Does nothing: transformers would open a writer itself, in any process."""

    def close(self, failed: bool) -> None:
        """Closes the file."""
        if self.tb_writer is not None:
            self.tb_writer.close()
            self.tb_writer = None


class Wandb(WandbCallback):
    """A run of Weights & Biases; its files are in the run's folder, unless ``WANDB_DIR`` names another."""

    name, every_node = "wandb", False
    _open = _mine = False

    def open(self, args: TrainingArguments, step: int, known: dict[str, Any] | str | None) -> dict[str, Any]:
        """Starts or resumes a run; joins one that the user's own loop has started.

        Offline, a resumed run counts W&B's own steps from the checkpoint's position: rows that are logged
        again coincide with the earlier ones when all folders are synchronized.

        Returns:
            The run's id and W&B's step count; this object is kept up to date.

        Raises:
            TrackerError: If W&B fails to start, such as without a key.
        """
        self._mine = self._wandb.run is None
        # Earlier releases recorded the id alone.
        before = known if isinstance(known, dict) else {"id": known, "step": 0}
        if self._mine:
            again = {} if known is None else {"id": before["id"], "resume": "allow"}
            try:
                self._wandb.init(
                    project=os.environ.get("WANDB_PROJECT", "huggingface"),
                    name=args.run_name,
                    dir=os.environ.get("WANDB_DIR") or str(args.output_dir),
                    **self._settings(),
                    **again,
                )
            except self._wandb.Error as error:
                raise TrackerError(
                    f"W&B cannot start a run on this worker: {error} Log in on the nodes, set "
                    "WANDB_MODE=offline there, or "
                    'leave "wandb" out of report_to.'
                ) from error
        self._open = True
        run = self._wandb.run
        if self._mine and run.offline and before["step"] > run.step:
            run.log({}, step=before["step"])
        self._mark = {"id": run.id, "step": run.step}
        return self._mark

    def _settings(self) -> dict[str, Any]:
        settings = self._wandb.Settings
        known = _FLUSH in settings.model_fields  # W&B's newer releases have it
        return {"settings": settings(**{_FLUSH: FLUSHED_S})} if known else {}

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Records metrics."""
        if self._open:
            super().on_log(*args, **kwargs)
            # W&B's own process is asked, and may be busy: the next log asks again.
            with suppress(TimeoutError):
                self._mark["step"] = self._wandb.run.step

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Records the settings."""
        if self._open:
            super().on_train_begin(*args, **kwargs)

    def on_predict(self, *args: Any, **kwargs: Any) -> None:
        """Records the metrics of a prediction."""
        if self._open:
            super().on_predict(*args, **kwargs)

    def close(self, failed: bool) -> None:
        """Ends the run, if it was started here: a worker's process ends without notice."""
        if self._open and self._mine:
            self._wandb.finish(exit_code=int(failed))
        self._open = self._initialized = False


class MLflow(MLflowCallback):
    """A run of MLflow; without a tracking URI in ``mlflow.db`` in the run's folder."""

    name, every_node = "mlflow", False
    _open = _mine = _continued = False

    def open(self, args: TrainingArguments, step: int, known: str | None) -> str:
        """Starts or resumes a run; joins one that the user's own loop has started."""
        flow = self._ml_flow
        if not (flow.is_tracking_uri_set() or os.environ.get("MLFLOW_TRACKING_URI")):
            records = Path(str(args.output_dir)).absolute() / "mlflow.db"
            known = known if records.exists() else None  # the records stay with the earlier run's folder
            flow.set_tracking_uri(f"sqlite:///{records}")
        self._open, self._mine, self._continued = True, flow.active_run() is None, known is not None
        if self._mine:
            if experiment := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
                flow.set_experiment(experiment)
            flow.start_run(run_id=known, run_name=args.run_name)
        return flow.active_run().info.run_id

    def setup(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        """Records the settings, for a new run only: MLflow rejects later changes, such as more epochs."""
        given: Any = SimpleNamespace(run_name=args.run_name, to_dict=dict) if self._continued else args
        super().setup(given, state, None if self._continued else model)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Records the settings."""
        if self._open:
            super().on_train_begin(*args, **kwargs)

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Records metrics."""
        if self._open:
            super().on_log(*args, **kwargs)

    def close(self, failed: bool) -> None:
        """Ends the run, if it was started here."""
        if self._open and self._mine:
            self._ml_flow.flush_async_logging()
            self._ml_flow.end_run("FAILED" if failed else "FINISHED")
        self._open = self._initialized = self._auto_end_run = False


class CodeCarbon(CodeCarbonCallback):
    """Measures each node's energy, in one process per node; only the first rank writes a file."""

    name, every_node = "codecarbon", True

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Does nothing: transformers would measure wherever a trainer is created, including the driver."""

    def open(self, args: TrainingArguments, step: int, known: dict[str, Any] | None) -> dict[str, Any] | None:
        """Creates the meter; the caller adds what was measured before the run resumed."""
        self.tracker = self._codecarbon.EmissionsTracker(
            output_dir=str(args.output_dir), save_to_file=args.process_index == 0, log_level="error"
        )
        return known

    def measured(self) -> Emissions | None:
        """Emissions measured since it was opened; None if this process does not measure."""
        if self.tracker is None:
            return None
        data = self.tracker._prepare_emissions_data()
        return Emissions(
            kg=data.emissions,
            kwh=data.energy_consumed,
            hours=data.duration / 3600,
            on_cloud=data.on_cloud == "Y",
            cpu=data.cpu_model or "",
            gpu=data.gpu_model or "",
            memory_gb=data.ram_total_size,
        )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Does nothing: the measurement is read later."""

    def close(self, failed: bool) -> None:
        """Stops the measurement."""
        if self.tracker is not None:
            self.tracker.stop()
            self.tracker = None


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


_OURS: dict[type[TrainerCallback], type[TrainerCallback]] = {
    TensorBoardCallback: TensorBoard,
    WandbCallback: Wandb,
    MLflowCallback: MLflow,
    CodeCarbonCallback: CodeCarbon,
}
