"""Sends a trainer to the workers and back: described on the driver, rebuilt there, results returned."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch.optim.lr_scheduler import LRScheduler
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerState

from ray_st.training.callbacks.progress_report import ProgressReport
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import names_of
from ray_st.training.data.run_data import RunData
from ray_st.training.data.specs import RunResult
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.training.trained_weights import PREFIX as TRAINED
from ray_st.training.trained_weights import WeightsToCome, take_trained
from ray_st.training.worker_context import WorkerContext
from ray_st.util.events import notes
from ray_st.util.tensors import on_host


class Rebuildable(Protocol):
    """A trainer class that can be rebuilt in a worker."""

    @classmethod
    def rebuilt(
        cls, context: WorkerContext, options: Mapping[str, Any], attributes: Mapping[str, Any]
    ) -> HfLoop:
        """Rebuilds a trainer of this class; see :meth:`ray_st.model_trainer.ModelTrainer.rebuilt`."""


@dataclass(frozen=True)
class TrainerSpec:
    """What a worker needs to rebuild the driver's trainer.

    Args:
        kind: The trainer's class, possibly a user's subclass.
        options: Arguments of the library's constructor, with their current values.
        removed: Default callbacks that the user removed. If the bar or printer was removed, workers show no
            progress.
        attributes: Attributes set by a subclass.
        state: The trainer's state as JSON: what was trained so far, and its history.
    """

    kind: type[Rebuildable]
    options: dict[str, Any]
    removed: list[type[TrainerCallback]]
    attributes: dict[str, Any]
    state: str

    def parts(self) -> dict[str, Any]:
        """Everything sent to the workers, by user-facing names."""
        own = {f"trainer.{name}": value for name, value in self.attributes.items()}
        return {**self.options, **own, "the trainer's class": self.kind}

    def rebuild(self, context: WorkerContext) -> HfLoop:
        """Rebuilds the trainer in a worker."""
        args = copy.copy(self.options["args"])
        context.store.scratch_dir = args.scratch_dir
        args.settle(str(context.store.local))
        _let_schedule_see_steps(*self.options["optimizers"])
        trainer = self.kind.rebuilt(context, {**self.options, "args": args}, self.attributes)
        _restore(trainer, self.state)
        show_progress(trainer, self.removed)
        return trainer


@dataclass(frozen=True)
class Trial:
    """A search trial, ready to run as a training run.

    Args:
        data: Its training and evaluation data.
        description: Rebuilds its trainer on a worker.
    """

    data: RunData
    description: TrainerSpec


def describe(
    trainer: HfLoop, kind: type[Rebuildable], attributes: dict[str, Any], own_loader: bool
) -> TrainerSpec:
    """Describes a trainer in its current state.

    Args:
        trainer: The driver's trainer.
        kind: Its class.
        attributes: Attributes set by a subclass.
        own_loader: Whether a subclass creates the training batches itself, from the dataset.
    """
    kept = trainer.callback_handler.callbacks
    return TrainerSpec(
        kind=kind,
        options={
            "model": trainer.model,
            "args": trainer.args,
            "train_dataset": trainer.train_dataset if own_loader else None,
            "eval_dataset": names_of(trainer.eval_dataset),
            "loss": trainer.loss,
            "evaluator": trainer.evaluator,
            "data_collator": trainer.user_collator,
            "compute_metrics": trainer.compute_metrics,
            "callbacks": trainer.own_callbacks(),
            "optimizers": (trainer.optimizer, trainer.lr_scheduler),
            "optimizer_cls_and_kwargs": trainer.optimizer_cls_and_kwargs,
            "preprocess_logits_for_metrics": trainer.preprocess_logits_for_metrics,
        },
        removed=[type(one) for one in trainer.default_callbacks if not any(one is other for other in kept)],
        attributes=attributes,
        state=_written(trainer.state),
    )


def _written(state: TrainerState) -> str:
    return json.dumps(dataclasses.asdict(state))


def _restore(trainer: HfLoop, state: str) -> None:
    """Sets a trainer's state to that of another process, but with its own rank."""
    current = trainer.state
    trainer.state = TrainerState(**json.loads(state))
    trainer.state.is_local_process_zero = current.is_local_process_zero
    trainer.state.is_world_process_zero = current.is_world_process_zero


def show_progress(trainer: HfLoop, removed: Sequence[type[TrainerCallback]] = ()) -> None:
    """Replaces transformers' bar or printer on a worker with one suited to a cluster's log.

    Args:
        trainer: The worker's trainer.
        removed: Default callbacks that the user removed; with the bar or printer, nothing is shown.
    """
    unwanted = (*removed, ProgressCallback, PrinterCallback)
    for callback in trainer.default_callbacks:
        if type(callback) in unwanted:
            trainer.remove_callback(callback)
    if not any(issubclass(kind, (ProgressCallback, PrinterCallback)) for kind in removed):
        trainer.add_callback(ProgressReport(trainer.worker.open_bar, notes.info))


def _let_schedule_see_steps(optimizer: Any, schedule: LRScheduler | None) -> None:
    """Lets a schedule see its optimizer's steps: torch's marker on the optimizer is not pickled."""
    if optimizer is None or schedule is None or hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    step = optimizer.step

    @functools.wraps(step)
    def seen(*args: Any, **kwargs: Any) -> Any:
        optimizer._opt_called = True
        return step(*args, **kwargs)

    seen._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = seen


def train_task(trainer: HfLoop, resume_from: str | None) -> RunResult:
    """Trains in a worker and packs the result for the driver."""
    result = trainer.train(resume_from_checkpoint=resume_from)
    trainer.restore_types()
    return RunResult(result=result, state=_written(trainer.state), **_noted(trainer))


def _noted(trainer: HfLoop) -> dict[str, Any]:
    """What a task produces besides its result: callback attributes and the model's card."""
    return {
        # Tensors of a GPU cannot be loaded by a driver without one.
        "callbacks": on_host(tuple(_sendable(vars(callback)) for callback in trainer.received_callbacks)),
        "card": trainer.family.card(trainer.model),
    }


def _sendable(attributes: dict[str, Any]) -> dict[str, Any]:
    """The picklable attributes: an open file or a lock in a callback must not lose a trained model."""
    sendable = {}
    for name, value in attributes.items():
        try:
            on_host(value)
        except (pickle.PicklingError, TypeError, AttributeError):
            notes.info(
                f"a callback's attribute {name!r} ({type(value).__name__}) cannot be sent to the driver"
            )
        else:
            sendable[name] = value
    return sendable


def evaluate_task(trainer: HfLoop, resume_from: str | None, prefix: str = "eval") -> RunResult:
    """Evaluates in a worker."""
    metrics = trainer.evaluate(metric_key_prefix=prefix)
    return RunResult(result=metrics, state=_written(trainer.state), **_noted(trainer))


def predict_task(trainer: HfLoop, resume_from: str | None, prefix: str = "test") -> RunResult:
    """Predicts in a worker."""
    of_context: Any = None  # the worker's context holds the rows
    return RunResult(result=trainer.predict(of_context, metric_key_prefix=prefix), **_noted(trainer))


def take_over(trainer: HfLoop, outcome: RunResult) -> WeightsToCome | None:
    """Updates the driver's trainer as if the task had run there.

    Args:
        trainer: The driver's trainer.
        outcome: What the first worker sent back.

    Returns:
        The trained weights, if they are too large to be downloaded before they are used.
    """
    to_come = None
    if outcome.weights:
        assert outcome.store is not None, "the driver has the run's folder"
        to_come = _take_weights(trainer, outcome.store, outcome.weights)
    if outcome.card is not None:
        trainer.model.model_card_data = outcome.card
    if outcome.state:
        _restore(trainer, outcome.state)
    for callback, attributes in zip(trainer.own_callbacks(), outcome.callbacks, strict=True):
        vars(callback).update(attributes)
    vars(trainer).update(outcome.extras)
    return to_come


def _take_weights(trainer: HfLoop, store: CheckpointStore, name: str) -> WeightsToCome | None:
    if not store.is_local and store.size_of(name) > trainer.args.eager_download_bytes:
        notes.info(f"the trained weights are in {store.location(name)}; they are read when the model is used")
        return WeightsToCome(trainer.model, trainer.loss, lambda: store.fetch_file(name))
    take_trained(store.fetch_file(name), trainer.model, trainer.loss)
    store.delete_files(TRAINED, but=name)
    return None
