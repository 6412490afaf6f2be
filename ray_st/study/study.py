"""A search's study: suggests hyperparameters, takes evaluations and ends, all written to the journal first.

The study is Optuna's, the journal is ours: from it a killed search continues where it was, whatever the
storage.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import optuna
from optuna.distributions import json_to_distribution
from optuna.samplers import BaseGASampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from ray_st.study.any_choices import as_plain, label
from ray_st.study.constraints import reached
from ray_st.study.journal import TERMINATED, Journal, RecordError, apply
from ray_st.study.objective import Objective, ObjectiveError, finite
from ray_st.study.patient_storage import patient
from ray_st.study.space import Space, draw, open_study
from ray_st.study.termination import Termination, Terminator, random_trials
from ray_st.study.trial_record import TrialRecord

STATES = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAIL}
NUMBER = "ray_st:number"
"""User attribute of an Optuna trial: its number in the search."""
CHANGES = "ray_st:changes"
"""User attribute of an Optuna trial: when it became a copy. Its Optuna parameters stay the first ones."""

FEASIBLE, REASON = "feasible", "reason"
"""User attributes of an ended trial: whether it satisfies the constraints, why it failed or was stopped."""

SEARCH = "ray_st:search"
"""User attribute of Optuna's study: the search it belongs to."""

Sampler = optuna.samplers.BaseSampler
_STOPPING = (optuna.samplers.GridSampler, optuna.samplers.BruteForceSampler)


class Study:
    """Suggests hyperparameters and records what happens to them.

    Unless the user gives a sampler, the first quarter of the trials (4 to 10) is drawn at random, and the
    rest comes from TPE. Samplers are seeded with (seed, number of the trial): a suggestion depends only on
    what was reported before it, so a search that is continued suggests what it would have suggested without
    the interruption.

    Args:
        space: The space.
        objective: The objective, with its directions.
        journal: Where events are written; the search continues from the events it already holds.
        trials: How many trials there will be.
        seed: Seed of the suggestions.
        sampler: An Optuna sampler, or a function that makes one from a seed, called for each suggestion.
        points: Hyperparameters of the first trials.
        earlier: Trials of earlier searches to learn from.
        storage: Optuna's storage, or the URL of a database; by default in memory.
        name: The study's name in its storage.
        search_id: The search's unique identifier.
        hp_name: Gives a trial's name from the Optuna trial.
        terminator: Ends the search before it has all its trials; None for never. One that has ended stays
            ended while it has a terminator.

    Attributes:
        records: The trials so far, by number.
        evaluations: The number of a trial and one of its evaluations, in the order of their reports.
        study: Optuna's study.
        terminated: Why a terminator ended the search; empty if none did.
    """

    def __init__(
        self,
        space: Space,
        objective: Objective,
        journal: Journal,
        trials: int,
        seed: int = 0,
        sampler: Sampler | Callable[[int], Sampler] | None = None,
        points: Sequence[Mapping[str, Any]] = (),
        earlier: Sequence[TrialRecord] = (),
        storage: str | optuna.storages.BaseStorage | None = None,
        name: str | None = None,
        search_id: str = "",
        hp_name: Callable[[Trial], str] | None = None,
        terminator: Terminator | None = None,
    ) -> None:
        self._termination = Termination(terminator)
        self._space, self._objective, self._journal, self._wanted = space, objective, journal, trials
        self._seed, self._hp_name = seed, hp_name
        self._fixed = sampler if isinstance(sampler, Sampler) else None
        self._make = _tpe(trials) if sampler is None or isinstance(sampler, Sampler) else sampler
        past = journal.past()
        self.records, self.evaluations = past.records, past.evaluations
        self.terminated = past.terminated if self._termination else ""
        self.study = open_study(
            storage=patient(storage),
            sampler=self._sampler(len(self.records)),
            study_name=name if storage is not None else None,
            directions=list(objective.directions),
            load_if_exists=True,
        )
        _claim(self.study, search_id)
        self._ready: Callable[[TrialRecord], bool] = lambda record: True
        self._live: dict[int, Trial] = {}
        self._copies: dict[int | str, tuple[object, FrozenTrial]] = {}
        self._again = deque(record for record in self.records if record.is_running)
        self._restore(earlier)
        for point in points[len(self.records) :]:
            known = {name: label(as_plain(name, value)) for name, value in point.items()}
            self.study.enqueue_trial(known, skip_if_exists=storage is not None)

    def _sampler(self, number: int) -> Sampler:
        if self._fixed is not None:
            return self._fixed
        return self._make(int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]))

    # ---- restoring ----

    def _restore(self, earlier: Sequence[TrialRecord]) -> None:
        """Brings Optuna's study up to date with the records."""
        judged = [record for record in earlier if self._judge(record)]
        wanted: dict[int | str, TrialRecord] = {f"earlier {record.number}": record for record in judged}
        wanted |= {record.number: record for record in self.records}
        there = {trial.user_attrs.get(NUMBER) for trial in self.study.get_trials(deepcopy=False)}
        for key, record in wanted.items():
            if key not in there:
                self.study.add_trial(_frozen(record, key, len(self._objective.directions)))
        self._choose_parents()
        if self.records and self._fixed is not None:
            self._fixed.reseed_rng()  # it is new and would repeat its first suggestions
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            number = trial.user_attrs.get(NUMBER)
            # In a database, but its driver was killed before it was in the journal.
            if not isinstance(number, int) or number >= len(self.records):
                self.study.tell(trial.number, state=TrialState.FAIL)
                continue
            self._live[number] = Trial(self.study, trial._trial_id)
            self._catch_up(self.records[number], trial)
            if not self.records[number].is_running:
                self._close(self.records[number])

    def _choose_parents(self) -> None:
        """Makes a genetic sampler choose the parents of each generation, as it did when these began.

        It notes in the study whom it chose, and takes them in another order from then on.
        """
        sampler = self.study.sampler
        if isinstance(sampler, BaseGASampler):
            every = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            begun = max((sampler.get_trial_generation(self.study, trial) for trial in every), default=0)
            for generation in range(1, begun + 1):
                sampler.get_parent_population(self.study, generation)

    def _catch_up(self, record: TrialRecord, there: FrozenTrial) -> None:
        """Reports evaluations that are in the journal but not in the storage."""
        for evaluation, value in _curve(record, len(self._objective.directions)).items():
            if evaluation not in there.intermediate_values:
                self._live[record.number].report(value, evaluation)

    def _judge(self, record: TrialRecord) -> bool:
        """Applies the constraints to a trial of an earlier search; whether it reported what they name."""
        try:
            metrics = record.history[-1].get("metrics", {}) if record.history else None
            record.violations = {} if metrics is None else self._objective.violations(metrics)
        except ObjectiveError:
            return False
        return True

    # ---- ask, report, tell ----

    @property
    def left(self) -> int:
        """How many trials have yet to be started or continued."""
        return self.to_come + len(self._again)

    @property
    def to_come(self) -> int:
        """How many trials have yet to be suggested."""
        return 0 if self.terminated else max(self._wanted - len(self.records), 0)

    def waiting(self) -> list[int]:
        """The trials that wait for others, by number."""
        return [record.number for record in self.records if record.is_running and not self._ready(record)]

    def ask(self, ready: Callable[[TrialRecord], bool] = lambda record: True) -> TrialRecord | None:
        """The next trial to run: one that a killed driver left running, or a new one; None if there is none.

        Args:
            ready: Whether a trial that was left running can continue now.
        """
        self._ready = ready
        again = next((record for record in self._again if ready(record)), None)
        if again is not None:
            self._again.remove(again)
            self.resumed(again.number)
            return again
        number = len(self.records)
        if not self.to_come:
            return None
        waiting = self.waiting()
        if waiting and self._fixed is None:
            self._suggest_with_waiting(waiting, number)
        self.study.sampler = self._sampler(number)
        trial = self.study.ask()
        trial.set_user_attr(NUMBER, number)
        point = draw(self._space, trial)
        name = self._hp_name(trial) if self._hp_name else ""
        self._live[number] = trial
        marks = _marks(trial)
        self._note("asked", number, **vars(point), name=name, **({"marks": marks} if marks else {}))
        return self.records[number]

    def _suggest_with_waiting(self, waiting: Sequence[int], number: int) -> None:
        """Suggests the next trial from trials that wait, too; Optuna's samplers ignore running trials."""
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return
        resting = set(waiting)
        beside = open_study(directions=list(self._objective.directions), sampler=self._sampler(number))
        for trial in self.study.get_trials(deepcopy=False):
            beside.add_trial(self._beside(trial, trial.user_attrs[NUMBER] in resting))
        self.study.enqueue_trial(draw(self._space, beside.ask()).params)

    def _beside(self, trial: FrozenTrial, rests: bool) -> FrozenTrial:
        """A trial as another study holds it: one that waits as if it had been stopped."""
        number = trial.user_attrs[NUMBER]
        state = (trial.state, rests, self.records[number].evaluations if isinstance(number, int) else 0)
        known = self._copies.get(number)
        if known is None or known[0] != state:
            if rests:
                stopped = dataclasses.replace(self.records[number], state="PRUNED")
                trial = _frozen(stopped, number, len(self._objective.directions))
            known = self._copies[number] = (state, _Shared.of(trial))
        return known[1]

    def _note(self, event: str, number: int, **facts: Any) -> None:
        """Writes an event to the journal, then applies it to the records."""
        apply(self.records, self._journal.append(event=event, number=number, **facts))
        if event == "reported":
            self.evaluations.append((number, self.records[number].history[-1]))

    def report(
        self, number: int, evaluation: int, step: int, objectives: Sequence[float], **facts: Any
    ) -> None:
        """Records an evaluation; one that is already known is ignored.

        Args:
            number: The trial.
            evaluation: 1-based index of the evaluation within its trial.
            step: The global step.
            objectives: The values.
            facts: What else to record.
        """
        record = self.records[number]
        if record.evaluations >= evaluation:
            return
        compared = self._objective.of_trial([*(event["objectives"] for event in record.history), objectives])
        if compared != tuple(objectives):
            facts["compared"] = list(compared)
        self._note("reported", number, evaluation=evaluation, step=step, objectives=list(objectives), **facts)
        if len(objectives) == 1 and finite(objectives):
            self._live[number].report(objectives[0], evaluation)

    def resumed(self, number: int) -> None:
        """Records that a trial runs again."""
        self._note("resumed", number)

    def copied(self, number: int, evaluation: int, source: int, step: int, values: Mapping[str, Any]) -> None:
        """Records that a trial became a copy of another.

        Args:
            number: The trial.
            evaluation: After which of its evaluations.
            source: The other trial.
            step: The step of the other trial's checkpoint.
            values: Its hyperparameters from now on.
        """
        self._note("copied", number, evaluation=evaluation, source=source, step=step, values=dict(values))
        if number in self._live:
            self._live[number].set_user_attr(CHANGES, self.records[number].changes)

    def tell(self, number: int, state: str, reason: str = "") -> TrialRecord:
        """Records how a trial ended.

        Args:
            number: The trial.
            state: ``COMPLETE``, ``PRUNED`` or ``FAIL``; a complete trial without finite values counts as
                failed.
            reason: Why it failed.
        """
        record = self.records[number]
        if state == "COMPLETE" and not (record.objectives and finite(record.objectives)):
            state = "FAIL"
            reason = reason or f"the objective is {list(record.objectives) or 'missing'}"
        self._note("told", number, state=state, reason=reason)
        if record in self._again:
            self._again.remove(record)
        self._close(record)
        if state == "COMPLETE" and self.to_come and (why := self._termination.reason(self.study)):
            self._note(TERMINATED, number, reason=why)
            self.terminated = why
        return record

    def _close(self, record: TrialRecord) -> None:
        trial = self._live.pop(record.number)
        for text in record.violations.keys() - trial.constraints.keys():  # a killed driver may have set some
            trial.set_constraint(text, record.violations[text])
        for name, fact in _facts(record).items():
            trial.set_user_attr(name, fact)
        values = list(record.objectives) if record.state == "COMPLETE" else None
        # At the end of their grid these call study.stop(), which raises outside of Optuna's own loop.
        stops = isinstance(self.study.sampler, _STOPPING)
        with suppress(RuntimeError) if stops else nullcontext():
            self.study.tell(trial, values, state=STATES[record.state])

    # ---- results ----

    def best(self, count: int = 1) -> list[TrialRecord]:
        """The best complete trials that satisfy the constraints; with several objectives, the Pareto front.

        Args:
            count: How many, for a single objective.
        """
        complete = [record for record in self.records if record.state == "COMPLETE" and record.is_feasible]
        signs = [1.0 if way == "maximize" else -1.0 for way in self._objective.directions]
        scores = {r.number: tuple(s * v for s, v in zip(signs, r.objectives, strict=True)) for r in complete}
        if len(signs) == 1:
            return sorted(complete, key=lambda record: (-scores[record.number][0], record.number))[:count]
        return [
            r for r in complete if not any(_dominates(other, scores[r.number]) for other in scores.values())
        ]


def _claim(study: optuna.Study, search_id: str) -> None:
    """Marks a study in a database as this search's.

    Raises:
        RecordError: If it holds trials of another search.
    """
    owner, trials = study.user_attrs.get(SEARCH, ""), study.get_trials(deepcopy=False)
    if trials and owner != search_id:
        raise RecordError(
            f"storage: its study {study.study_name!r} holds {len(trials)} trials of another search, whose "
            "folder is not this one's. Give the search another name or another storage; warm_start learns "
            "from the folder of an earlier search."
        )
    if owner != search_id:
        study.set_user_attr(SEARCH, search_id)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _tpe(trials: int) -> Callable[[int], Sampler]:
    """Makes TPE samplers that suggest at random for the first quarter of the trials only.

    Optuna's default is ten random trials, half of a search with twenty; docs/log.md says what that costs.
    """
    startup = random_trials(trials)
    return lambda seed: optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)


class _Shared(FrozenTrial):
    """A trial that several studies hold, and none changes: Optuna copies all parts of each one it is given.

    Those copies were most of the time of a suggestion among hundreds of trials.
    """

    @classmethod
    def of(cls, trial: FrozenTrial) -> FrozenTrial:
        """The trial, sharing its parts."""
        shared = copy.copy(trial)
        shared.__class__ = cls
        return shared

    def __deepcopy__(self, memo: object) -> FrozenTrial:
        return copy.copy(self)


def _marks(trial: Trial) -> dict[str, Any]:
    """What a sampler noted about a trial that it draws, such as the generation of a genetic one.

    What repeats the parameters is left out.
    """
    noted = trial.storage.get_trial_system_attrs(trial._trial_id)
    return {name: value for name, value in noted.items() if "_params" not in name}


def _facts(record: TrialRecord) -> dict[str, Any]:
    """What a dashboard shows of an ended trial besides Optuna's own: user attributes by name.

    Optuna's dashboard 0.21 does not show Optuna 5's named constraints.
    """
    facts: dict[str, Any] = {REASON: record.reason} if record.reason else {}
    if record.violations:
        facts[FEASIBLE] = record.is_feasible
        facts |= {text: float(number) for text in record.violations if (number := reached(record, text))}
    return facts


def _curve(record: TrialRecord, objectives: int) -> dict[int, float]:
    """A record's values as Optuna's intermediate values; it has none with several objectives."""
    return {
        event["evaluation"]: event["objectives"][0]
        for event in record.history
        if objectives == 1 and finite(event["objectives"])
    }


def _frozen(record: TrialRecord, number: int | str, objectives: int) -> FrozenTrial:
    """A record as an Optuna trial."""
    steps = _curve(record, objectives)
    values = list(record.objectives) if record.state == "COMPLETE" else None
    if record.state == "PRUNED" and steps:
        values = [steps[max(steps)]]
    return create_trial(
        state=STATES.get(record.state, TrialState.RUNNING),
        values=values,
        params=record.params,
        distributions={name: json_to_distribution(text) for name, text in record.distributions.items()},
        user_attrs={
            NUMBER: number,
            **({CHANGES: record.changes} if record.changes else {}),
            **_facts(record),
        },
        system_attrs=dict(record.marks),
        intermediate_values=steps,
        constraints=record.violations,
    )
