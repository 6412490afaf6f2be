"""The front door of a search: everything is checked here, then Ray Tune runs the trials."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import BaseTrial
from transformers.trainer_utils import HPSearchBackend

from ray_st.model_trainer import ModelTrainer
from ray_st.study.constraints import parse_all
from ray_st.study.default_space import DEFAULT
from ray_st.study.halving import Rungs
from ray_st.study.journal import JOURNAL, Journal
from ray_st.study.kept_weights import Saving
from ray_st.study.objective import Compute, Objective, as_directions, as_scope, check_objective
from ray_st.study.population import Population
from ray_st.study.search_options import SearchOptions, as_backend, as_options, trials_wanted
from ray_st.study.search_progress import SearchProgress
from ray_st.study.search_report import write_report
from ray_st.study.search_settings import check_comparable, check_settings
from ray_st.study.space import GivenSpace, Space, as_space, describe, probe
from ray_st.study.study import Study
from ray_st.study.termination import make_terminator
from ray_st.study.trial_record import TrialRecord
from ray_st.study.watcher import Retention
from ray_st.training.argument_checks import Scaling
from ray_st.tune.confirmation import PART, Confirmation
from ray_st.tune.found_run import FoundRun, SavedWeights
from ray_st.tune.identity import argument_facts, objective_facts, trial_facts
from ray_st.tune.results import Results
from ray_st.tune.search_checks import (
    check_halving,
    check_points,
    check_template,
    check_trainer,
    check_unconfirmed,
    make_population,
)
from ray_st.tune.space_facts import default_space
from ray_st.tune.trial_factory import TrialFactory
from ray_st.tune.trial_work import Given, Work
from ray_st.util.events import notes
from ray_st.world import WorkerRange

if TYPE_CHECKING:
    from ray_st.runtime.tune.search_home import SearchFolder
    from ray_st.tune.trial_runner import TrialRunner


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
        search_id = check_settings(folder, _fixed_settings(checked, trainer))
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
        search = _Search(checked, study, place, search_id, concurrent)
        search.run(trainer)
        return search.results(trainer).found(sequential)


def _fixed_settings(checked: CheckedSearch, trainer: ModelTrainer) -> dict[str, Any]:
    """What must stay the same for the search to continue: not the number of trials, nor the machines."""
    settings = {
        "space": checked.distributions,
        "seed": checked.seed,
        **_objective_settings(checked.objective),
        **_constraint_settings(checked.objective),
    }
    if checked.population is not None:
        settings["population"] = {"trials": checked.trials, **checked.population.describe()}
    example = checked.template(0, checked.values)
    return {
        **settings,
        "rungs": checked.options.rungs,
        **trial_facts(example, trainer.evaluator, _workers(trainer.scaling_config)),
        **argument_facts(trainer.args, checked.always_drawn),
    }


def _objective_settings(objective: Objective) -> dict[str, Any]:
    """What the values of a search mean."""
    facts = {"directions": list(objective.directions), **objective_facts(objective.compute)}
    return facts if objective.scope == "last" else {**facts, "ray_scope": objective.scope}


def _constraint_settings(objective: Objective) -> dict[str, Any]:
    """What a trial must satisfy; nothing in searches without constraints, as in earlier versions."""
    return {"constraints": sorted(map(str, objective.constraints))} if objective.constraints else {}


def _workers(scaling: Scaling | None) -> int:
    """How many workers a trial has."""
    return 1 if scaling is None else WorkerRange.of(scaling.num_workers).most


@dataclass(frozen=True)
class CheckedSearch:
    """A search that has been checked, as far as possible before it starts.

    Args:
        template: What all trials share.
        objective: The objective.
        space: The space.
        distributions: What it holds, by name.
        values: A trial's hyperparameters, as an example.
        always_drawn: Names that every trial sets.
        trials: How many trials there will be.
        earlier: Finished trials of an earlier search.
        options: How it is run.
        seed: Seed of the suggestions.
        population: The rules of a population; None for independent trials.
        explained: Why the space is as it is, if it was chosen here.
    """

    template: TrialFactory
    objective: Objective
    space: Space
    distributions: dict[str, Any]
    values: dict[str, Any]
    always_drawn: frozenset[str]
    trials: int
    earlier: list[TrialRecord]
    options: SearchOptions
    seed: int
    population: Population | None
    explained: str = ""

    @property
    def maximize(self) -> bool:
        """Whether more is better, of the first objective."""
        return self.objective.maximize

    @property
    def waits_after(self) -> Callable[[int], bool] | None:
        """After which evaluations trials wait for others; None if they never do."""
        if self.population is not None:
            return self.population.rounds
        halving = self.options.scheduler == "halving"
        return Rungs(self.options.grace_period, self.options.reduction_factor) if halving else None


def check_search(
    trainer: ModelTrainer,
    hp_space: GivenSpace,
    compute_objective: Compute,
    n_trials: int,
    direction: str | Sequence[str],
    **kwargs: Any,
) -> CheckedSearch:
    """Checks a search without starting anything; arguments as for :func:`hyperparameter_search`.

    Raises:
        ValueError: If it cannot work.
    """
    directions = as_directions(direction)
    scope = as_scope(trainer.args.ray_scope, directions)
    options = as_options(kwargs, len(directions))
    trials = trials_wanted(n_trials, options.points_to_evaluate)
    check_trainer(trainer, options.data_init)
    _check_sendable(trainer)
    evaluates = trainer.evaluator is not None or trainer.eval_dataset is not None
    constraints = parse_all(options.constraints)
    check_objective(compute_objective, directions, trainer.metric_names(), evaluates, constraints)
    chosen = default_space(trainer, options.data_init is not None) if hp_space == DEFAULT else None
    space = as_space(chosen or hp_space, _suggest)
    points = probe(space)
    distributions = describe(points)
    check_points(options.points_to_evaluate, distributions)
    template = check_template(_template(trainer, options), points)
    seed = trainer.args.seed if options.seed is None else options.seed
    maximize = directions[0] == "maximize"
    population = make_population(options, template, distributions, trials, maximize, seed)
    if options.scheduler == "halving":
        check_halving(template)
    if population is not None:
        check_unconfirmed(options.confirm)
    objective = Objective(compute_objective, directions, scope, constraints)
    return CheckedSearch(
        template,
        objective,
        space,
        distributions,
        points[0].values,
        frozenset(points[0].values).intersection(*(point.values for point in points)),
        trials,
        _earlier(options.warm_start, objective),
        options,
        seed,
        population,
        f"search space:\n{chosen}" if chosen else "",
    )


def _check_sendable(trainer: ModelTrainer) -> None:
    """Checks that a trainer's parts can be sent to trials; model and loss are made there."""
    from ray_st.runtime.train.sendable import check_sendable

    made = {"model": None, "loss": trainer.loss_init, "model_init": trainer.model_init}
    check_sendable({**trainer.spec().parts(), **made})


def _suggest(trial: BaseTrial, name: str, value: object) -> Any:
    if not type(value).__module__.startswith("ray.") and not isinstance(value, dict):
        return value
    from ray_st.runtime.tune.domains import suggest

    return suggest(trial, name, value)


def _earlier(warm_start: str | None, objective: Objective) -> list[TrialRecord]:
    """The finished trials of an earlier search, except those whose hyperparameters changed on the way."""
    if warm_start is None:
        return []
    source = Path(warm_start) / JOURNAL
    if not source.is_file():
        raise ValueError(f"warm_start: {warm_start} is no folder of a search (it has no {JOURNAL}).")
    check_comparable(source.parent, _objective_settings(objective))
    return [record for record in Journal(source).records() if not (record.is_running or record.changes)]


def _template(trainer: ModelTrainer, options: SearchOptions) -> TrialFactory:
    described = trainer.spec()
    assert trainer.model_init is not None
    bare = {**described.options, "model": None, "loss": None}
    return TrialFactory(
        description=dataclasses.replace(described, options=bare),
        family=trainer.family,
        model_init=trainer.model_init,
        loss_init=trainer.loss_init,
        base=None,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        samplers=trainer.data.samplers,
        rungs=options.rungs,
        data_init=options.data_init,
    )


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


@dataclass(frozen=True)
class _Search:
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
