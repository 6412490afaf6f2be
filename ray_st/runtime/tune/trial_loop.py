"""One trial of a search, in a process that has run others: the training loop, its evaluations reported to Ray Tune."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from accelerate.state import AcceleratorState, GradientState
from ray import tune
from ray.train import ScalingConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ray_st.runtime.supervision.failures import REPEATABLE, RunStopped
from ray_st.runtime.supervision.supervisor import STEP_LIMIT
from ray_st.runtime.tune.hung_trials import watched_here
from ray_st.runtime.tune.shared_data import SharedData, source_here
from ray_st.training.callbacks.progress_report import ProgressReport
from ray_st.training.callbacks.watchdog import STEP_LIMIT_S, at_rest
from ray_st.training.checkpoint.resume import fetched, own_newest
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.dataset_specs import prompt_lengths
from ray_st.training.data.source_builder import facts_of, sources_of
from ray_st.training.data.specs import TRAIN, LoaderSpec, eval_names
from ray_st.training.trainer_spec import TrainerSpec
from ray_st.training.worker_context import WorkerContext
from ray_st.world import World

NUMBER, VALUES, NAME, KNOWN = "number", "values", "name", "known"
"""Keys of what Ray Tune hands to a trial: the last is how many of its evaluations the study knows."""

ENDING_S = 60
"""Seconds that a stopped trial has to leave its process, and its workers, in order."""

ENDED = threading.Event()
"""Set where no trial runs in this process."""
ENDED.set()


class Candidate(Protocol):
    """A trial, ready to run."""

    @property
    def shell(self) -> Any:
        """Makes its data parts."""

    @property
    def description(self) -> TrainerSpec:
        """Makes its trainer at a place."""


@dataclass(frozen=True)
class TrialContext:
    """What all trials of a search share.

    Args:
        make: Makes a trial from its number, its parameters and its name.
        objective: Gives the values of the objectives from the figures of an evaluation.
        data: The encoded datasets.
        store: The search's folder, for checkpoints.
        search_id: Names the search in manifests.
        scaling: How a trial on several workers is scaled; None for one in its own process.
        keeps: Whether a trial has a checkpoint of an evaluation, by its number, when it tells of it; None for none.
        step_limit_s: Seconds without progress after which a trial's step counts as hung.
    """

    make: Callable[[int, Mapping[str, Any], str], Candidate]
    objective: Callable[[Mapping[str, float]], tuple[float, ...]]
    data: SharedData
    store: CheckpointStore
    search_id: str
    scaling: ScalingConfig | None = None
    keeps: Callable[[int], bool] | None = None
    step_limit_s: float = STEP_LIMIT_S

    def trial_store(self, number: int) -> CheckpointStore:
        """Where a trial keeps its checkpoints."""
        path = self.store.location(f"run-{number}")
        return CheckpointStore(path, self.store.filesystem, f"{self.search_id}-{number}", self.store.fence)


def run_trial(config: dict[str, Any], kit: TrialContext) -> None:
    """Runs a trial, as Ray Tune calls it.

    An error that would come again is reported, not raised: the trial has failed, the process is good for the next.

    Args:
        config: Number, parameters and name.
        kit: What all trials share.
    """
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", str(ENDING_S))  # a stopped trial cleans up first
    os.environ[STEP_LIMIT] = str(kit.step_limit_s)  # the driver's; for trials on several workers
    ENDED.clear()
    start = time.monotonic()

    def send(report: dict[str, Any]) -> None:
        values = kit.objective(report["metrics"])
        if not all(math.isfinite(value) for value in values):
            raise ValueError(f"the objective is {list(values)} at step {report['step']}")
        seconds = round(time.monotonic() - start, 3)
        tune.report({**report, "objective": values[0], "objectives": list(values), "seconds_here": seconds})

    try:
        if kit.scaling is None:
            _train_here(config, kit, send)
        else:
            from ray_st.runtime.tune.trial_workers import train_on_workers

            train_on_workers(config, kit, send)
    except (*REPEATABLE, torch.OutOfMemoryError, RunStopped) as error:
        spoils = getattr(error, "spoils_search", False)
        tune.report({"fault": f"{type(error).__name__}: {error}", "spoils_search": spoils})
    finally:
        _forget()
        ENDED.set()


def _train_here(config: Mapping[str, Any], kit: TrialContext, send: Callable[[dict[str, Any]], None]) -> None:
    """Runs a trial on one worker, which is this process."""
    candidate = kit.make(config[NUMBER], config[VALUES], config[NAME])
    specs = data_parts(candidate.shell, 1)
    built = {name: source_here(name, spec, kit.data) for name, spec in specs.items()}
    sources = sources_of(built)
    store = kit.trial_store(config[NUMBER])
    place = WorkerContext(
        World(),
        store,
        train=sources[TRAIN],
        evals=eval_names(sources),
        prompt_lengths=prompt_lengths(specs),
        facts=facts_of(built),
    )
    trainer = build(candidate.description, place)
    Reports(send, kit.keeps, config[KNOWN]).attach(trainer)
    start = fetched(store, own_newest(store))
    with watched_here(trainer, store, kit.step_limit_s):
        trainer.train(resume_from_checkpoint=start.path)
        evaluate_end(trainer)


def build(description: TrainerSpec, place: WorkerContext) -> Any:
    """Makes a trial's trainer, which keeps its progress to itself: the search tells of it."""
    trainer = description.rebuild(place)
    trainer.remove_callback(ProgressReport)
    return trainer


def data_parts(shell: Any, workers: int) -> dict[str, LoaderSpec]:
    """A trial's data parts: what it trains on, and all that it is evaluated on at the end."""
    return {**shell._train_parts(workers), **shell._eval_parts(shell.eval_dataset, workers)}


def evaluate_end(trainer: Any) -> None:
    """Evaluates a trained trial as training does, unless its last step was, or it was stopped."""
    reports = trainer.on_evaluated
    if reports.stopped or reports.step == trainer.state.global_step:
        return
    trainer.is_in_train = True  # outside of training metrics have other names where datasets are named
    try:
        reports(trainer, trainer.evaluate())
    finally:
        trainer.is_in_train = False


class Reports(TrainerCallback):
    """Makes a report of each evaluation.

    Args:
        send: Takes a report.
        keeps: Whether there is to be a checkpoint of an evaluation, by its number; None for no.
        known: How many evaluations were reported, and noted, before.

    Attributes:
        step: The step of the last one; -1 before the first.
        stopped: Whether the trial was told to stop.
    """

    def __init__(
        self,
        send: Callable[[dict[str, Any]], Any],
        keeps: Callable[[int], bool] | None = None,
        known: int = 0,
    ) -> None:
        self._send, self._keeps, self._known = send, keeps, known
        self._trainer: Any = None
        self.step, self.stopped = -1, False

    def attach(self, trainer: Any) -> None:
        """Begins to report a trainer's evaluations."""
        self._trainer = trainer
        trainer.on_evaluated = self
        trainer.add_callback(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Reports what the checkpoint's log has and the study does not know.

        A checkpoint is written before its evaluation is noted: whoever is killed in between would never tell of it.
        """
        for number, (step, metrics) in enumerate(logged(state.log_history), 1):
            # Those that wait for others do not tell of what was before their first step.
            if number > self._known and (step or self._keeps is None) and not self.stopped:
                self._report(number, step, metrics)

    def __call__(self, trainer: Any, metrics: Mapping[str, float]) -> None:
        """Reports the figures of an evaluation."""
        number = len(logged(trainer.state.log_history))
        if self._keeps is not None and self._keeps(number):
            trainer.save_now()
        self._report(number, trainer.state.global_step, metrics)

    def _report(self, number: int, step: int, metrics: Mapping[str, float]) -> None:
        self.step = step
        report = {
            "evaluation": number,
            "step": step,
            "ended": step >= self._trainer.state.max_steps,
            "samples": step * _rows_of_step(self._trainer),
            "metrics": {name: float(value) for name, value in metrics.items()},
        }
        with at_rest(self._trainer.callback_handler.callbacks):  # at a rung a trial may wait for hours
            self._send(report)


def logged(history: Sequence[Mapping[str, Any]]) -> list[tuple[int, dict[str, float]]]:
    """The evaluations in a trainer's log, in order: for each its step, and the figures of all its datasets.

    Args:
        history: The log.
    """
    found: dict[int, dict[str, float]] = {}
    for entry in filter(_is_evaluation, history):
        figures = {name: value for name, value in entry.items() if name != "step"}
        found.setdefault(entry["step"], {}).update(figures)
    return list(found.items())


def _is_evaluation(entry: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval_") for name in entry)


def _rows_of_step(trainer: Any) -> int:
    args = trainer.args
    batch = args.global_train_batch_size or args.per_device_train_batch_size * trainer.here.world.size
    return int(batch * args.gradient_accumulation_steps)


def _forget() -> None:
    """Clears what a trial leaves in a process: accelerate's state (precision, accumulation), cycles, spare memory."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # another trial may share the GPU
    # glibc keeps what was freed in heaps of threads that are gone: a process grew by GBs over a dozen trials.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
