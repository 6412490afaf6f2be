"""Background evaluation on Ray.

One actor with its own resources evaluates; a lightweight one stores the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import ScalingConfig

from ray_st.runtime.cluster.pickled_ref import PickledRef
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.training.async_eval.protocol import EvalRequest, EvalResult, evaluate_request, stand_in
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.specs import TRAIN, eval_names
from ray_st.training.worker_context import WorkerContext
from ray_st.world import World

RESTARTS = 3
"""How many times a lost evaluation process is replaced; its request is then repeated."""


@dataclass(frozen=True)
class BackgroundEval:
    """How a run is evaluated in the background.

    Args:
        store: The run's folder.
        ranks: Number of its workers.
        resources: Resources of the evaluation process, by name.
    """

    store: CheckpointStore
    ranks: int
    resources: Mapping[str, float]


def resources_beside(asked: Mapping[str, float] | None, scaling: ScalingConfig) -> dict[str, float]:
    """The resources of the evaluation process.

    Those the user requested; by default one GPU if workers use GPUs, else one CPU.

    Args:
        asked: Amounts by resource name, or None.
        scaling: The workers' scaling config.
    """
    return dict(asked) if asked else {"GPU" if scaling.use_gpu else "CPU": 1}


@dataclass(frozen=True)
class EvalSetup:
    """What the evaluation process needs to know about a run.

    Args:
        sealed: The run, pickled.
        sources: Its evaluation datasets, by name.
        store: The run's folder.
        ranks: Number of its workers.
    """

    sealed: PickledRef
    sources: Mapping[str, RayBatchSource]
    store: CheckpointStore
    ranks: int


class EvalWorker:
    """The evaluation process; handles one request at a time.

    Each request carries the settings, so a replacement needs no earlier state.
    """

    _trainer: Any = None

    def prepare(self, setting: EvalSetup) -> None:
        """Creates the trainer if it does not exist yet."""
        if self._trainer is None:
            run = setting.sealed.open()
            sources = eval_names(setting.sources)
            place = WorkerContext(World(), setting.store, evals=sources, prompt_lengths=run.prompt_lengths)
            self._trainer = run.build(place)
            stand_in(self._trainer, setting.ranks)

    def evaluate(self, setting: EvalSetup, request: EvalRequest) -> EvalResult:
        """The metrics of the checkpoint of a step."""
        self.prepare(setting)
        return evaluate_request(self._trainer, request)


class EvalRequestLog:
    """Keeps requests and results; survives restarts of the workers.

    Args:
        evaluating: The evaluation actor.
        setting: What it needs to know.
    """

    def __init__(self, evaluating: Any, setting: EvalSetup) -> None:
        self._evaluating, self._setting = evaluating, setting
        self._requested: dict[int, tuple[EvalRequest, Any]] = {}
        # Runs while the workers start; an error surfaces with the first result.
        evaluating.prepare.remote(setting)

    def known(self) -> list[int]:
        """The steps that were requested."""
        return sorted(self._requested)

    def request(self, request: EvalRequest) -> None:
        """Requests evaluation of a step, unless already requested."""
        if request.step not in self._requested:
            self._requested[request.step] = request, self._evaluating.evaluate.remote(self._setting, request)

    def results(self, steps: Sequence[int], wait_s: float) -> list[EvalResult]:
        """The available results for some steps; blocks until there is at least one."""
        asked = [self._requested[step] for step in sorted(steps) if step in self._requested]
        references = [reference for _, reference in asked]
        if references:
            ray.wait(references, num_returns=1, timeout=wait_s)
        there, _ = ray.wait(references, num_returns=len(references), timeout=0) if references else ([], [])
        return [_fetched(request, reference) for request, reference in asked if reference in there]

    def forget(self, after: int) -> None:
        """Drops requests and results of later steps."""
        self._requested = {step: kept for step, kept in self._requested.items() if step <= after}


def _fetched(request: EvalRequest, reference: Any) -> EvalResult:
    try:
        found: EvalResult = ray.get(reference)
    except RayError as error:  # the evaluation failed, or its process was lost
        return EvalResult(request.step, request.epoch, error=str(error))
    return found


class RayEvalQueue:
    """The queue passed to workers; see :class:`ray_st.training.async_eval.protocol.EvalQueue`.

    Args:
        resources: Resources of the evaluation process, by name.
        setting: What it needs to know.
    """

    def __init__(self, resources: Mapping[str, float], setting: EvalSetup) -> None:
        options = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS, **_options(resources)}
        log: Any = ray.remote(num_cpus=0)(EvalRequestLog)
        self._evaluating: Any = ray.remote(EvalWorker).options(**options).remote()
        self._log = log.remote(self._evaluating, setting)

    def known(self) -> list[int]:
        """The steps that were requested."""
        return ray.get(self._log.known.remote())

    def request(self, request: EvalRequest) -> None:
        """Requests evaluation of a step."""
        ray.get(self._log.request.remote(request))

    def results(self, steps: Sequence[int], wait_s: float) -> list[EvalResult]:
        """The available results for some steps."""
        return ray.get(self._log.results.remote(list(steps), wait_s))

    def forget(self, after: int) -> None:
        """Drops requests and results of later steps."""
        ray.get(self._log.forget.remote(after))

    def close(self) -> None:
        """Stops its processes."""
        for actor in (self._log, self._evaluating):
            ray.kill(actor)


@contextmanager
def open_queue(
    beside: BackgroundEval | None, sealed: PickledRef, sources: Mapping[str, RayBatchSource]
) -> Iterator[RayEvalQueue | None]:
    """The queue of a run, for as long as the context is open.

    Args:
        beside: How the run is evaluated in the background; None if its workers evaluate, which needs no
            queue.
        sealed: The run, pickled.
        sources: Its datasets, by name.
    """
    if beside is None:
        yield None
        return
    evals = {name: source for name, source in sources.items() if name != TRAIN}
    queue = RayEvalQueue(beside.resources, EvalSetup(sealed, evals, beside.store, beside.ranks))
    try:
        yield queue
    finally:
        queue.close()


def _options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Resources under the names that Ray's options use."""
    rest = dict(resources)
    options: dict[str, Any] = {"num_cpus": rest.pop("CPU", 0), "num_gpus": rest.pop("GPU", 0)}
    if "memory" in rest:
        options["memory"] = rest.pop("memory")
    return {**options, "resources": rest} if rest else options
