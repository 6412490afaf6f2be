"""The weights that a trial's value belongs to: when they are saved, at which step, and which are kept."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from ray_st.study.confirmed import Confirmed
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord
from ray_st.study.watcher import Copy, Retention, Steps


class Saving(Enum):
    """After which evaluations a trial saves its weights, besides what ``save_strategy`` says."""

    NEVER = "never"
    AT_END = "at end"
    ALWAYS = "always"

    @classmethod
    def of(cls, scope: str) -> Saving:
        """What saves the weights that a trial's value belongs to.

        Args:
            scope: As for :func:`ray_st.study.objective.as_scope`. The best evaluation may be any; an average
                belongs to no weights, and those of the last step stand for it.
        """
        return cls.ALWAYS if scope == "all" else cls.AT_END

    def after(self, is_last: bool) -> bool:
        """Whether weights are saved after an evaluation.

        Args:
            is_last: Whether it is that of the last step.
        """
        return self is Saving.ALWAYS or (self is Saving.AT_END and is_last)


def step_of_value(record: TrialRecord, scope: str, maximize: bool) -> int:
    """The step whose weights a trial's value belongs to.

    Args:
        record: The trial, with at least one evaluation.
        scope: As for :meth:`Saving.of`.
        maximize: Whether more is better.
    """
    if scope != "all":
        return record.step
    pick = max if maximize else min
    return int(pick(record.history, key=lambda event: event["objectives"][0])["step"])


class RetentionOfFinalists(Retention):
    """Keeps one checkpoint of each training until all have ended, then those of the best few finalists.

    Which finalist wins, and which of its trainings is the typical one, is known at the end only.

    Args:
        study: The study of the trainings.
        store_of: Gives the store of a training's checkpoints.
        keep: Of how many finalists to keep one.
        step_of: The step whose weights a training's value belongs to.
        judge: Ranks the finalists.
        copy: As for :class:`ray_st.study.watcher.Retention`.
    """

    def __init__(
        self,
        study: Study,
        store_of: Callable[[int], Steps],
        keep: int,
        step_of: Callable[[TrialRecord], int],
        judge: Callable[[], Confirmed],
        copy: Copy | None = None,
    ) -> None:
        super().__init__(study, store_of, keep, copy)
        self._step_of, self._judge = step_of, judge
        self._single: set[int] = set()

    def tidy(self) -> None:
        """Deletes checkpoints that are no longer needed."""
        for record in self._study.records:
            ended = not record.is_running and self._has_copied_end(record.number)
            if ended and record.number not in self._single:
                self._keep_only(record, record.state == "COMPLETE")
                self._single.add(record.number)
        if self._study.left or len(self._single) < len(self._study.records):
            return
        kept = set(kept_runs(self._judge(), self._keep, self._has_weights))
        for record in self._study.records:
            if record.number not in kept:
                self._keep_only(record, False)

    def _has_weights(self, run: int) -> bool:
        return self._step_of(self._study.records[run]) in self._store_of(run).steps()

    def _keep_only(self, record: TrialRecord, keeps: bool) -> None:
        store = self._store_of(record.number)
        wanted = self._step_of(record) if keeps else None
        for step in store.steps():
            if step != wanted:
                store.delete(step)


def kept_runs(confirmed: Confirmed, keep: int, has_weights: Callable[[int], bool]) -> list[int]:
    """The most typical training with weights of each of the best finalists, the winner's first, by number.

    Args:
        confirmed: The finalists.
        keep: How many.
        has_weights: Whether a training still has its weights: those of an earlier start of the search may
            have been deleted when another finalist won.
    """
    complete = [one for one in confirmed.finalists if one.runs]
    ordered = sorted(complete, key=lambda one: one is not confirmed.winner)
    typical = [next(filter(has_weights, one.typical_runs), None) for one in ordered[:keep]]
    return [run for run in typical if run is not None]
