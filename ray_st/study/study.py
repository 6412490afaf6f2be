"""A search's study: parameters are asked for, evaluations reported, ends told; each is written down first.

The study is Optuna's, the records are ours: with them a killed search goes on where it was, whatever the storage.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import optuna
from optuna.distributions import json_to_distribution
from optuna.trial import Trial, TrialState, create_trial

from ray_st.study.any_choices import as_plain, label
from ray_st.study.journal import Journal, RecordError, TrialRecord, apply
from ray_st.study.objective import Objective, finite
from ray_st.study.space import Space, draw, open_study

STATES = {"COMPLETE": TrialState.COMPLETE, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAIL}
NUMBER = "ray_st:number"
"""The user attribute in Optuna's study that holds a trial's number in its search."""
CHANGES = "ray_st:changes"
"""That which holds when a trial went on as a copy of another; its parameters there are those it began with."""

SEARCH = "ray_st:search"
"""The user attribute of Optuna's study that says whose it is."""

Sampler = optuna.samplers.BaseSampler
_STOPPING = (optuna.samplers.GridSampler, optuna.samplers.BruteForceSampler)


class Study:
    """Suggests parameters and remembers what became of them.

    Without a sampler of the user's, the first quarter of the trials (4 to 10) is drawn at random, and each further
    suggestion comes from TPE. Samplers are seeded with (seed, number of the trial): a suggestion depends on what was
    told before and on nothing else, so a search that goes on suggests what it would have.

    Args:
        space: The space.
        objective: The objective, with its directions.
        journal: Where events are written; what it holds already is gone on with.
        trials: How many trials there will be.
        seed: Seed of the suggestions.
        sampler: An Optuna sampler, or a function that makes one from a seed, called for each suggestion.
        points: Parameters to begin with.
        earlier: Trials of earlier searches to learn from.
        storage: Optuna's storage, or the URL of a database; by default in memory.
        name: The study's name in its storage.
        search_id: What tells the search from others of its name.
        hp_name: Gives a trial's name from the Optuna trial.
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
        storage: Any = None,
        name: str | None = None,
        search_id: str = "",
        hp_name: Callable[[Any], str] | None = None,
    ) -> None:
        self._space, self._objective, self._journal, self._wanted = space, objective, journal, trials
        self._seed, self._hp_name = seed, hp_name
        self._fixed = sampler if isinstance(sampler, Sampler) else None
        self._make = _tpe(trials) if sampler is None or isinstance(sampler, Sampler) else sampler
        self.records = journal.records()
        self.study = open_study(
            storage=storage,
            sampler=self._sampler(len(self.records)),
            study_name=name if storage is not None else None,
            directions=list(objective.directions),
            load_if_exists=True,
        )
        _claim(self.study, search_id)
        self._ready: Callable[[TrialRecord], bool] = lambda record: True
        self._live: dict[int, Trial] = {}
        self._again = deque(record for record in self.records if record.state == "RUNNING")
        self._restore(earlier)
        for point in points[len(self.records) :]:
            known = {name: label(as_plain(name, value)) for name, value in point.items()}
            self.study.enqueue_trial(known, skip_if_exists=storage is not None)

    def _sampler(self, number: int) -> Sampler:
        if self._fixed is not None:
            return self._fixed
        return self._make(int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0]))

    # ---- going on ----

    def _restore(self, earlier: Sequence[TrialRecord]) -> None:
        """Brings Optuna's study to where the records are."""
        there = {trial.user_attrs.get(NUMBER): trial for trial in self.study.get_trials(deepcopy=False)}
        for record in earlier:
            if f"earlier {record.number}" not in there:
                self.study.add_trial(
                    _frozen(record, f"earlier {record.number}", len(self._objective.directions))
                )
        for record in self.records:
            if record.number not in there:
                self.study.add_trial(_frozen(record, record.number, len(self._objective.directions)))
        if self.records and self._fixed is not None:
            self._fixed.reseed_rng()  # it is new and would begin anew
        for trial in self.study.get_trials(deepcopy=False):
            number = trial.user_attrs.get(NUMBER)
            if trial.state != TrialState.RUNNING or not isinstance(number, int):
                continue
            if number >= len(self.records):  # asked in a database, and killed before it was written down
                self.study.tell(trial.number, state=TrialState.FAIL)
                continue
            self._live[number] = Trial(self.study, trial._trial_id)
            record = self.records[number]
            if record.state != "RUNNING":
                self._close(record)

    # ---- ask, report, tell ----

    @property
    def left(self) -> int:
        """How many trials are still to be handed out."""
        return self._wanted - len(self.records) + len(self._again)

    @property
    def to_come(self) -> int:
        """How many trials are still to be suggested."""
        return self._wanted - len(self.records)

    def waiting(self) -> list[int]:
        """The trials that wait for others, by number."""
        return [
            record.number for record in self.records if record.state == "RUNNING" and not self._ready(record)
        ]

    def ask(self, ready: Callable[[TrialRecord], bool] = lambda record: True) -> TrialRecord | None:
        """The next trial to run: one that a killed driver left running, or a new one; None if there is none.

        Args:
            ready: Whether a trial that was left running can go on now.
        """
        self._ready = ready
        again = next((record for record in self._again if ready(record)), None)
        if again is not None:
            self._again.remove(again)
            self.went_on(again.number)
            return again
        number = len(self.records)
        if number >= self._wanted:
            return None
        waiting = self.waiting()
        if waiting and self._fixed is None:
            self._suggest_beside(waiting, number)
        self.study.sampler = self._sampler(number)
        trial = self.study.ask()
        trial.set_user_attr(NUMBER, number)
        point = draw(self._space, trial)
        name = self._hp_name(trial) if self._hp_name else ""
        self._live[number] = trial
        self._note("asked", number, **vars(point), name=name)
        return self.records[number]

    def _suggest_beside(self, waiting: Sequence[int], number: int) -> None:
        """Has the next trial suggested from what is known of trials that wait, too: to Optuna they run, and say nothing."""
        if self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            return
        beside = open_study(directions=list(self._objective.directions), sampler=self._sampler(number))
        for trial in self.study.get_trials(deepcopy=False):
            rests = trial.user_attrs[NUMBER]
            if rests in waiting:
                known = dataclasses.replace(self.records[rests], state="PRUNED")
                trial = _frozen(known, rests, len(self._objective.directions))
            beside.add_trial(trial)
        self.study.enqueue_trial(draw(self._space, beside.ask()).params)

    def _note(self, event: str, number: int, **facts: Any) -> None:
        """Writes down what happened, and only then knows it."""
        apply(self.records, self._journal.append(event=event, number=number, **facts))

    def report(
        self, number: int, evaluation: int, step: int, objectives: Sequence[float], **facts: Any
    ) -> None:
        """Notes an evaluation; one that is known already is passed over.

        Args:
            number: The trial.
            evaluation: The how-manieth evaluation of the trial it is, from 1.
            step: The global step.
            objectives: The values.
            facts: What else to write down.
        """
        history = self.records[number].history
        if history and history[-1]["evaluation"] >= evaluation:
            return
        compared = self._objective.of_trial([*(event["objectives"] for event in history), objectives])
        if compared != tuple(objectives):
            facts["compared"] = list(compared)
        self._note("reported", number, evaluation=evaluation, step=step, objectives=list(objectives), **facts)
        if len(objectives) == 1 and finite(objectives):
            self._live[number].report(objectives[0], evaluation)

    def went_on(self, number: int) -> None:
        """Notes that a trial runs again."""
        self._note("resumed", number)

    def copied(self, number: int, evaluation: int, source: int, step: int, values: Mapping[str, Any]) -> None:
        """Notes that a trial goes on as a copy of another.

        Args:
            number: The trial.
            evaluation: After which of its evaluations.
            source: The other trial.
            step: The step of the other's checkpoint.
            values: What it sets from now on.
        """
        self._note("copied", number, evaluation=evaluation, source=source, step=step, values=dict(values))
        if number in self._live:
            self._live[number].set_user_attr(CHANGES, self.records[number].changes)

    def tell(self, number: int, state: str, reason: str = "") -> TrialRecord:
        """Notes how a trial ended.

        Args:
            number: The trial.
            state: ``COMPLETE``, ``PRUNED`` or ``FAIL``; a complete trial without finite values counts as failed.
            reason: Why it failed.
        """
        record = self.records[number]
        if state == "COMPLETE" and not (record.objectives and finite(record.objectives)):
            state = "FAIL"
            reason = reason or f"the objective is {list(record.objectives) or 'missing'}"
        self._note("told", number, state=state, reason=reason)
        self._close(record)
        return record

    def _close(self, record: TrialRecord) -> None:
        trial = self._live.pop(record.number)
        values = list(record.objectives) if record.state == "COMPLETE" else None
        # At the end of their grid these want to stop a loop that Optuna runs; here they are just asked no more.
        stops = isinstance(self.study.sampler, _STOPPING)
        with suppress(RuntimeError) if stops else nullcontext():
            self.study.tell(trial, values, state=STATES[record.state])

    # ---- results ----

    def best(self, count: int = 1) -> list[TrialRecord]:
        """The best complete trials, or, of several objectives, those that none beats in all.

        Args:
            count: How many, of a single objective.
        """
        complete = [record for record in self.records if record.state == "COMPLETE"]
        signs = [1.0 if way == "maximize" else -1.0 for way in self._objective.directions]
        scores = {r.number: tuple(s * v for s, v in zip(signs, r.objectives, strict=True)) for r in complete}
        if len(signs) == 1:
            return sorted(complete, key=lambda record: (-scores[record.number][0], record.number))[:count]
        return [
            r for r in complete if not any(_dominates(other, scores[r.number]) for other in scores.values())
        ]


def _claim(study: optuna.Study, search_id: str) -> None:
    """Refuses a study in a database that belongs to another search.

    Raises:
        RecordError: If it holds trials of one.
    """
    owner = study.user_attrs.get(SEARCH, "")
    if study.get_trials(deepcopy=False) and owner != search_id:
        raise RecordError(
            f"storage: its study {study.study_name!r} holds {len(study.get_trials(deepcopy=False))} trials of another search, "
            "whose folder is not this one's. Give the search another name or another storage; warm_start learns from the "
            "folder of an earlier search."
        )
    if owner != search_id:
        study.set_user_attr(SEARCH, search_id)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def _tpe(trials: int) -> Callable[[int], Sampler]:
    """Makes TPE samplers that learn from the first quarter of the trials on.

    Optuna suggests at random ten times, which is half of a search for twenty trials; docs/log.md has what it costs.
    """
    startup = min(max(trials // 4, 4), 10)
    return lambda seed: optuna.samplers.TPESampler(n_startup_trials=startup, seed=seed)


def _frozen(record: TrialRecord, number: Any, objectives: int) -> Any:
    """A trial of the records as Optuna keeps it."""
    single = objectives == 1
    steps = {
        event["evaluation"]: event["objectives"][0]
        for event in record.history
        if single and finite(event["objectives"])
    }
    values = list(record.objectives) if record.state == "COMPLETE" else None
    if record.state == "PRUNED" and steps:
        values = [steps[max(steps)]]
    return create_trial(
        state=STATES.get(record.state, TrialState.RUNNING),
        values=values,
        params=record.params,
        distributions={name: json_to_distribution(text) for name, text in record.distributions.items()},
        user_attrs={NUMBER: number, **({CHANGES: record.changes} if record.changes else {})},
        intermediate_values=steps,
    )
