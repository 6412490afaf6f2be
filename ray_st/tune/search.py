"""The front door of a search: everything is checked here, then Ray Tune runs the trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import HPSearchBackend

from ray_st.model_trainer import ModelTrainer
from ray_st.study.journal import JOURNAL, Journal
from ray_st.study.objective import Compute
from ray_st.study.search_options import SearchOptions, as_backend
from ray_st.study.search_settings import check_settings
from ray_st.study.space import GivenSpace
from ray_st.study.study import Study
from ray_st.study.termination import make_terminator
from ray_st.tune.checked_search import check_search
from ray_st.tune.confirmation import PART
from ray_st.tune.found_run import FoundRun
from ray_st.tune.identity import fixed_settings
from ray_st.tune.search_phases import SearchPhases
from ray_st.util.events import notes

if TYPE_CHECKING:
    from ray_st.runtime.tune.search_home import SearchFolder


def hyperparameter_search(
    trainer: ModelTrainer,
    hp_space: GivenSpace = None,
    compute_objective: Compute = None,
    n_trials: int = 20,
    direction: str | Sequence[str] = "minimize",
    backend: str | HPSearchBackend | None = None,
    hp_name: Callable[[Any], str] | None = None,
    **kwargs: Any,
) -> FoundRun | list[FoundRun]:
    """Searches for good hyperparameters; ``SentenceTransformerTrainer.hyperparameter_search`` calls it.

    Args:
        trainer: The trainer, with ``model_init``, and with the loss as a function of the model.
        hp_space: A function of an Optuna trial, a dict of Ray Tune domains, or ``"default"``.
        compute_objective: A function that computes the objective from an evaluation's metrics, or a metric's
            name.
        n_trials: How many trials.
        direction: Of the objective, or of each of several.
        backend: ``"ray"`` (default), or ``"optuna"`` for the same search, by default one trial at a time.
        hp_name: A trial's name from the Optuna trial.
        kwargs: As for :class:`ray_st.study.search_options.SearchOptions`.

    Returns:
        The best run; with several objectives, the Pareto front.

    Raises:
        ValueError: If the search cannot work; wherever possible before any trial starts.
        SearchFailed: If no trial was completed, or no finalist could be trained again.
        Interrupted: If the search was asked to stop; started again under its name, it continues.
    """
    sequential = as_backend(backend) == "optuna"
    checked = check_search(trainer, hp_space, compute_objective, n_trials, direction, **kwargs)
    if checked.explained:
        notes.info(checked.explained)
    options = checked.options
    folder = _folder(str(trainer.args.output_dir), options.name)
    with ExitStack() as stack:
        place = stack.enter_context(_taken(folder, trainer, options))
        search_id = check_settings(folder, fixed_settings(checked, trainer))
        stack.enter_context(place.copying())
        study = Study(
            checked.space,
            checked.objective,
            Journal(folder / JOURNAL, place.check),
            checked.trials,
            seed=checked.seed,
            sampler=options.sampler,
            points=options.points_to_evaluate,
            earlier=checked.earlier,
            storage=options.storage,
            name=folder.name,
            search_id=search_id,
            hp_name=hp_name,
            terminator=make_terminator(options.terminator, checked.trials, checked.seed),
        )
        concurrent = options.max_concurrent_trials or (1 if sequential else None)
        search = SearchPhases(checked, study, place, search_id, concurrent)
        search.run(trainer)
        return search.results(trainer).found(sequential)


def _folder(output_dir: str, name: str | None) -> Path:
    folder = Path(output_dir).absolute() / (name or f"search-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _taken(
    folder: Path, trainer: ModelTrainer, options: SearchOptions
) -> AbstractContextManager[SearchFolder]:
    """Holds a search's folder: of two searches of one name, the second is rejected."""
    from ray_st.runtime.tune import search_home

    return search_home.taken(folder, trainer.run_config, (PART,) if options.confirm else ())
