"""What a search gives to the cluster, as plain values: what its trials are made of, and a study to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray_st.study.kept_weights import Saving
from ray_st.study.objective import Objective
from ray_st.study.population import Population
from ray_st.study.search_options import SearchOptions
from ray_st.study.search_progress import SearchProgress
from ray_st.study.study import Study
from ray_st.study.watcher import Retention, Steps
from ray_st.tune.trial_factory import TrialFactory

if TYPE_CHECKING:
    from ray_st.runtime.tune.search_home import SearchFolder


@dataclass(frozen=True)
class Given:
    """What a search is made of, as far as running its trials needs it.

    Args:
        template: What all trials share.
        values: A trial's hyperparameters, as an example.
        objective: The objective.
        options: The search's options.
        place: Its folder, here and in the user's storage.
        search_id: Its unique identifier.
    """

    template: TrialFactory
    values: Mapping[str, Any]
    objective: Objective
    options: SearchOptions
    place: SearchFolder
    search_id: str

    @property
    def folder(self) -> Path:
        """Its folder on this machine."""
        return self.place.path


@dataclass(frozen=True)
class Work:
    """A study to run.

    Args:
        study: The study.
        template: What all its trials share.
        progress: Shows it to the user.
        part: Folder of its records and checkpoints below the search's; empty for the search's own.
        options: How its trials are scheduled.
        population: The rules of a population; None for independent trials.
        must_checkpoint: After which evaluations trials checkpoint and wait for others; None if they never do.
        saving: After which evaluations trials save their weights.
        retention: Makes what deletes checkpoints, from a function that gives a trial's.
    """

    study: Study
    template: TrialFactory
    progress: SearchProgress
    part: str
    options: SearchOptions
    population: Population | None
    must_checkpoint: Callable[[int], bool] | None
    saving: Saving
    retention: Callable[[Callable[[int], Steps]], Retention]
