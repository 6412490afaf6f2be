"""The worker side of asynchronous evaluation: sends requests, continues training, logs results late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from safetensors import SafetensorError
from transformers import IntervalStrategy, TrainerControl, TrainerState

from ray_st.training.async_eval.protocol import SNAPSHOTS, EvalQueue, EvalRequest, EvalResult
from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.checkpoint.store import CheckpointStore, Settled, manifest_in
from ray_st.training.distributed import collectives
from ray_st.training_args import EvalOn, SentenceTransformerTrainingArguments
from ray_st.util.events import notes
from ray_st.world import World

MOST_AWAITED = 2
"""Maximum number of outstanding evaluations. Beyond it the workers wait: slow evaluations slow training down
instead of falling behind without bound."""

AWAITED = "awaited"
"""Key, in a checkpoint's manifest, of the steps whose results were outstanding, with their epochs."""

_WAIT_S = 10.0


class EvaluationError(ValueError):
    """An evaluation in another process failed."""


@dataclass(eq=False)
class AsyncEvaluation(LoopCallback):
    """Requests evaluations of weights from another process.

    All ranks act alike at the same step: the first rank fetches the results and broadcasts them.

    Args:
        queue: Receives requests and keeps results.
        store: The run's folder.
        world: This rank and the number of ranks.
        enter: Enters a result into the trainer's history under its own step.
        control: Returns the trainer's control, which callbacks may replace when a result is entered.
        writing: Returns the step of the checkpoint that is being written, or None.
        write_weights: Writes the current weights to a folder, on the first rank.
        saving: Opens the context in which the first rank can save the model.

    Attributes:
        awaited: Epoch of each step whose result is outstanding.
    """

    queue: EvalQueue
    store: CheckpointStore
    world: World
    enter: Callable[[EvalResult], None]
    control: Callable[[], TrainerControl]
    writing: Callable[[], int | None]
    write_weights: Callable[[str], None]
    saving: Callable[[], AbstractContextManager[object]]
    awaited: dict[int, float | None] = field(default_factory=dict, init=False)
    _promised: set[int] = field(default_factory=set, init=False)  # what the newest checkpoints await
    _newest: int = field(default=-1, init=False)  # the latest step that was requested
    _checkpoint: int = field(default=-1, init=False)  # the latest step with a checkpoint
    _is_due: bool = field(default=False, init=False)
    _held: int = field(default=-1, init=False)  # a step that is requested once its checkpoint is complete

    def __post_init__(self) -> None:
        self._snapshots = replace(self.store, path=self.store.location(SNAPSHOTS))

    def resume(self, checkpoint: str | None, step: int) -> None:
        """Resumes the evaluations that were outstanding when a checkpoint was written.

        Every rank must call it.

        Args:
            checkpoint: The checkpoint from which the run resumes, or None.
            step: Its step, or 0.
        """
        kept = self._request_again(awaited_by(checkpoint), step) if self.world.is_first else {}
        self.awaited = collectives.broadcast_object(kept)
        self._promised = set(self.awaited)
        self._drop_snapshots()

    def _request_again(self, awaited: dict[int, float | None], now: int) -> dict[int, float | None]:
        self.queue.forget(now)
        known, kept = set(self.queue.known()), {}
        for step, epoch in sorted(awaited.items()):
            store = next((one for one in (self._snapshots, self.store) if step in one.steps()), None)
            if step not in known and store is None:
                notes.info(
                    f"the evaluation of step {step} was outstanding; it is left out, as its weights are gone"
                )
                continue
            if store is not None:
                self.queue.request(EvalRequest(step, epoch, store))
            kept[step] = epoch
        return kept

    # ---- requests ----

    def expect(self, step: int, epoch: float | None) -> bool:
        """Makes room for this step's evaluation; False if it has been requested already.

        Waits if too many evaluations are outstanding.
        """
        if step == self._newest:
            return False
        while len(self.awaited) >= MOST_AWAITED:
            self.take_in(_WAIT_S)
        self.awaited[step] = epoch
        self._newest = step
        return True

    def before_outputs(self, state: TrainerState, control: TrainerControl) -> None:
        """Enters finished evaluations, and takes over one that is due from the workers."""
        if control.should_log or control.should_evaluate or control.should_save:
            self.take_in()
        current = self.control()
        wanted, current.should_evaluate = current.should_evaluate, False
        self._is_due = wanted and self.expect(state.global_step, state.epoch)

    def after_outputs(self, saved: bool) -> None:
        """Requests the evaluation of the step, if it is due."""
        if self._is_due:
            self.request(self._newest)

    def request(self, step: int) -> None:
        """Requests an evaluation of the current weights, from their checkpoint or else from a snapshot.

        A checkpoint that is being written is evaluated when it is complete.
        """
        store = self.store
        if step == self.writing():
            self._held = step
            return
        if step != self._checkpoint:
            store = self._snapshots
            with self.saving():
                written = collectives.broadcast_object(self.world.is_first and self._snapshot(step))
            if not written:
                del self.awaited[step]
                return
        if self.world.is_first:
            self.queue.request(EvalRequest(step, self.awaited[step], store))

    def _snapshot(self, step: int) -> bool:
        """Writes the current weights for the evaluating process; returns whether there was enough space."""
        store = self._snapshots
        try:
            folder = store.begin(step)
            self.write_weights(str(folder))
            store.seal(folder)
        except (OSError, SafetensorError) as error:
            store.give_up(step)
            notes.warning(
                f"warning: the weights of step {step} could not be written to {store.path}, and its "
                f"evaluation is left out; training goes on. Is the disk full? {type(error).__name__}: {error}"
            )
            return False
        return True

    # ---- results ----

    def take_in(self, wait_s: float = 0.0) -> None:
        """Enters the results that have arrived.

        Args:
            wait_s: How long to wait for the first if there are none; far less than collectives wait for a
                rank.

        Raises:
            EvaluationError: If an evaluation failed.
        """
        if not self.awaited:
            return
        found = self.queue.results(list(self.awaited), wait_s) if self.world.is_first else []
        for result in collectives.broadcast_object(found):
            if result.error:
                raise EvaluationError(
                    f"The evaluation of step {result.step} beside training failed. Its checkpoint is kept; "
                    "resume from the "
                    f'newest once the cause is fixed, or with eval_on="workers". The cause:\n{result.error}'
                )
            del self.awaited[result.step]
            self.enter(result)
            self._drop_snapshots()

    def wait_for_all(self) -> None:
        """Waits until the results of all evaluations are entered."""
        while self.awaited:
            self.take_in(_WAIT_S)
        self._promised = set()
        self._drop_snapshots()

    def on_checkpoint(self, state: TrainerState, settled: Settled) -> None:
        """Records a complete checkpoint, and requests its evaluation if that is due.

        The evaluation of a step whose checkpoint could not be written is left out: its weights are gone.
        """
        held = settled.step == self._held
        if settled.checkpoint is None:
            if held:
                del self.awaited[settled.step]
                if self.world.is_first:
                    notes.warning(f"warning: the evaluation of step {settled.step} is left out: no weights")
            return
        self._checkpoint = settled.step
        self._promised = set(map(int, settled.checkpoint.manifest[AWAITED]))
        self._drop_snapshots()
        if held:
            self.request(settled.step)

    def promised(self) -> dict[int, float | None]:
        """What a checkpoint of this step awaits; their weights stay, for a run that resumes from it."""
        self._promised |= self.awaited.keys()
        return dict(self.awaited)

    def _drop_snapshots(self) -> None:
        """Deletes snapshots whose results are logged, unless the newest checkpoints need them to resume."""
        if self.world.is_first:
            for step in set(self._snapshots.steps()) - self.awaited.keys() - self._promised:
                self._snapshots.delete(step)


@contextmanager
def as_of(result: EvalResult, state: TrainerState, control: Callable[[], TrainerControl]) -> Iterator[None]:
    """Within this context, the state is that of a result's step, so that metrics are logged under it.

    Requests that callbacks make meanwhile come too late and are dropped.

    Args:
        result: The result.
        state: The trainer's state.
        control: Returns the trainer's control, which callbacks may replace.
    """
    current: Any = state  # transformers annotates `epoch` as a number
    flags, own_step = control(), (state.global_step, state.epoch)
    before = flags.should_log, flags.should_evaluate, flags.should_save
    current.global_step, current.epoch = result.step, result.epoch
    yield
    current.global_step, current.epoch = own_step
    flags = control()
    flags.should_log, flags.should_evaluate, flags.should_save = before


def awaited_by(checkpoint: str | None) -> dict[int, float | None]:
    """Epoch of each step whose result was outstanding when a checkpoint was written."""
    return {int(step): epoch for step, epoch in manifest_in(checkpoint).get(AWAITED, {}).items()}


def check_without_queue(
    args: SentenceTransformerTrainingArguments, checkpoint: str | None, is_first: bool
) -> None:
    """Raises, or warns, if evaluations are wanted or outstanding and no other process runs them.

    Args:
        args: Training arguments.
        checkpoint: The checkpoint from which the run resumes, or None.
        is_first: Whether this is the first rank, which logs the warning.

    Raises:
        ValueError: If the arguments request evaluation in another process.
    """
    evaluates = IntervalStrategy(args.eval_strategy) != IntervalStrategy.NO
    if args.eval_on == EvalOn.BACKGROUND and evaluates:
        raise ValueError(
            'eval_on="background" needs a run on Ray, which has other processes to evaluate; this one has a '
            'single process. Use eval_on="workers", or train on the driver.'
        )
    awaited = awaited_by(checkpoint)
    if awaited and is_first:
        notes.info(f"the evaluations of steps {sorted(awaited)} were outstanding; they are not made up for")
