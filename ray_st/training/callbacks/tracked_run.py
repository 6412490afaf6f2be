"""Reports to experiment trackers: one writer, one run for a training run however often it is restarted or resumed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from ray_st.models.card.run_facts import Emissions
from ray_st.training.callbacks.callback_consensus import AgreeingTrainer
from ray_st.training.callbacks.trackers import CodeCarbon, Tracker, make_trackers
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.distributed import collectives
from ray_st.training.worker_context import WorkerContext
from ray_st.util.atomic import replacing_in

TRACKED = "trackers"
"""Key, in the trainer's state and so in each checkpoint, of what trackers need to go on."""

_RECORD = ".trackers.json"
WRITTEN = ("runs", "wandb", "mlflow.db", "emissions.csv")
"""Files and folders that trackers write into a run's folder."""

_EMISSIONS = CodeCarbon.name


class TrackingTrainer(AgreeingTrainer):
    """A trainer whose trackers are open while it trains in a worker, on the first rank.

    Attributes:
        emissions: What the run emitted so far, on all nodes; None where CodeCarbon does not measure.
    """

    place: WorkerContext | None
    emissions: Emissions | None = None

    def __init__(self, *, args: Any, callbacks: list[Any] | None = None, **options: Any) -> None:
        # transformers would add its own callbacks for these, which know nothing of restarts.
        wanted, args.report_to = args.report_to, []
        every: list[Any] = [*make_trackers(wanted), *(callbacks or [])]
        try:
            super().__init__(args=args, callbacks=every, **options)
        finally:
            args.report_to = wanted

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the loop; see the trainer's method of this name."""
        failed = True
        try:
            result = super().train(*args, **kwargs)
            self._note_emissions()
            failed = False
            return result
        finally:
            for tracker in self._trackers():
                tracker.close(failed)
            self._bring_to_storage()

    def _trackers(self) -> list[Tracker]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, Tracker)]

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        positions = super()._init_training_state(*args, **kwargs)
        if self.place is not None:
            self._open_trackers(self.place)
        return positions

    def _open_trackers(self, place: WorkerContext) -> None:
        """Opens them, to go on with what the checkpoint, or else a start of this run before the first one, knows."""
        states: Any = self.state.stateful_callbacks
        world = place.world
        known = states.get(TRACKED) or (_recorded(place.store) if world.is_first else {})
        known = collectives.broadcast_object(known)  # the first rank, which writes the record, has read it
        before = known.get(_EMISSIONS)
        self.emissions = self._before = None if before is None else Emissions(**before)
        for tracker in self._trackers():
            if world.is_first or (tracker.every_node and world.local_rank == 0):
                opened = tracker.open(self.args, self.state.global_step, known.get(tracker.name))
                known = {**known, tracker.name: opened}
        states[TRACKED] = known
        if world.is_first and known:
            _record(place.store, known)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.control.should_save or self.control.should_evaluate:
            self._note_emissions()
        saving = self.control.should_save
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if saving:
            self._bring_to_storage()

    def _bring_to_storage(self) -> None:
        """Copies what trackers wrote on this machine to where the run's folder is."""
        place = self.place
        if place is None or place.store.is_local or not place.world.is_first:
            return
        for name in WRITTEN:
            here = Path(str(self.args.output_dir), name)
            if here.is_file():
                with place.store.filesystem.open_output_stream(place.store.location(name)) as stream:
                    stream.write(here.read_bytes())
            elif here.is_dir():
                there = place.store.location(name)
                pafs.copy_files(str(here), there, destination_filesystem=place.store.filesystem)

    def _note_emissions(self) -> None:
        """Adds up what all nodes emitted; every rank must call it."""
        meters = [tracker for tracker in self._trackers() if isinstance(tracker, CodeCarbon)]
        if not meters:
            return
        now = Emissions.together(collectives.gather_objects(meters[0].measured()))
        if now is None:
            return
        self.emissions = now if self._before is None else self._before.then(now)
        states: Any = self.state.stateful_callbacks
        states[TRACKED] = {**states.get(TRACKED, {}), _EMISSIONS: dataclasses.asdict(self.emissions)}


def _recorded(store: CheckpointStore) -> dict[str, Any]:
    """What this run's folder knows of its trackers, from a start of the same run."""
    path = store.location(_RECORD)
    if not store.filesystem.get_file_info(path).is_file:
        return {}
    with store.filesystem.open_input_stream(path) as stream:
        record = json.loads(stream.read())
    return dict(record[TRACKED]) if record["run_id"] == store.run_id else {}


def _record(store: CheckpointStore, known: Mapping[str, Any]) -> None:
    store.filesystem.create_dir(store.path, recursive=True)
    text = json.dumps({"run_id": store.run_id, TRACKED: dict(known)})
    with replacing_in(store.filesystem, store.location(_RECORD)) as stream:
        stream.write(text.encode())
