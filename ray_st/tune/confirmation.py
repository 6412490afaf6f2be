"""The finalists of a search, trained again with fresh seeds: a second study in the search's folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import set_seed

from ray_st.study.confirmed import Confirmed, judge
from ray_st.study.drawn_trial import DrawnTrial
from ray_st.study.finalist_progress import FinalistProgress
from ray_st.study.finalists import SEED, Repetition, fresh_seeds, plan_repetitions, repeating_study
from ray_st.study.journal import JOURNAL, Journal
from ray_st.study.kept_weights import RetentionOfFinalists, Saving, step_of_value
from ray_st.study.objective import Objective
from ray_st.study.search_options import SearchOptions
from ray_st.study.space import Space
from ray_st.study.study import Study
from ray_st.study.watcher import Copy, Retention, Steps
from ray_st.tune.identity import model_facts
from ray_st.tune.trial_factory import TrialFactory, call_model_init

if TYPE_CHECKING:
    from ray_st.tune.trial_runner import TrialRunner

PART = "confirm"
"""Folder of the trainings' records and checkpoints, below the search's."""


@dataclass(frozen=True)
class Confirmation:
    """The trainings of a search's finalists.

    They are trials of the search with another seed, and nothing stops them early. Their journal is their own,
    and from it they continue after the driver was killed. Those that were begun by an earlier start of the
    search count, whatever ``confirm`` and ``finalists`` are now.

    Args:
        plan: The finalist and the seed of each training.
        seeds: The seeds that every finalist is trained with.
        study: Their study.
        objective: The search's objective.
        options: The search's options.
        folder: The search's folder.
    """

    plan: list[Repetition]
    seeds: list[int]
    study: Study
    objective: Objective
    options: SearchOptions
    folder: Path

    @classmethod
    def of(
        cls,
        search: Study,
        space: Space,
        objective: Objective,
        options: SearchOptions,
        seeds: tuple[int, int],
        folder: Path,
        check_fence: Callable[[], None] | None = None,
    ) -> Confirmation:
        """The trainings of a search as it is now, those of earlier starts first.

        Args:
            search: The search's study.
            space: Its space.
            objective: Its objective.
            options: Its options.
            seeds: The search's seed, and that of the training arguments.
            folder: Its folder.
            check_fence: As for :class:`ray_st.study.journal.Journal`.

        Raises:
            RecordError: If the journal is damaged, or of another search.
            SpaceError: If a finalist cannot be drawn again from its parameters.
        """
        journal = Journal(folder / PART / JOURNAL, check_fence)
        of_search, of_arguments = seeds
        used = {of_arguments, *(record.values.get(SEED, of_arguments) for record in search.records)}
        fresh = fresh_seeds(of_search, options.confirm, used)
        best = search.best(len(search.records))
        plan = plan_repetitions(best, options.finalists, fresh, journal.records())
        study = repeating_study(space, objective, journal, plan)
        return cls(plan, fresh, study, objective, options, folder)

    @property
    def maximize(self) -> bool:
        """Whether more is better."""
        return self.objective.directions[0] == "maximize"

    def judge(self) -> Confirmed:
        """What is known about the finalists now."""
        return judge(self.plan, self.study.records, self.seeds, self.maximize)

    def step_of(self, run: int) -> int:
        """The step whose weights a training's value belongs to.

        Args:
            run: The training's number.
        """
        return step_of_value(self.study.records[run], self.objective.scope, self.maximize)

    def run(
        self,
        runner: TrialRunner,
        template: TrialFactory,
        options: SearchOptions,
        board: bool,
        copy: Copy | None = None,
    ) -> None:
        """Runs the trainings that are left.

        Args:
            runner: Runs trials.
            template: What all trials of the search share.
            options: The search's options, with the number of trials at a time.
            board: Whether to write trainings for TensorBoard's HParams.
            copy: The copy of the trainings' journal; None if there is none.

        Raises:
            Interrupted: If the search was asked to stop, and trainings are left.
        """
        from ray_st.tune.trial_runner import Work

        (self.folder / PART).mkdir(exist_ok=True)
        progress = FinalistProgress(self.study, self.folder, PART, board, self.plan, self.judge)
        progress.begin()
        try:
            runner.run(
                Work(
                    study=self.study,
                    template=repeating(template, self.objective.scope),
                    progress=progress,
                    part=PART,
                    options=dataclasses.replace(options, scheduler=None, time_budget_s=None),
                    population=None,
                    must_checkpoint=None,
                    saving=Saving.of(self.objective.scope),
                    retention=partial(self._retention, keep=options.keep_checkpoints, copy=copy),
                )
            )
        finally:
            progress.finished()
        progress.concluded()

    def _retention(self, store_of: Callable[[int], Steps], keep: int, copy: Copy | None) -> Retention:
        return RetentionOfFinalists(
            self.study, store_of, keep, lambda record: self.step_of(record.number), self.judge, copy
        )


def repeating(template: TrialFactory, scope: str) -> TrialFactory:
    """What all trainings of finalists share: a trial's, with weights that are kept and depend on its seed.

    Args:
        template: What all trials of the search share.
        scope: As for :func:`ray_st.study.objective.as_scope`.
    """
    fixed = dict(template.fixed)
    if template.given.save_strategy == "no":
        fixed["save_only_model"] = True  # nothing continues from a checkpoint: the weights are enough
    if scope == "all":
        fixed["save_total_limit"] = None  # the best evaluation may be an early one
    base = template.base if _ignores_seed(template) else None
    return dataclasses.replace(template, base=base, fixed=fixed)


def _ignores_seed(template: TrialFactory) -> bool:
    """Whether ``model_init`` makes the same model with any seed, as one that only opens a folder does."""
    if template.base is None:
        return False
    set_seed(template.given.seed + 1)
    other = call_model_init(template.model_init, DrawnTrial(0, {})).cpu()
    return model_facts(other) == model_facts(template.base)
