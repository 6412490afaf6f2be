"""Background evaluation on Ray.

One actor with its own resources evaluates; a lightweight one stores the results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import ScalingConfig

from ray_st.runtime.cluster.granted_device import take_granted_device
from ray_st.runtime.cluster.handles import Actor, PickledRef, start_actor
from ray_st.runtime.data.block_source import RayBatchSource
from ray_st.runtime.train.elastic import Reserve
from ray_st.training.async_eval.protocol import EvalRequest, EvalResult, evaluate_request, stand_in
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.specs import TRAIN, RunSpec, eval_names
from ray_st.training.loop.hf_loop import HfLoop
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


class EvalWorker:
    """The evaluation process; handles one request at a time. Ray passes a replacement the same arguments.

    Args:
        background: How the run is evaluated.
        run: The run, pickled.
        sources: Its evaluation datasets, by name.
    """

    def __init__(
        self, background: BackgroundEval, run: PickledRef[RunSpec], sources: Mapping[str, RayBatchSource]
    ) -> None:
        self._background, self._run, self._sources = background, run, sources

    @cached_property
    def _trainer(self) -> HfLoop:
        take_granted_device()
        run, store, evals = self._run.open(), self._background.store, eval_names(self._sources)
        trainer: HfLoop = run.build(
            WorkerContext(World(), store, evals=evals, prompt_lengths=run.prompt_lengths)
        )
        stand_in(trainer, self._background.ranks)
        return trainer

    def prepare(self) -> None:
        """Creates the trainer if it does not exist yet."""
        _ = self._trainer

    def evaluate(self, request: EvalRequest) -> EvalResult:
        """The metrics of the checkpoint of a step."""
        return evaluate_request(self._trainer, request)


class EvalRequestLog:
    """Keeps requests and results; survives restarts of the workers.

    Args:
        evaluator: The evaluation actor.
    """

    def __init__(self, evaluator: Actor) -> None:
        self._evaluator = evaluator
        self._requested: dict[int, tuple[EvalRequest, ray.ObjectRef[EvalResult]]] = {}
        # Runs while the workers start; an error surfaces with the first result.
        evaluator.prepare.remote()

    def known(self) -> list[int]:
        """The steps that were requested."""
        return sorted(self._requested)

    def request(self, request: EvalRequest) -> None:
        """Requests evaluation of a step, unless already requested."""
        if request.step not in self._requested:
            self._requested[request.step] = request, self._evaluator.evaluate.remote(request)

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


def _fetched(request: EvalRequest, reference: ray.ObjectRef[EvalResult]) -> EvalResult:
    try:
        return ray.get(reference)
    except RayError as error:  # the evaluation failed, or its process was lost
        return EvalResult(request.step, request.epoch, error=str(error))


class RayEvalQueue:
    """The queue passed to workers; see :class:`ray_st.training.async_eval.protocol.EvalQueue`.

    Args:
        background: How the run is evaluated.
        run: The run, pickled.
        sources: Its evaluation datasets, by name.
    """

    def __init__(
        self, background: BackgroundEval, run: PickledRef[RunSpec], sources: Mapping[str, RayBatchSource]
    ) -> None:
        options = {"max_restarts": RESTARTS, "max_task_retries": RESTARTS, **_options(background.resources)}
        self._resources = background.resources
        self._evaluator = start_actor(EvalWorker, background, run, sources, **options)
        self._log = start_actor(EvalRequestLog, self._evaluator, num_cpus=0)

    @property
    def reserve(self) -> Reserve:
        """Room for the evaluation process, if it has none."""
        actor: Any = self._evaluator
        return Reserve(actor._actor_id.hex(), self._resources)

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
        for actor in (self._log, self._evaluator):
            ray.kill(actor)


@contextmanager
def open_queue(
    background: BackgroundEval | None, run: PickledRef[RunSpec], sources: Mapping[str, RayBatchSource]
) -> Iterator[RayEvalQueue | None]:
    """The queue of a run, for as long as the context is open.

    Args:
        background: How the run is evaluated; None if its workers evaluate, which needs no queue.
        run: The run, pickled.
        sources: Its datasets, by name.
    """
    if background is None:
        yield None
        return
    evals = {name: source for name, source in sources.items() if name != TRAIN}
    with closing(RayEvalQueue(background, run, evals)) as queue:
        yield queue


def _options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Resources under the names that Ray's options use."""
    rest = dict(resources)
    names = {
        "num_cpus": rest.pop("CPU", 0),
        "num_gpus": rest.pop("GPU", 0),
        "memory": rest.pop("memory", None),
    }
    return {**names, "resources": rest}
