"""Reports to experiment trackers: one writer and one tracked run, across restarts and resumes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState

from ray_st.models.card.run_facts import Emissions
from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.callbacks.trackers import CodeCarbon, Tracker
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.distributed import collectives
from ray_st.training.worker_context import WorkerContext
from ray_st.training_args import SentenceTransformerTrainingArguments
from ray_st.util.atomic import replacing_in
from ray_st.util.filesystems import upload

TRACKED = "trackers"
"""Key, in the trainer's state and so in each checkpoint, of what trackers need to resume."""

_RECORD = ".trackers.json"
WRITTEN = ("runs", "wandb", "mlflow.db", "emissions.csv")
"""Files and folders that trackers write to a run's folder."""

_EMISSIONS = CodeCarbon.name


class TrackedRun(LoopCallback):
    """Opens a run's trackers on the first rank when training starts or resumes, and closes them.

    Args:
        args: Training arguments.
        context: The worker's context.
        trackers: Returns the trainer's tracker callbacks that were not removed.

    Attributes:
        emissions: The run's emissions so far, on all nodes; None if CodeCarbon does not measure.
    """

    def __init__(
        self,
        args: SentenceTransformerTrainingArguments,
        context: WorkerContext,
        trackers: Callable[[], Sequence[Tracker]],
    ) -> None:
        self._args, self._context, self._trackers = args, context, trackers
        self.emissions: Emissions | None = None
        self._before: Emissions | None = None

    def on_open(self, state: TrainerState) -> None:
        """Opens the trackers and continues the runs known to the checkpoint or to an earlier start."""
        states: Any = state.stateful_callbacks
        store, world = self._context.store, self._context.world
        known = states.get(TRACKED) or (_recorded(store) if world.is_first else {})
        known = collectives.broadcast_object(known)  # the first rank, which writes the record, has read it
        before = known.get(_EMISSIONS)
        self.emissions = self._before = None if before is None else Emissions(**before)
        for tracker in self._trackers():
            if world.is_first or (tracker.every_node and world.local_rank == 0):
                opened = tracker.open(self._args, state.global_step, known.get(tracker.name))
                known = {**known, tracker.name: opened}
        states[TRACKED] = known
        if world.is_first and known:
            _record(store, known)

    def before_outputs(self, state: TrainerState, control: TrainerControl) -> None:
        """Records emissions, which evaluations report and checkpoints store."""
        if control.should_save or control.should_evaluate:
            self._note_emissions(state)

    def after_outputs(self, saved: bool) -> None:
        """Copies the trackers' files to the checkpoint's storage."""
        if saved:
            self._bring_to_storage()

    def on_close(self, state: TrainerState, failed: bool) -> None:
        """Closes the trackers and copies their files to storage."""
        try:
            if not failed:
                self._note_emissions(state)
        except BaseException:
            failed = True
            raise
        finally:
            for tracker in self._trackers():
                tracker.close(failed)
            self._bring_to_storage()

    def _bring_to_storage(self) -> None:
        """Copies what trackers wrote on this machine to the run's folder."""
        store = self._context.store
        if store.is_local or not self._context.world.is_first:
            return
        for name in WRITTEN:
            here = Path(str(self._args.output_dir), name)
            if here.exists():
                upload(here, store.filesystem, store.location(name))

    def _note_emissions(self, state: TrainerState) -> None:
        """Sums the emissions of all nodes; every rank must call it."""
        meters = [tracker for tracker in self._trackers() if isinstance(tracker, CodeCarbon)]
        if not meters:
            return
        now = Emissions.together(collectives.gather_objects(meters[0].measured()))
        if now is None:
            return
        self.emissions = now if self._before is None else self._before.then(now)
        states: Any = state.stateful_callbacks
        states[TRACKED] = {**states.get(TRACKED, {}), _EMISSIONS: dataclasses.asdict(self.emissions)}


def _recorded(store: CheckpointStore) -> dict[str, Any]:
    """The tracker record in the run's folder, from an earlier start of the same run."""
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
