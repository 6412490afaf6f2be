"""The workers' side of evaluation beside training: orders go out, training goes on, figures are entered late."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import IntervalStrategy

from ray_st.training.async_eval.protocol import SNAPSHOTS, EvalRequest, EvalResult
from ray_st.training.checkpoint.store import MANIFEST, PREFIX, CheckpointStore
from ray_st.training.distributed import collectives
from ray_st.training.loop.evaluation_loop import EvaluatingTrainer
from ray_st.training_args import EvalOn
from ray_st.util.events import notes

MOST_AWAITED = 2
"""Evaluations that may be outstanding. With one more to come, the workers wait: a slow evaluation slows training down
rather than fall behind without bound."""

AWAITED = "awaited"
"""Key, in a checkpoint's manifest, of the steps whose figures were outstanding, with their epochs."""

_WAIT_S = 10.0


class EvaluationError(ValueError):
    """An evaluation beside training failed."""


class AwaitingTrainer(EvaluatingTrainer):
    """Has checkpoints evaluated at the place's desk, if it has one; without, the workers evaluate.

    Every rank does the same at the same step: what has arrived the first rank finds out, and tells the others.
    """

    def start_awaiting(self, checkpoint: str | None) -> None:
        """Goes on with the evaluations that were outstanding when a checkpoint was written.

        Args:
            checkpoint: The checkpoint from which the run goes on, or None.

        Raises:
            ValueError: If the arguments want evaluation beside training and there is no desk.
        """
        self._awaited: dict[int, float | None] = {}
        self._promised: set[int] = set()  # what the newest checkpoint awaits
        self._ordered = self._saved = -1  # the latest steps of which this is true
        evaluates = IntervalStrategy(self.args.eval_strategy) != IntervalStrategy.NO
        if self.args.eval_on == EvalOn.BACKGROUND and evaluates and self.here.desk is None:
            raise ValueError(
                'eval_on="background" needs a run on Ray, which has other processes to evaluate; this one has a '
                'single process. Use eval_on="workers", or train on the driver.'
            )
        then = _awaited_by(checkpoint)
        if self.here.world.is_first:
            self._awaited = self._order_again(then)
        self._awaited = collectives.broadcast_object(self._awaited)
        self.keep_promised()

    def _order_again(self, awaited: dict[int, float | None]) -> dict[int, float | None]:
        desk, snapshots = self.here.desk, self._snapshots
        if desk is None:
            if awaited:
                notes.info(
                    f"the evaluations of steps {sorted(awaited)} were outstanding; they are not made up for"
                )
            return {}
        desk.forget(self.state.global_step)
        known, kept = set(desk.known()), {}
        for step, epoch in sorted(awaited.items()):
            store = next((store for store in (snapshots, self.here.store) if step in store.steps()), None)
            if step not in known and store is None:
                notes.info(
                    f"the evaluation of step {step} was outstanding; it is left out, as its weights are gone"
                )
                continue
            if store is not None:
                desk.order(EvalRequest(step, epoch, store))
            kept[step] = epoch
        return kept

    @property
    def _snapshots(self) -> CheckpointStore:
        store = self.here.store
        return replace(store, path=store.location(SNAPSHOTS))

    # ---- orders ----

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if self.here.desk is None:
            super()._maybe_log_save_evaluate(*args, **kwargs)
            return
        control, step = self.control, self.state.global_step
        if control.should_log or control.should_evaluate or control.should_save:
            self._take_in()
        wanted = self.control.should_evaluate and step != self._ordered
        self.control.should_evaluate = False
        if wanted:
            self._await(step)
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if wanted:
            self._order(step)

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        if self.here.desk is None:
            return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        self._await(self.state.global_step)  # before the first step, with eval_on_start
        self._order(self.state.global_step)
        return {}

    def _await(self, step: int) -> None:
        while len(self._awaited) >= MOST_AWAITED:
            self._take_in(_WAIT_S)
        self._awaited[step] = self.state.epoch
        self._ordered = step

    def _order(self, step: int) -> None:
        """Orders the evaluation of the weights of now: of their checkpoint if they have one, else of a snapshot."""
        place = self.here
        store = place.store
        if self._saved != step:
            store = self._snapshots
            with self.whole_weights():
                written = collectives.broadcast_object(
                    self._snapshot(step) if place.world.is_first else False
                )
            if not written:
                del self._awaited[step]
                return
        if not place.world.is_first:
            return
        assert place.desk is not None
        place.desk.order(EvalRequest(step, self._awaited[step], store))

    def _snapshot(self, step: int) -> bool:
        """Writes the weights of now for the evaluating process; says whether there was room."""
        store = self._snapshots
        try:
            folder = store.begin(step)
            self._save(str(folder))
            store.seal(folder)
        except (OSError, SafetensorError) as error:
            store.give_up(step)
            notes.warning(
                f"warning: the weights of step {step} could not be written to {store.path}, and its evaluation is left out; "
                f"training goes on. Is the disk full? {type(error).__name__}: {error}"
            )
            return False
        return True

    # ---- answers ----

    def _take_in(self, wait_s: float = 0.0) -> None:
        """Enters the figures that have arrived.

        Args:
            wait_s: How long to wait for the first if there are none; far less than collectives wait for a rank.
        """
        if not self._awaited:
            return
        answers: list[EvalResult] = []
        if self.here.world.is_first:
            assert self.here.desk is not None
            answers = self.here.desk.answers(list(self._awaited), wait_s)
        for answer in collectives.broadcast_object(answers):
            self._enter(answer)

    def _enter(self, answer: EvalResult) -> None:
        if answer.error:
            raise EvaluationError(
                f"The evaluation of step {answer.step} beside training failed. Its checkpoint is kept; resume from the "
                f'newest when the cause is mended, or with eval_on="workers". The cause:\n{answer.error}'
            )
        del self._awaited[answer.step]
        with self._as_of(answer):
            metrics: dict[str, Any] = {}
            for entry in answer.entries:
                self.log(dict(entry))
                metrics.update(entry)
                self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, entry)
            self._determine_best_metric(metrics, None)
        self.state.log_history.sort(key=itemgetter("step"))
        self.name_best()
        if answer.scores is not None:
            self.model.model_card_data.scores = answer.scores
        self._drop_snapshots()

    @contextmanager
    def _as_of(self, answer: EvalResult) -> Iterator[None]:
        """Lets figures be entered as if the step that they belong to were now."""
        state: Any = self.state
        control = self.control
        now = state.global_step, state.epoch
        wishes = control.should_log, control.should_evaluate, control.should_save
        state.global_step, state.epoch = answer.step, answer.epoch
        yield
        state.global_step, state.epoch = now
        control = self.control
        control.should_log, control.should_evaluate, control.should_save = wishes

    def _drop_snapshots(self) -> None:
        """Deletes weights whose figures are entered, unless who goes on from the newest checkpoint would need them."""
        if self.here.world.is_first and self.here.desk is not None:
            snapshots = self._snapshots
            for step in set(snapshots.steps()) - self._awaited.keys() - self._promised:
                snapshots.delete(step)

    def keep_promised(self) -> None:
        """Notes that a checkpoint was written that awaits what is awaited now; older promises are void."""
        self._promised = set(self._awaited)
        self._drop_snapshots()

    def name_best(self, *coming: int) -> None:
        """Says where the best checkpoint is; to a best step without a checkpoint there is no way back.

        Args:
            coming: A step whose checkpoint is about to be written.
        """
        best, store = self.state.best_global_step, self.here.store
        if best and best in (*coming, *store.steps()):
            self.state.best_model_checkpoint = store.location(f"{PREFIX}{best}")

    def await_all(self) -> None:
        """Waits until the figures of all evaluations are entered."""
        while self._awaited:
            self._take_in(_WAIT_S)
        self.keep_promised()


def _awaited_by(checkpoint: str | None) -> dict[int, float | None]:
    manifest = Path(checkpoint or "") / MANIFEST
    if checkpoint is None or not manifest.is_file():
        return {}
    steps = json.loads(manifest.read_text()).get(AWAITED, {})
    return {int(step): epoch for step, epoch in steps.items()}
