"""What a user sees while the finalists of a search are trained again."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ray_st.study.confirmed import Confirmed
from ray_st.study.confirmed_table import (
    CONFIRMED,
    describe_cost,
    describe_finalist,
    reason_of_choice,
    write_finalists,
)
from ray_st.study.finalists import Repetition
from ray_st.study.search_progress import LiveLines, SearchProgress
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord


class FinalistProgress(SearchProgress):
    """Reports the trainings of finalists, and keeps their tables up to date.

    Args:
        study: The study of the trainings.
        folder: The search's folder.
        part: The folder of the trainings in it.
        tensorboard: Whether to write trainings for TensorBoard's HParams.
        plan: The finalist and the seed of each training.
        judge: Ranks the finalists.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        part: str,
        tensorboard: bool,
        plan: Sequence[Repetition],
        judge: Callable[[], Confirmed],
    ) -> None:
        live = LiveLines(sys.stdout) if sys.stdout.isatty() else None
        super().__init__(study, 1, folder / part, tensorboard, live)
        self._search, self._plan, self._judge = folder, plan, judge

    def begin(self) -> None:
        """Announces the trainings."""
        done = sum(not record.is_running for record in self._study.records)
        finalists = len({one.finalist.number for one in self._plan})
        before = f", {done} of them done before" if done else ""
        which = "trial is" if finalists == 1 else f"{finalists} trials are"
        self._write(
            f"search {self._search.name!r}: its best {which} trained again with fresh seeds: "
            f"{len(self._plan)} trainings{before}; records in {self._folder}"
        )
        self._table()

    def concluded(self) -> None:
        """Reports which finalist won."""
        confirmed = self._judge()
        if confirmed.winner is not None:
            self._write(
                f"confirmed: {describe_finalist(confirmed.winner)}. {reason_of_choice(confirmed)} "
                f"{describe_cost(confirmed)}"
            )

    def _shown(self, record: TrialRecord) -> TrialRecord:
        one = self._plan[record.number]
        return dataclasses.replace(record, number=one.finalist.number, name=f"again with seed {one.seed}")

    def _best(self) -> str:
        confirmed = self._judge()
        return f"ahead: {describe_finalist(confirmed.winner)}" if confirmed.winner is not None else ""

    def _table(self) -> None:
        super()._table()
        write_finalists(self._search / CONFIRMED, self._judge())
