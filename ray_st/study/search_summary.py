"""A finished search as plain values: what the ``run_summary`` of its result holds."""

from __future__ import annotations

from dataclasses import dataclass, field

import optuna

from ray_st.study.confirmed import Confirmed
from ray_st.study.trial_record import TrialRecord


@dataclass(frozen=True)
class Summary:
    """A finished search.

    Args:
        folder: Where its records and checkpoints are.
        trials: Its trials, by number.
        study: Optuna's study, for its plots and importances.
        confirmations: The trainings of its finalists with fresh seeds, by number.
        confirmed: What they say about the finalists, and what they cost (``rows``, ``seconds``); None without
            ``confirm``.
    """

    folder: str
    trials: tuple[TrialRecord, ...]
    study: optuna.Study = field(repr=False)
    confirmations: tuple[TrialRecord, ...] = ()
    confirmed: Confirmed | None = None

    @property
    def rows(self) -> int:
        """Training rows of all trials and confirmations."""
        return sum(record.samples for record in (*self.trials, *self.confirmations))

    @property
    def seconds(self) -> float:
        """The seconds that all of them ran; several may have run at a time."""
        return sum(record.seconds for record in (*self.trials, *self.confirmations))
