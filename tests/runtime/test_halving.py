"""Successive halving: who passes a rung when, without a cluster; and a search on one."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.search import Searcher

from ray_st.runtime.tuning_halving import Halving, Rungs
from ray_st.runtime.tuning_waiting import WaitingSearcher
from ray_st.tune.objective import Objective
from ray_st.tune.records import Journal
from ray_st.tune.study import Study
from search_helpers import make_trainer

LENGTH = 10


@dataclass
class Trial:
    number: int
    values: list[float]
    state: str = "RUNNING"
    history: list[dict[str, Any]] = field(default_factory=list)

    def evaluate(self, until: int) -> None:
        """Adds evaluations up to one."""
        for at in range(len(self.history) + 1, until + 1):
            event = {"evaluation": at, "objectives": [self.values[at - 1]], "ended": at == LENGTH}
            self.history.append(event)
        if self.history and self.history[-1]["ended"]:
            self.state = "COMPLETE"


def halving(records: list[Trial], to_come: int, first: int = 1, factor: int = 3) -> Halving:
    study: Any = SimpleNamespace(records=records, to_come=to_come)
    return Halving(study, Rungs(first, factor), maximize=True)


def trials(*values: float) -> list[Trial]:
    """Trials that have the same value at each evaluation."""
    return [Trial(number, [value] * LENGTH) for number, value in enumerate(values)]


def test_rungs_are_further_and_further_apart() -> None:
    assert [n for n in range(1, 30) if Rungs(1, 3)(n)] == [1, 3, 9, 27]
    assert [n for n in range(1, 30) if Rungs(2, 4)(n)] == [2, 8]
    assert Rungs(3, 2).up_to(2) == []


def test_one_in_three_passes_a_rung_as_trials_come() -> None:
    records = trials(0.1, 0.2, 0.3, 0.9)
    waiting = halving(records, to_come=5)
    for came, ready in ((1, []), (2, []), (3, [2])):
        records[came - 1].evaluate(1)
        waiting.settle()
        assert [r.number for r in records[:came] if waiting.ready(r)] == ready  # type: ignore[arg-type]
    records[3].evaluate(1)  # better, but the place among four is taken: who has passed goes on
    waiting.settle()
    assert [r.number for r in records if waiting.ready(r)] == [2]  # type: ignore[arg-type]
    assert not any(waiting.out(r) for r in records)  # type: ignore[arg-type]


def test_a_trial_that_waits_can_pass_later_and_is_out_when_no_more_come() -> None:
    records = trials(0.5, 0.9, 0.1, 0.2, 0.3, 0.4)
    waiting = halving(records, to_come=1)
    for record in records[:3]:
        record.evaluate(1)
    waiting.settle()
    assert [r.number for r in records[:3] if waiting.ready(r)] == [1]  # type: ignore[arg-type]
    for record in records[3:]:
        record.evaluate(1)
    waiting.settle()
    assert waiting.ready(records[0])  # type: ignore[arg-type]  # second of six
    assert not any(waiting.out(r) for r in records)  # type: ignore[arg-type]
    waiting.study.to_come = 0  # type: ignore[misc]
    assert [r.number for r in records if waiting.out(r)] == [2, 3, 4, 5]  # type: ignore[arg-type]


def test_a_failed_trial_takes_no_place() -> None:
    records = trials(0.9, 0.8, 0.7)
    for record in records:
        record.evaluate(1)
    records[0].state = "FAIL"
    waiting = halving(records, to_come=0)
    waiting.settle()
    assert waiting.ready(records[1])  # type: ignore[arg-type]
    assert waiting.out(records[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("improving", [False, True])
def test_any_order_ends_within_its_budget_and_finds_the_best_of_the_last_rung(
    seed: int, improving: bool
) -> None:
    chance = random.Random(seed)
    count, at_a_time = 27, chance.randint(1, 4)
    scores = sorted(chance.random() for _ in range(count))
    if not improving:
        chance.shuffle(scores)
    records: list[Trial] = []
    waiting = halving(records, to_come=count)
    while True:
        waiting.settle()
        for record in records:
            if waiting.out(record):  # type: ignore[arg-type]
                record.state = "PRUNED"
        runnable = [r for r in records if r.state == "RUNNING" and waiting.ready(r)]  # type: ignore[arg-type]
        while waiting.study.to_come and len(runnable) < at_a_time:
            runnable.append(Trial(len(records), [scores[len(records)]] * LENGTH))
            records.append(runnable[-1])
            waiting.study.to_come -= 1  # type: ignore[misc]
        if not runnable:
            break
        chosen = min(runnable, key=waiting.turn)  # type: ignore[arg-type]
        chosen.evaluate(len(chosen.history) + 1)
        again = halving(records, waiting.study.to_come)  # of a driver that was killed here
        again.settle()
        assert all(waiting.ready(r) <= again.ready(r) for r in records if waiting.ready(r))  # type: ignore[arg-type]
    states = [record.state for record in records]
    assert "RUNNING" not in states
    best = max(records, key=lambda record: record.values[0])
    assert best.state == "COMPLETE"
    assert sum(len(record.history) > 1 for record in records) <= count // 3 + 1
    assert sum(len(record.history) for record in records) <= 27 + 10 * 2 + 5 * 6 + 3


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
    searcher = WaitingSearcher(halving, lambda: 2, watcher)
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
