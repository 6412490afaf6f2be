"""A search on Ray Tune: it runs the trials that a study asks for, several at a time, and stops losers."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.tune.search import Searcher
from ray.tune.trainable import wrap_function

from ray_st.runtime.cluster import default_scaling
from ray_st.runtime.launch import workers_of
from ray_st.runtime.storage import open_store
from ray_st.runtime.tuning_schedulers import OBJECTIVE, make_scheduler, remember
from ray_st.runtime.tuning_trial import NAME, NUMBER, VALUES, TrialKit, run_trial
from ray_st.training.checkpoint import CheckpointStore
from ray_st.training.progress import write_line

_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the records are ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial reports no objective
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interrupted search is interrupted, and goes on when started again
    "RAY_AIR_NEW_OUTPUT": "0",
}
_RAY_FOLDER = "ray"
_DRIVER_BYTES = 1_000_000  # Ray refuses a placement group of nothing


class Asked(Protocol):
    """What a study wants to be run."""

    number: int
    values: dict[str, Any]
    name: str


class Record(Asked, Protocol):
    """What is known of a trial."""

    state: str
    history: list[dict[str, Any]]


class Study(Protocol):
    """Suggests parameters and is told what became of them."""

    @property
    def left(self) -> int:
        """How many trials are still to be run."""

    @property
    def records(self) -> Sequence[Record]:
        """The trials so far."""

    def ask(self) -> Asked | None:
        """The next trial, or None if there are enough."""

    def report(self, number: int, evaluation: int, step: int, objectives: Any, **facts: Any) -> None:
        """Notes an evaluation."""

    def tell(self, number: int, state: str, reason: str = "") -> Any:
        """Notes how a trial ended."""


@dataclass(frozen=True)
class Need:
    """What a trial asks of the cluster.

    Args:
        each: What a worker gets, by the name of the resource.
        scaling: How a trial on several workers is scaled; None for one that runs in its own process.
    """

    each: Mapping[str, float]
    scaling: ScalingConfig | None = None

    @classmethod
    def of(cls, scaling: ScalingConfig | None, asked: Mapping[str, float] | None) -> Need:
        """The need of a trial.

        Args:
            scaling: The user's scaling, or None.
            asked: Resources of a trial on one worker, or None.

        Raises:
            ValueError: If both say something, or an amount is none.
        """
        workers = 1 if scaling is None else workers_of(scaling)
        if asked is not None and workers > 1:
            raise ValueError(
                "resources_per_trial is for trials on one worker; several get scaling_config.resources_per_worker each."
            )
        if scaling is not None and workers > 1:
            return cls(_of_worker(scaling), scaling)
        if asked is None:
            return cls(_of_worker(default_scaling() if scaling is None else scaling))
        for name, amount in asked.items():
            if not isinstance(amount, int | float) or isinstance(amount, bool) or amount < 0:
                raise ValueError(f"resources_per_trial[{name!r}]: expected a number, found {amount!r}.")
        return cls({_ray_name(name): float(amount) for name, amount in asked.items() if amount})

    @property
    def workers(self) -> int:
        """How many workers a trial has."""
        return 1 if self.scaling is None else workers_of(self.scaling)

    def room(self) -> int:
        """How many trials the cluster holds at a time, as it is now."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = sum(_fitting(node, self.each) for node in nodes)
        return workers // self.workers

    def check(self) -> None:
        """Refuses trials that need more than the cluster has; they would wait for ever.

        Raises:
            ValueError: With both figures.
        """
        if self.room() < 1:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            found = [{name: node.get(name, 0.0) for name in self.each} for node in nodes]
            raise ValueError(
                f"A trial needs {self.workers} worker(s) with {dict(self.each)} each; the cluster's nodes have {found}. "
                "Lower resources_per_trial or scaling_config, or add nodes."
            )


def _of_worker(scaling: ScalingConfig) -> dict[str, float]:
    each: dict[str, float] = dict(scaling.resources_per_worker or {})  # type: ignore[arg-type]
    each.setdefault("GPU" if scaling.use_gpu else "CPU", 1)
    return {name: float(amount) for name, amount in each.items() if amount}


def _fitting(node: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many workers a node holds."""
    return min((int(node.get(name, 0) / amount + 1e-6) for name, amount in each.items()), default=1_000)


@dataclass(frozen=True)
class Settings:
    """How a search is run.

    Args:
        folder: Its folder on this machine.
        direction: ``minimize`` or ``maximize``, of the first objective.
        scheduler: As for :func:`ray_st.runtime.tuning_schedulers.make_scheduler`; None for none.
        grace_period: Evaluations that a trial has before it can be stopped.
        reduction_factor: One in how many trials goes on at each rung.
        need: What a trial asks of the cluster.
        concurrent: Most trials at a time; None for as many as there is room for.
        max_failures: How often a trial whose process is lost is started again.
        time_budget_s: Seconds for the whole search; None for no limit.
    """

    folder: Path
    direction: str
    scheduler: Any
    grace_period: int
    reduction_factor: int
    need: Need
    concurrent: int | None
    max_failures: int
    time_budget_s: float | None


class StudySearcher(Searcher):
    """A study as a searcher of Ray Tune, truthful about how trials end.

    Args:
        study: The study.
        limit: Gives the most trials at a time, as the cluster is now.
        ended: Called after a trial's end is noted.
    """

    def __init__(self, study: Study, limit: Callable[[], int], ended: Callable[[Any], None]) -> None:
        super().__init__(metric="objective", mode="max")  # schedulers get theirs from the tuner
        self._study, self._limit, self._ended = study, limit, ended
        self._numbers: dict[str, int] = {}
        self.spoilt: str | None = None

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        """Takes nothing from the tuner: the study knows its space and directions."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration; None while there is no room, FINISHED when there are enough."""
        if self.spoilt is not None:
            return Searcher.FINISHED
        if len(self._numbers) >= self._limit():
            return None
        asked = self._study.ask()
        if asked is None:
            return Searcher.FINISHED
        self._numbers[trial_id] = asked.number
        return {NUMBER: asked.number, VALUES: asked.values, NAME: asked.name}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Notes an evaluation."""
        if trial_id in self._numbers and "objective" in result:
            self._study.report(self._numbers[trial_id], **_evaluation(result))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Notes how a trial ended; Ray says of stopped, failed and finished ones only that they are done."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        found = result or {}
        if "objective" in found:
            self._study.report(number, **_evaluation(found))
        state, reason = ending(found, error)
        if found.get("spoils_search"):
            self.spoilt = reason
        self._ended(self._study.tell(number, state, reason))

    def stop_rest(self) -> None:
        """Notes that trials were stopped that ran when the time was up."""
        for number in self._numbers.values():
            self._ended(self._study.tell(number, "PRUNED"))
        self._numbers.clear()

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study writes down each event."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def ending(result: Mapping[str, Any], error: bool) -> tuple[str, str]:
    """How a trial ended, and why if it failed.

    Args:
        result: Its last report.
        error: Whether its process was lost or raised.
    """
    if "fault" in result:
        return "FAIL", str(result["fault"])
    if error:
        return "FAIL", "its process was lost, or raised an error; see the log of the trial"
    if "objective" not in result:
        return "FAIL", "it ended without an evaluation"
    return ("COMPLETE" if result["ended"] else "PRUNED"), ""


def _evaluation(result: Mapping[str, Any]) -> dict[str, Any]:
    prefix = "metrics/"
    return {
        "evaluation": result["evaluation"],
        "step": result["step"],
        "objectives": result["objectives"],
        "samples": result["samples"],
        "seconds": result["seconds_here"],
        "metrics": {k.removeprefix(prefix): v for k, v in result.items() if k.startswith(prefix)},
    }


def search_store(run_config: RunConfig | None, folder: Path) -> CheckpointStore:
    """Where trials keep their checkpoints: in the search's folder, or where the user's configuration has storage.

    Args:
        run_config: The user's, or None.
        folder: The search's folder on this machine.
    """
    if run_config is None or run_config.storage_path is None:
        return CheckpointStore(str(folder))
    named = dataclasses.replace(run_config, name=f"{run_config.name or 'searches'}/{folder.name}")
    return open_store(named, folder.name)


def run_search(study: Study, kit: TrialKit, settings: Settings, ended: Callable[[Any], None]) -> None:
    """Runs a study's trials until there are enough.

    Args:
        study: The study.
        kit: What all trials share.
        settings: How to run them.
        ended: Called on the driver after each trial's end is noted.
    """
    mode = settings.direction[:3]
    scheduler = make_scheduler(settings.scheduler, mode, settings.grace_period, settings.reduction_factor)
    remember(scheduler, [record.history for record in study.records if record.state != "RUNNING"])
    most = settings.concurrent or 1_000_000
    searcher = StudySearcher(study, lambda: min(most, max(settings.need.room(), 1)), ended)
    trainable = tune.with_resources(_trainable(kit), tune.PlacementGroupFactory([_bundle(settings.need)]))
    users = scheduler is settings.scheduler
    with _environment(settings.folder / _RAY_FOLDER) as folder:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                metric=OBJECTIVE if users else None,
                mode=mode if users else None,
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=study.left,
                reuse_actors=True,
                time_budget_s=settings.time_budget_s,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=settings.max_failures),
                callbacks=[_Losses()],
                verbose=0,
            ),
        ).fit()
    searcher.stop_rest()
    if searcher.spoilt is not None:
        raise ValueError(searcher.spoilt)


def _trainable(kit: TrialKit) -> Any:
    """A trial as Ray Tune's trainable, whose process ends only when its trial has."""
    function: Any = wrap_function(tune.with_parameters(run_trial, kit=kit), name="trial")

    class Trial(function):
        def cleanup(self) -> None:
            from ray_st.runtime.tuning_trial import ENDED, ENDING_S  # of the trial's process

            super().cleanup()
            ENDED.wait(ENDING_S)

    return Trial


class _Losses(tune.Callback):
    """Says why a trial's process was lost; the searcher is only told that it was."""

    def on_trial_recover(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._say(trial, "it is started again")

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        self._say(trial, "it is given up")

    def _say(self, trial: Any, what: str) -> None:
        lines = [line for line in str(trial.get_error() or "").splitlines() if line.strip()]
        write_line(
            f"trial {trial.config[NUMBER]} was lost, {what}: {lines[-1] if lines else 'no reason known'}"
        )


def _bundle(need: Need) -> dict[str, float]:
    """What Ray Tune sets aside for a trial's own process: all, or next to nothing where workers do the work."""
    return dict(need.each) if need.scaling is None else {"CPU": 0, "memory": _DRIVER_BYTES}


def _ray_name(name: str) -> str:
    """Ray Tune's users write cpu and gpu, its placement groups CPU and GPU."""
    return name.upper() if name in ("cpu", "gpu") else name


@contextmanager
def _environment(folder: Path) -> Iterator[Path]:
    """Settings of Ray Tune that it only takes from the environment, and its own files, which nothing here needs."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # how trials ended is told from the records
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        logger.setLevel(level)
        shutil.rmtree(folder, ignore_errors=True)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
