"""One trial of a search, in a process that may have run others: it trains, and reports evaluations."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray import tune
from ray.train import ScalingConfig
from ray.tune.result import RESULT_DUPLICATE
from ray.tune.trainable import FunctionTrainable
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.handles import PickledRef
from ray_st.runtime.supervision.failures import RunStopped
from ray_st.runtime.supervision.supervisor import STEP_LIMIT
from ray_st.runtime.train.forget_run import forget_run
from ray_st.runtime.tune.dominance_scheduler import VIOLATION
from ray_st.runtime.tune.hung_trials import watched_here
from ray_st.runtime.tune.kept_workers import send_home
from ray_st.runtime.tune.shared_data import SharedData, source_here
from ray_st.runtime.tune.trial_measures import TrialMeasures
from ray_st.study.constraints import broken_for_good, ranked_value, total
from ray_st.study.kept_weights import Saving
from ray_st.study.objective import Objective, ObjectiveError, finite
from ray_st.training.callbacks.progress_report import ProgressReport
from ray_st.training.callbacks.watchdog import at_rest
from ray_st.training.checkpoint.node_copy import own_start
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import prompt_lengths
from ray_st.training.data.source_builder import facts_of, sources_of
from ray_st.training.data.specs import TRAIN, LoaderSpec, eval_names
from ray_st.training.loop.hf_loop import HfLoop
from ray_st.training.trainer_spec import TrainerSpec, Trial
from ray_st.training.worker_context import WorkerContext
from ray_st.util.endings import REPEATABLE
from ray_st.world import World

NUMBER, VALUES, NAME, KNOWN = "number", "values", "name", "known"
"""Keys of what Ray Tune hands to a trial; the last is the number of its evaluations that are recorded."""

BROKEN = "broken"
"""Key of a report's text of a constraint that the trial can never satisfy; it is stopped then."""

ENDING_S = 60
"""Seconds a stopped trial has to clean up its process and its workers."""

ENDED = threading.Event()
"""Set where no trial runs in this process."""
ENDED.set()


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a search share.

    Args:
        make: Makes a trial from its number, its hyperparameters and its name.
        objective: Computes the objectives from the metrics of an evaluation, and what violates constraints.
        data: The encoded datasets.
        store: The search's folder, for checkpoints.
        search_id: Names the search in manifests.
        scaling: How a trial on several workers is scaled; None for one in its own process.
        must_checkpoint: Called with the evaluation index: must the trial checkpoint before reporting? None
            means never.
        step_limit_s: Seconds without progress after which a trial's step counts as hung; None to learn it.
        saving: After which evaluations a trial saves its weights, besides what ``save_strategy`` says.
    """

    make: Callable[[int, Mapping[str, Any], str], Trial]
    objective: Objective
    data: SharedData
    store: CheckpointStore
    search_id: str
    scaling: ScalingConfig | None = None
    must_checkpoint: Callable[[int], bool] | None = None
    step_limit_s: float | None = None
    saving: Saving = Saving.NEVER

    def trial_store(self, number: int) -> CheckpointStore:
        """Where a trial keeps its checkpoints."""
        path = self.store.location(f"run-{number}")
        return CheckpointStore(path, self.store.filesystem, f"{self.search_id}-{number}", self.store.fence)


@dataclass(frozen=True)
class PickledFactory:
    """Makes each trial with a fresh copy of what all trials share; models travel without their weights.

    Args:
        factory: As ``make`` of a :class:`TrialContext`.
    """

    factory: PickledRef[Callable[[int, Mapping[str, Any], str], Trial]]

    def __call__(self, number: int, values: Mapping[str, Any], name: str) -> Trial:
        """Makes a trial."""
        return self.factory.open()(number, values, name)


class TrialTrainable(FunctionTrainable):
    """A trial as Ray Tune's trainable, whose process ends only when its trial has."""

    _name = "trial"

    def __repr__(self) -> str:
        return self._name  # Ray puts it before each line of the process

    def setup(self, config: dict[str, Any], kit: Sequence[ray.ObjectRef[TrialContext]] = ()) -> None:
        """Prepares the process.

        Args:
            config: As for :func:`run_trial`.
            kit: One reference to what all trials share: each trial in this process gets a copy of its own.
        """
        (self._kit,) = kit
        super().setup(config)

    def _trainable_func(self, config: dict[str, Any]) -> None:
        run_trial(config, ray.get(self._kit))
        tune.report({RESULT_DUPLICATE: True})  # tells Ray that there are no more reports

    def cleanup(self) -> None:
        """Waits for the trial, which has a thread of its own."""
        super().cleanup()
        ENDED.wait(ENDING_S)
        send_home()


def run_trial(config: dict[str, Any], kit: TrialContext) -> None:
    """Runs a trial, as Ray Tune calls it.

    An error that would recur is reported, not raised: the trial has failed, the process can run the next one.

    Args:
        config: Number, hyperparameters and name.
        kit: What all trials share.
    """
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(ENDING_S))  # a stopped trial cleans up first
    if kit.step_limit_s is not None:
        os.environ[STEP_LIMIT] = str(kit.step_limit_s)  # the driver's; for trials on several workers
    ENDED.clear()
    start = time.monotonic()

    def send(report: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - start, 3)
        tune.report({**rated(report, kit.objective), "seconds_here": seconds})

    try:
        if kit.scaling is None:
            _train_here(config, kit, send)
        else:
            from ray_st.runtime.tune.trial_workers import train_on_workers

            train_on_workers(config, kit, send)
    except (*REPEATABLE, torch.OutOfMemoryError, RunStopped) as error:
        fatal = isinstance(error, ObjectiveError)  # every other trial would fail in the same way
        tune.report({"fault": f"{type(error).__name__}: {error}", "fatal": fatal})
    finally:
        forget_run()
        ENDED.set()


def rated(report: Mapping[str, Any], objective: Objective) -> dict[str, Any]:
    """A report with the objectives, with what violates the constraints, and with what schedulers rank it by.

    Args:
        report: The report of an evaluation.
        objective: The search's.

    Raises:
        ObjectiveError: If a metric is missing that the objective or a constraint names.
        ValueError: If an objective, or the metric of a constraint, is infinite or NaN.
    """
    values, violations = objective(report["metrics"]), objective.violations(report["metrics"])
    if not finite(values):
        raise ValueError(f"the objective is {list(values)} at step {report['step']}")
    if not finite(list(violations.values())):
        raise ValueError(f"constraints are violated by {violations} at step {report['step']}")
    found = {
        **report,
        "objective": ranked_value(values[0], violations, objective.maximize),
        "objectives": list(values),
        "violations": violations,
        VIOLATION: total(violations),
    }
    broken = broken_for_good(violations)
    return {**found, BROKEN: broken} if broken and not report["ended"] else found


def _train_here(config: Mapping[str, Any], kit: TrialContext, send: Callable[[dict[str, Any]], None]) -> None:
    """Runs a trial on one worker, which is this process."""
    take_granted_device()
    measures = TrialMeasures(kit.objective.measures)
    trial = kit.make(config[NUMBER], config[VALUES], config[NAME])
    specs = data_parts(trial, 1)
    built = {name: source_here(name, spec, kit.data) for name, spec in specs.items()}
    sources = sources_of(built)
    store = kit.trial_store(config[NUMBER])
    context = WorkerContext(
        World(),
        store,
        train=sources[TRAIN],
        evals=eval_names(sources),
        prompt_lengths=prompt_lengths(specs),
        facts=facts_of(built),
    )
    trainer = build(trial.description, context)
    Reports(send, kit.must_checkpoint, config[KNOWN], measures, kit.saving).attach(trainer)
    start = own_start(store, context.world)
    with watched_here(trainer, store, kit.step_limit_s):
        trainer.train(resume_from_checkpoint=None if start is None else start.path)
        evaluate_end(trainer)


def build(description: TrainerSpec, context: WorkerContext) -> HfLoop:
    """Makes a trial's trainer, without its progress report: the search shows the progress."""
    trainer = description.rebuild(context)
    trainer.remove_callback(ProgressReport)
    return trainer


def data_parts(trial: Trial, workers: int) -> dict[str, LoaderSpec]:
    """A trial's data parts: what it trains on, and all that it is evaluated on at the end."""
    return {**trial.data.train_specs(workers), **trial.data.eval_specs(workers)}


def evaluate_end(trainer: HfLoop) -> None:
    """Evaluates a trained trial as training does, unless its last step was evaluated or it was stopped."""
    reports = trainer.on_evaluated
    assert isinstance(reports, Reports)
    if reports.stopped or reports.step == trainer.state.global_step:
        return
    trainer.is_in_train = True  # outside of training, metrics of named datasets have other names
    try:
        reports(trainer, trainer.evaluate())
    finally:
        trainer.is_in_train = False


class Reports(TrainerCallback):
    """Reports each evaluation.

    Args:
        send: Takes a report.
        must_checkpoint: Called with the evaluation index: must the trial checkpoint before reporting? None
            means never.
        known: How many evaluations are recorded already.
        measures: Measures what joins the metrics of each evaluation, on every rank; None for nothing.
        saving: After which evaluations the weights are saved, before they are reported.

    Attributes:
        step: The step of the last one; -1 before the first.
        stopped: Whether the trial was asked to stop.
        late: Whether it reports when all else of a step is done: a trial that may wait after an evaluation,
            and continue from its checkpoint with other hyperparameters, has a checkpoint of what it reported.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Any],
        must_checkpoint: Callable[[int], bool] | None = None,
        known: int = 0,
        measures: TrialMeasures | None = None,
        saving: Saving = Saving.NEVER,
    ) -> None:
        self._send, self._must_checkpoint, self._known = send, must_checkpoint, known
        self._measures, self._saving = measures, saving
        self.late = must_checkpoint is not None or saving != Saving.NEVER
        self.step, self.stopped = -1, False

    def attach(self, trainer: HfLoop) -> None:
        """Starts reporting a trainer's evaluations."""
        self._trainer = trainer
        trainer.on_evaluated = self
        trainer.add_callback(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reports evaluations that are in the checkpoint's log but not in the study's records.

        A checkpoint is written before its evaluation is recorded: a trial killed in between would never
        report it.
        """
        for number, (step, metrics) in enumerate(logged(state.log_history), 1):
            # Trials that wait for others do not report an evaluation before their first step.
            if number > self._known and (step or self._must_checkpoint is None) and not self.stopped:
                self._report(number, step, metrics)

    def __call__(self, trainer: HfLoop, metrics: Mapping[str, float]) -> None:
        """Reports the metrics of an evaluation."""
        number, step = len(logged(trainer.state.log_history)), trainer.state.global_step
        is_rung = self._must_checkpoint is not None and self._must_checkpoint(number)
        if is_rung or self._saving.after(is_last=step >= trainer.state.max_steps):
            trainer.save_now()
        self._report(number, step, metrics)

    def _report(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        self.step = step
        with at_rest(self._trainer.callback_handler.callbacks):  # a slow model takes its time
            measured = {} if self._measures is None else self._measures(self._trainer)
        report = {
            "evaluation": number,
            "step": step,
            "ended": step >= self._trainer.state.max_steps,
            "samples": step * _rows_of_step(self._trainer),
            "metrics": {name: float(value) for name, value in {**metrics, **measured}.items()},
        }
        with at_rest(self._trainer.callback_handler.callbacks):  # at a rung a trial may wait for hours
            self._send(report)


def logged(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """The evaluations in a trainer's log, in order: the step of each, and the metrics of all its datasets.

    Args:
        history: The log.
    """
    found: dict[int, dict[str, float]] = {}
    for entry in filter(_is_evaluation, history):
        metrics = {name: value for name, value in entry.items() if name != "step"}
        found.setdefault(entry["step"], {}).update(metrics)
    return list(found.items())


def _is_evaluation(entry: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in entry)


def _rows_of_step(trainer: HfLoop) -> int:
    args = trainer.args
    batch = args.global_train_batch_size or args.per_device_train_batch_size * trainer.worker.world.size
    return batch * args.gradient_accumulation_steps
