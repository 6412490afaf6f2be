"""What a finished search returns, made from its records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ray_st.study.confirmed import Finalist
from ray_st.study.constraints import describe_violations, nearest
from ray_st.study.kept_weights import step_of_value
from ray_st.study.objective import Objective
from ray_st.study.search_summary import Summary
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord
from ray_st.study.trial_table import TABLE
from ray_st.tune.confirmation import PART, Confirmation
from ray_st.tune.found_run import FoundRun, SavedWeights

_TRAIN_IT = "Or train it: trainer.apply_hyperparameters(best), then trainer.train()."


class SearchFailed(RuntimeError):
    """A search ended without a complete trial that satisfies its constraints, or a confirmed finalist."""


@dataclass(frozen=True)
class Results:
    """A finished search.

    Args:
        study: Its study.
        objective: Its objective.
        folder: Its folder on this machine.
        weights: Opens the weights of its trials.
        confirmation: The trainings of its finalists; None without.
    """

    study: Study
    objective: Objective
    folder: Path
    weights: SavedWeights
    confirmation: Confirmation | None

    def found(self, sequential: bool) -> FoundRun | list[FoundRun]:
        """The best run; with several objectives, the Pareto front.

        Args:
            sequential: Whether to leave out the summary, as transformers does with its backend ``"optuna"``.

        Raises:
            SearchFailed: If no trial was completed, or no finalist could be trained again.
        """
        best = self.study.best()
        if not best:
            records = self.study.records
            closest = nearest(records)
            if closest is not None and not closest.is_feasible:
                raise SearchFailed(
                    f"No trial of {len(records)} satisfies the constraints to its end; the nearest is trial "
                    f"{closest.number}: {describe_violations(closest)}. See "
                    f"{self.folder / TABLE}; relax a constraint or widen hp_space under another name."
                )
            reasons = sorted({record.reason for record in records if record.reason})
            raise SearchFailed(
                f"No trial of {len(records)} was completed; see {self.folder / TABLE}. {' | '.join(reasons)}"
            )
        summary = None if sequential else self._summary()
        if self.confirmation is not None:
            return self._confirmed(self.confirmation, summary)
        if len(self.objective.directions) > 1:
            return [self._searched(record, list(record.objectives), summary) for record in best]
        return self._searched(best[0], best[0].objectives[0], summary)

    def _summary(self) -> Summary:
        again = self.confirmation
        return Summary(
            str(self.folder),
            tuple(self.study.records),
            self.study.study,
            () if again is None else tuple(again.study.records),
            None if again is None else again.judge(),
        )

    def _searched(
        self, record: TrialRecord, objective: float | list[float], summary: Summary | None
    ) -> FoundRun:
        """A trial as the result."""
        step = step_of_value(record, self.objective.scope, self.objective.directions[0] == "maximize")
        missing = (
            f"The best run, trial {record.number}, has no checkpoint of step {step}, whose value the search "
            "reports. Search with confirm=1 or more, which saves the weights of the confirmed winner, or "
            f"with a save_strategy that saves at that step. {_TRAIN_IT}"
        )
        weights = self.weights.at([(f"run-{record.number}", step)], missing)
        return self._run(record, objective, summary, None, weights)

    def _confirmed(self, again: Confirmation, summary: Summary | None) -> FoundRun:
        """The finalist that won as the result."""
        confirmed = again.judge()
        winner = confirmed.winner
        if winner is None:
            raise SearchFailed(
                f"None of the {confirmed.runs} trainings of the finalists with fresh seeds was completed; "
                f"see {self.folder / PART / TABLE}. {' | '.join(confirmed.failures)} The search itself has a "
                f"result: start it again with name={self.folder.name!r} and confirm=0."
            )
        missing = (
            f"The weights of trial {winner.number}, the confirmed winner, are not kept: when a search ends, "
            "those of its best keep_checkpoints finalists stay, and another may win when it is continued. "
            f"{_TRAIN_IT}"
        )
        places = [(f"{PART}/run-{run}", again.step_of(run)) for run in winner.typical_runs]
        weights = self.weights.at(places, missing)
        return self._run(self.study.records[winner.number], winner.mean, summary, winner, weights)

    @staticmethod
    def _run(
        record: TrialRecord,
        objective: float | list[float],
        summary: Summary | None,
        confirmed: Finalist | None,
        weights: SavedWeights,
    ) -> FoundRun:
        return FoundRun.of(str(record.number), objective, record.values, summary, confirmed, weights)
