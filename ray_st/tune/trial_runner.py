"""Runs a search's studies, its own and that of its finalists, which share rows, resources and storage."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ray_st.model_trainer import ModelTrainer
from ray_st.runtime.cluster import connection, handles
from ray_st.runtime.supervision import ray_metrics, supervisor
from ray_st.runtime.train import launch, storage
from ray_st.runtime.train.driver_memory import check_driver_memory
from ray_st.runtime.tune import search_stop, shared_data, trial_loop, trial_resources, tuner
from ray_st.runtime.tune.search_home import forget_unknown, search_store
from ray_st.study.mirror import CLOSING_S
from ray_st.study.search_settings import check_found
from ray_st.study.watcher import Watcher
from ray_st.training.argument_checks import check_precision
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.data.specs import TRAIN
from ray_st.tune.trial_work import Given, Work


@dataclass(frozen=True)
class TrialRunner:
    """What the studies of a search share on the cluster.

    Args:
        given: The search.
        need: The resources of a trial.
        data: The encoded rows.
        store: Where checkpoints are.
        stop: Asks the search to stop.
    """

    given: Given
    need: trial_resources.Need
    data: shared_data.SharedData
    store: CheckpointStore
    stop: search_stop.SearchStop

    def run(self, work: Work) -> None:
        """Runs a study's trials that are left.

        Raises:
            Interrupted: If the search was asked to stop, and trials are left.
            LeaseLost: If another driver took the search's folder.
            ValueError: If no trial can have an objective.
        """
        given, kit, place = self.given, self._kit(work), self.given.place
        name = "/".join(part for part in (given.folder.name, work.part) if part)
        retention = work.retention(kit.trial_store)
        tuner.SearchRun(
            study=work.study,
            kit=kit,
            options=work.options,
            folder=given.folder / work.part,
            maximize=given.objective.directions[0] == "maximize",
            need=self.need,
            population=work.population,
            watcher=Watcher(
                work.study, work.progress, retention, functools.partial(ray_metrics.show_search, name)
            ),
            stop=self.stop,
            name=given.folder.name,
        ).run(place.lease)
        mirror = place.mirrors.get(work.part)
        if mirror is not None and mirror.wait(CLOSING_S):
            retention.tidy()

    def _kit(self, work: Work) -> trial_loop.TrialContext:
        given = self.given
        ids = (given.folder.name, given.search_id, work.part)
        return trial_loop.TrialContext(
            trial_loop.PickledFactory(handles.PickledRef(work.template)),
            given.objective,
            self.data,
            self._store(work),
            "-".join(part for part in ids if part),
            self.need.scaling,
            must_checkpoint=work.must_checkpoint,
            step_limit_s=supervisor.step_limit_s(),
            saving=work.saving,
        )

    def _store(self, work: Work) -> CheckpointStore:
        """Where a study's trials keep checkpoints, without those of trials that its journal doesn't know."""
        path = self.store.location(work.part) if work.part else self.store.path
        store = dataclasses.replace(self.store, path=path, fence=self.given.place.lease.fence)
        forget_unknown(store, len(work.study.records))
        return store


@contextmanager
def trial_runner(trainer: ModelTrainer, given: Given) -> Iterator[TrialRunner]:
    """Connects to the cluster, checks that a trial fits, and encodes the rows that all trials share.

    Args:
        trainer: The driver's trainer.
        given: The search.

    Raises:
        ValueError: If a trial fits nowhere, or the rows cannot be used.
        RecordError: If the rows are not those that the search began with.
    """
    stop, args, options = search_stop.SearchStop(), trainer.args, given.options
    with ExitStack() as stack:
        stack.enter_context(connection.connected())
        stack.enter_context(search_stop.stopping_at_sigterm(stop))
        need = trial_resources.Need.of(trainer.scaling_config, options.resources_per_trial, args.use_cpu)
        need.check(given.template.attention)
        check_precision(args, "GPU" in need.each)
        data = _shared_rows(trainer, given, need)
        check_found(given.folder, data.facts())
        store = search_store(trainer.run_config, given.folder, given.search_id)
        yield TrialRunner(given, need, data, store, stop)


def _shared_rows(trainer: ModelTrainer, given: Given, need: trial_resources.Need) -> shared_data.SharedData:
    args = trainer.args
    parts = trial_loop.data_parts(given.template(0, given.values), need.workers)
    if given.options.data_init is not None:
        del parts[TRAIN]  # each trial has its own
    # Model and losses are made in the trials, which share rows that are encoded before.
    check_driver_memory((), parts, streams=False)
    cache = storage.open_token_cache(args, launch.store_of(trainer.run_config, str(args.output_dir)))
    return shared_data.share(parts, cache)
