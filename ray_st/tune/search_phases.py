"""A search's two phases: its trials, then the trainings of its finalists."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ray_st.model_trainer import ModelTrainer
from ray_st.study.kept_weights import Saving
from ray_st.study.search_options import SearchOptions
from ray_st.study.search_progress import SearchProgress
from ray_st.study.search_report import write_report
from ray_st.study.study import Study
from ray_st.study.watcher import Retention
from ray_st.tune.checked_search import CheckedSearch
from ray_st.tune.confirmation import PART, Confirmation
from ray_st.tune.found_run import SavedWeights
from ray_st.tune.results import Results
from ray_st.tune.trial_factory import TrialFactory
from ray_st.tune.trial_work import Given, Work

if TYPE_CHECKING:
    from ray_st.runtime.tune.search_home import SearchFolder
    from ray_st.tune.trial_runner import TrialRunner


@dataclass(frozen=True)
class SearchPhases:
    """A search with its study.

    Args:
        checked: What it is.
        study: Suggests parameters.
        place: Its folder, here and in the user's storage.
        search_id: Its unique identifier.
        concurrent: Most trials at a time; None for as many as there is room for.
    """

    checked: CheckedSearch
    study: Study
    place: SearchFolder
    search_id: str
    concurrent: int | None

    @property
    def folder(self) -> Path:
        """The folder on this machine."""
        return self.place.path

    def run(self, trainer: ModelTrainer) -> None:
        """Runs the trials that are left, then the trainings of the finalists that are left.

        Args:
            trainer: The driver's trainer.
        """
        board = "tensorboard" in (trainer.args.report_to or ())
        progress = SearchProgress.of(self.study, self._objectives, self.folder, board)
        progress.begin()
        if not self.study.left and not self._finalists_left(trainer):
            return
        from ray_st.tune.trial_runner import trial_runner

        with trial_runner(trainer, self._given()) as runner:
            if self.study.left:
                self._run_trials(runner, progress)
            if self._finalists_left(trainer):
                self._confirm(runner, trainer, board)

    @property
    def _objectives(self) -> int:
        return len(self.checked.objective.directions)

    @property
    def _options(self) -> SearchOptions:
        return dataclasses.replace(self.checked.options, max_concurrent_trials=self.concurrent)

    @property
    def _template(self) -> TrialFactory:
        return dataclasses.replace(self.checked.template, search=self.folder.name)

    def _given(self) -> Given:
        checked = self.checked
        return Given(
            self._template,
            checked.values,
            checked.objective,
            self._options,
            self.place,
            self.search_id,
        )

    def _run_trials(self, runner: TrialRunner, progress: SearchProgress) -> None:
        checked, options = self.checked, self._options
        try:
            runner.run(
                Work(
                    study=self.study,
                    template=self._template,
                    progress=progress,
                    part="",
                    options=options,
                    population=checked.population,
                    must_checkpoint=checked.waits_after,
                    saving=Saving.NEVER,
                    retention=lambda store_of: Retention(
                        self.study, store_of, options.keep_checkpoints, self.place.mirrors.get("")
                    ),
                )
            )
        finally:
            progress.finished()
            self.place.check()
            write_report(self.folder, self.study, self._objectives)

    # ---- confirmation ----

    def _confirmation(self, trainer: ModelTrainer) -> Confirmation | None:
        """The trainings of the finalists as they are known now; None if none are wanted."""
        checked = self.checked
        if not checked.options.confirm:
            return None
        return Confirmation.of(
            self.study,
            checked.space,
            checked.objective,
            checked.options,
            (checked.seed, trainer.args.seed),
            self.folder,
            self.place.check,
        )

    def _finalists_left(self, trainer: ModelTrainer) -> bool:
        confirmation = self._confirmation(trainer)
        return confirmation is not None and confirmation.study.left > 0

    def _confirm(self, runner: TrialRunner, trainer: ModelTrainer, board: bool) -> None:
        confirmation = self._confirmation(trainer)
        assert confirmation is not None
        try:
            confirmation.run(runner, self._template, self._options, board, self.place.mirrors.get(PART))
        finally:
            self.place.check()
            write_report(self.folder, self.study, self._objectives, confirmation.judge())

    def results(self, trainer: ModelTrainer) -> Results:
        """What the search found.

        Args:
            trainer: The driver's trainer.
        """
        objective = self.checked.objective
        weights = SavedWeights(
            type(trainer), trainer.run_config, self.folder, self.search_id, trainer.args.scratch_dir
        )
        return Results(self.study, objective, self.folder, weights, self._confirmation(trainer))
