"""Successive halving: who passes a rung when, without a cluster; and a search on one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from ray_st.runtime.tune.search_stop import SearchStop, StopAtEvaluation
from ray_st.runtime.tune.waiting import WaitingScheduler, WaitingSearcher
from ray_st.study.halving import Halving, Rungs
from ray_st.study.journal import Journal
from ray_st.study.objective import Objective
from ray_st.study.study import Study
from ray_st.study.trial_record import TrialRecord
from search_helpers import make_trainer

LENGTH = 10


@dataclass
class Planned(TrialRecord):
    """A trial whose value at each evaluation is known beforehand."""

    values: Any
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)

    def evaluate(self, until: int) -> None:
        """Adds evaluations up to one."""
        for at in range(len(self.history) + 1, until + 1):
            event = {"evaluation": at, "objectives": [self.values[at - 1]], "ended": at == LENGTH}
            self.history.append(event)
        if self.history and self.history[-1]["ended"]:
            self.state = "COMPLETE"


def halving(records: list[Planned], to_come: int) -> Any:
    study: Any = SimpleNamespace(records=records, to_come=to_come)
    return Halving(study, Rungs(1, 3), maximize=True)


def trials(*values: float) -> list[Planned]:
    """Trials that have the same value at each evaluation."""
    return [Planned(number, [value] * LENGTH) for number, value in enumerate(values)]


def test_rungs_are_further_and_further_apart() -> None:
    assert [n for n in range(1, 30) if Rungs(1, 3)(n)] == [1, 3, 9, 27]
    assert [n for n in range(1, 30) if Rungs(2, 4)(n)] == [2, 8]
    assert Rungs(3, 2).up_to(2) == []


def numbers(records: list[Planned], true: Any) -> list[int]:
    return [record.number for record in records if true(record)]


def test_a_trial_passes_when_it_is_certain_to_be_one_of_the_best() -> None:
    all_six = trials(0.9, 0.1, 0.8, 0.2, 0.7, 0.3)  # two of them pass
    records: list[Planned] = []
    waiting = halving(records, to_come=6)
    for trial, ready, out in zip(
        all_six,
        ([], [], [], [], [0], [0, 2]),
        ([], [], [1], [1, 3], [1, 3, 4], [1, 3, 4, 5]),
        strict=True,
    ):
        trial.evaluate(1)
        records.append(trial)
        waiting.study.to_come -= 1
        waiting.settle()
        assert numbers(records, waiting.ready) == ready
        assert numbers(records, waiting.eliminated) == out


def test_who_has_passed_keeps_its_place_whatever_becomes_of_the_others() -> None:
    records = trials(0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
    waiting = halving(records, to_come=0)
    for record in records[:5]:
        record.evaluate(1)
    waiting.settle()
    assert numbers(records[:5], waiting.ready) == [0]
    records[5].state = "FAIL"  # before it came: there is one place less
    waiting.settle()
    assert numbers(records[:5], waiting.ready) == [0]
    assert numbers(records, waiting.eliminated) == [1, 2, 3, 4]


def test_where_no_more_are_suggested_the_best_passes() -> None:
    records = trials(0.1, 0.9)
    waiting = halving(records, to_come=20)
    for record in records:
        record.evaluate(1)
    waiting.settle()
    assert numbers(records, waiting.ready) == []
    waiting.closed = True
    waiting.settle()
    assert numbers(records, waiting.ready) == [1]


def test_a_failed_trial_takes_no_place() -> None:
    records = trials(0.9, 0.8, 0.7)
    for record in records:
        record.evaluate(1)
    records[0].state = "FAIL"
    waiting = halving(records, to_come=0)
    waiting.settle()
    assert waiting.ready(records[1])
    assert waiting.eliminated(records[2])


def test_a_trial_whose_rung_is_missing_is_compared_by_what_comes_after() -> None:
    # Evaluation 1 was lost, with the driver, before it was noted.
    records = trials(0.1, 0.9, 0.8)
    records[0].evaluate(2)
    del records[0].history[0]
    waiting = halving(records, to_come=0)
    waiting.settle()
    assert not waiting.ready(records[0])  # it is not between rungs
    for record in records[1:]:
        record.evaluate(1)
    waiting.settle()
    assert numbers(records, waiting.ready) == [1]
    assert numbers(records, waiting.eliminated) == [0, 2]


def test_one_that_went_on_past_a_missing_rung_keeps_its_place() -> None:
    records = trials(0.1, 0.9, 0.8)
    records[0].evaluate(3)
    del records[0].history[0]
    for record in records[1:]:
        record.evaluate(1)
    waiting = halving(records, to_come=0)
    waiting.settle()
    assert numbers(records, waiting.eliminated) == [2]


@pytest.mark.parametrize(
    ("known", "evaluation", "decision"),
    [(0, 1, "NOOP"), (0, 2, "NOOP"), (1, 2, "CONTINUE"), (2, 3, "NOOP"), (1, 1, "CONTINUE"), (3, 3, "NOOP")],
)
def test_a_trial_rests_after_a_rung_and_after_one_that_it_missed(
    known: int, evaluation: int, decision: str
) -> None:
    records = trials(0.9, 0.1, 0.2)
    for record in records[1:]:
        record.evaluate(1)
    records[0].evaluate(known)
    waiting = halving(records, to_come=0)
    waiting.settle()
    if known == 3:
        waiting._passed.clear()  # it came to the rung, and may not go on yet
    scheduler = WaitingScheduler(waiting, Rungs(1, 3), lambda: 1, SearchStop())
    trial: Any = SimpleNamespace(config={"number": 0})
    result = {"objective": 0.9, "ended": False, "evaluation": evaluation}
    assert scheduler.on_trial_result(None, trial, result) == decision


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("improving", [False, True])
def test_in_any_order_the_best_pass(seed: int, improving: bool) -> None:
    chance = random.Random(seed)
    count, at_a_time = 27, chance.randint(1, 4)
    scores = sorted(chance.random() for _ in range(count))
    if not improving:
        chance.shuffle(scores)
    records: list[Planned] = []
    waiting = halving(records, to_come=count)
    while True:
        waiting.settle()
        for record in records:
            if waiting.eliminated(record):
                record.state = "PRUNED"
        runnable = [r for r in records if r.state == "RUNNING" and waiting.ready(r)]
        while waiting.study.to_come and len(runnable) < at_a_time:
            runnable.append(Planned(len(records), [scores[len(records)]] * LENGTH))
            records.append(runnable[-1])
            waiting.study.to_come -= 1
        if not runnable:
            break
        chosen = min(runnable, key=waiting.priority)
        chosen.evaluate(len(chosen.history) + 1)
        again = halving(records, waiting.study.to_come)  # of a driver that was killed here
        again.settle()
        resumed = numbers(records, waiting.ready)
        waiting.settle()
        assert set(resumed) - {chosen.number} <= set(
            numbers(records, waiting.ready)
        )  # what is certain stays so
        assert numbers(records, waiting.ready) == numbers(records, again.ready)
    ranked = sorted(records, key=lambda record: -record.values[0])
    lengths = [len(record.history) for record in ranked]
    assert lengths == [LENGTH] + [9] * 2 + [3] * 6 + [1] * 18
    assert [record.state for record in ranked] == ["COMPLETE"] + ["PRUNED"] * 26


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
# Ray Tune leaves files and sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_best_third_goes_on_from_its_checkpoints(tmp_path: Path, tiny_folder: Path) -> None:
    rates = [1e-9, 2e-9, 5e-3, 3e-9, 1e-2, 4e-9]
    options: dict[str, Any] = {"n_trials": 0, "rungs": 4, "max_concurrent_trials": 2}
    points = [{"learning_rate": rate} for rate in rates]

    def search(name: str, scheduler: Any) -> Any:
        def space(trial: Any) -> dict[str, Any]:
            return {"learning_rate": trial.suggest_float("learning_rate", 1e-9, 1e-2, log=True)}

        trainer = make_trainer(tmp_path, tiny_folder)
        given = {"points_to_evaluate": points, "scheduler": scheduler, "name": name, **options}
        return trainer.hyperparameter_search(space, "eval_loss", **given)

    halved, whole = search("halved", "halving"), search("whole", None)
    trials = halved.run_summary.trials
    assert [len(trial.history) for trial in trials if trial.state == "COMPLETE"] == [4]
    assert sorted(len(trial.history) for trial in trials) == [1, 1, 1, 1, 3, 4]
    assert {trial.state for trial in trials} == {"COMPLETE", "PRUNED"}
    assert halved.run_id == whole.run_id
    # It went on from its checkpoints as if it had never waited.
    same = whole.run_summary.trials[int(halved.run_id)]
    found = [event["objectives"][0] for event in trials[int(halved.run_id)].history]
    assert found == pytest.approx([event["objectives"][0] for event in same.history], rel=1e-5)


def test_what_waited_when_the_driver_was_killed_goes_on_or_is_stopped(tmp_path: Path) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0, 1)}

    def study() -> Study:
        return Study(space, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 3)

    killed = study()
    for score in (0.1, 0.9, 0.5):
        asked = killed.ask(lambda record: False)
        assert asked is not None
        killed.report(asked.number, 1, 10, [score], ended=False)

    after, ended = study(), []
    watcher: Any = SimpleNamespace(
        reported=lambda: None, ended=lambda record: ended.append((record.number, record.state))
    )
    halving = Halving(after, Rungs(1, 3), maximize=True)
    searcher = WaitingSearcher(halving, lambda: 2, watcher, SearchStop())
    assert searcher.suggest("a")["number"] == 1
    assert searcher.suggest("b") is None  # the others wait for nothing, but one still runs
    last = {
        "evaluation": 2,
        "step": 20,
        "ended": True,
        "objectives": [0.8],
        "samples": 1,
        "seconds_here": 1.0,
    }
    searcher.on_trial_complete("a", {"objective": 0.8, **last})
    assert searcher.suggest("b") == Searcher.FINISHED
    assert ended == [(1, "COMPLETE"), (0, "PRUNED"), (2, "PRUNED")]


def test_a_search_that_is_told_to_stop_leaves_its_trials_to_go_on(tmp_path: Path) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"x": trial.suggest_float("x", 0, 1)}

    def study() -> Study:
        return Study(space, Objective(None, ("maximize",)), Journal(tmp_path / "journal.jsonl"), 6)

    first, stop, ended = study(), SearchStop(), []
    watcher: Any = SimpleNamespace(
        reported=lambda: None, ended=lambda record: ended.append((record.number, record.state))
    )
    waiting = Halving(first, Rungs(1, 3), maximize=True)
    searcher = WaitingSearcher(waiting, lambda: 9, watcher, stop)
    asked = [searcher.suggest(name)["number"] for name in "abcd"]
    assert asked == [0, 1, 2, 3]
    stop.ask()
    assert searcher.suggest("e") is None  # four run
    last = {
        "evaluation": 1,
        "step": 5,
        "samples": 1,
        "seconds_here": 1.0,
        "objectives": [0.5],
        "objective": 0.5,
    }
    searcher.on_trial_complete("a", {**last, "ended": False})  # stopped with its evaluation
    searcher.on_trial_complete("b", {**last, "ended": True})
    searcher.on_trial_complete("c", None)  # it had not begun
    searcher.on_trial_complete("d", {"fault": "ValueError: nan"})
    assert searcher.suggest("e") == Searcher.FINISHED
    searcher.stop_rest()
    assert ended == [(1, "COMPLETE"), (3, "FAIL")]
    after = study()
    assert [record.state for record in after.records] == ["RUNNING", "COMPLETE", "RUNNING", "FAIL"]
    assert [len(record.history) for record in after.records] == [1, 1, 0, 0]
    assert after.ask().number == 0  # type: ignore[union-attr]


def test_who_waits_is_stopped_at_once_where_the_search_is() -> None:
    records = trials(0.9, 0.1, 0.2, 0.3)
    stop, stopped = SearchStop(), []
    scheduler = WaitingScheduler(halving(records, to_come=0), Rungs(1, 3), lambda: 4, stop)
    ray_trials = [
        SimpleNamespace(config={"number": number}, status=status, trial_id=str(number))
        for number, status in enumerate(["RUNNING", "RUNNING", "PAUSED", "PENDING"])
    ]
    controller: Any = SimpleNamespace(get_trials=lambda: ray_trials, stop_trial=stopped.append)
    result = {"objective": 0.9, "ended": False, "evaluation": 1}
    held: Any = ray_trials[0]
    assert scheduler.on_trial_result(controller, held, result) == "NOOP"
    stop.ask()
    assert scheduler.choose_trial_to_run(controller) is None
    assert stopped == [ray_trials[0], ray_trials[2], ray_trials[3]]
    assert StopAtEvaluation(stop)("0", result)
    assert not StopAtEvaluation(SearchStop())("0", result)
