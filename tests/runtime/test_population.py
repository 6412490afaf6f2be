"""Population based training on a real cluster, and its generations without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import FloatDistribution

from ray_st.runtime.tune.generations import Generations
from ray_st.study.journal import Journal
from ray_st.study.mutation import within
from ray_st.study.objective import Objective
from ray_st.study.population import Population, Rounds
from ray_st.study.study import Study
from ray_st.training.checkpoint.store import CheckpointStore
from search_helpers import make_trainer

pytestmark = [
    pytest.mark.ray,
    pytest.mark.usefixtures("cluster"),
    # Ray Tune leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

RATES = [1e-9, 5e-3, 1e-2, 2e-9]


def space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-9, 1e-2, log=True),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.1),
    }


def test_bad_trials_go_on_as_copies_of_good_ones(tmp_path: Path, tiny_folder: Path) -> None:
    best = make_trainer(tmp_path, tiny_folder).hyperparameter_search(
        space,
        "eval_loss",
        n_trials=4,
        scheduler="pbt",
        rungs=3,
        points_to_evaluate=[{"learning_rate": rate, "weight_decay": 0.01} for rate in RATES],
        max_concurrent_trials=2,
        name="s",
    )
    trials = best.run_summary.trials
    assert [trial.state for trial in trials] == ["COMPLETE"] * 4
    assert [[event["evaluation"] for event in trial.history] for trial in trials] == [[1, 2, 3]] * 4
    changes = {trial.number: change for trial in trials for change in trial.changes}
    assert set(changes) == {0, 3}  # those that learnt nothing, one after each round
    assert {change["evaluation"] for change in changes.values()} == {1, 2}
    for number, change in changes.items():
        assert change["source"] in (1, 2)
        assert change["before"]["learning_rate"] == RATES[number]
        assert trials[number].values == change["values"]
        after = trials[number].history[change["evaluation"]]["objectives"][0]
        assert after < 0.1 < 1 < trials[number].history[change["evaluation"] - 1]["objectives"][0]
    assert best.objective == min(trial.objectives[0] for trial in trials)
    assert best.hyperparameters == trials[int(best.run_id)].values
    told = best.run_summary.study.trials
    assert [trial.state.name for trial in told] == ["COMPLETE"] * 4
    assert [trial.params["learning_rate"] for trial in told] == RATES
    assert told[0].user_attrs["ray_st:changes"] == trials[0].changes
    kept = [folder.name for folder in (tmp_path / "s").glob("run-*") if any(folder.glob("checkpoint-*"))]
    assert kept == [f"run-{best.run_id}"]


# ---- generations, without a cluster ----


def generations(folder: Path, trials: int = 4) -> Generations:
    """A population in which the better half is copied after each evaluation."""
    folder.mkdir(exist_ok=True)
    study = Study(space, Objective(None, ("maximize",)), Journal(folder / "journal.jsonl"), trials)
    change = {"learning_rate": within(FloatDistribution(1e-9, 1e-2, log=True))}
    rules = Population(Rounds(1, 1), change, maximize=True, seed=0, fraction=0.5)
    return Generations(study, rules, lambda number: store(folder, number), lambda record: None)


def store(folder: Path, number: int) -> CheckpointStore:
    return CheckpointStore(str(folder / f"run-{number}"), run_id=str(number))


def come(one: Generations, folder: Path, number: int, evaluation: int = 1, ended: bool = False) -> None:
    """A trial comes to an evaluation, with a checkpoint of it; the higher its number, the better."""
    checkpoint = store(folder, number).begin(10 * evaluation)
    (checkpoint / "weights").write_text(f"{number} at {evaluation}")
    store(folder, number).seal(checkpoint)
    one.study.report(number, evaluation, 10 * evaluation, [float(number)], ended=ended)


def weights(folder: Path, number: int) -> str:
    found = store(folder, number).newest(str(number))
    assert found is not None
    return (folder / f"run-{number}" / found.name / "weights").read_text()


def test_a_round_is_settled_when_all_have_come(tmp_path: Path) -> None:
    one = generations(tmp_path, 5)
    for _ in range(4):
        one.study.ask()
    for number in range(4):
        assert one.ready(one.study.records[number])
        come(one, tmp_path, number)
        assert not one.ready(one.study.records[number])
    one.settle()
    assert not any(record.changes for record in one.study.records)  # one is still to be suggested
    one.study.ask()
    one.settle()
    assert not any(record.changes for record in one.study.records)
    one.study.tell(4, "FAIL", "lost")
    one.settle()
    assert all(one.ready(record) for record in one.study.records)
    assert [bool(record.changes) for record in one.study.records] == [True, True, False, False, False]
    for number in (0, 1):
        source = one.study.records[number].changes[0]["source"]
        assert weights(tmp_path, number) == f"{source} at 1"
        assert store(tmp_path, number).steps() == [10]
    for number in range(4):
        come(one, tmp_path, number, 2, ended=True)
    one.settle()  # nobody is left to go on
    assert [len(record.changes) for record in one.study.records] == [1, 1, 0, 0, 0]


def test_a_trial_whose_evaluation_is_missing_is_compared_by_the_next(tmp_path: Path) -> None:
    one = generations(tmp_path)
    for number in range(4):
        one.study.ask()
        come(one, tmp_path, number, 2 if number in (0, 3) else 1)
    one.settle()
    assert not any(one.ready(record) for record in one.study.records if record.number in (0, 3))
    changed = {record.number: record.changes[0]["source"] for record in one.study.records if record.changes}
    assert set(changed) == {0, 1}
    assert set(changed.values()) <= {2, 3}


def test_a_driver_that_is_killed_between_two_copies_makes_the_rest(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ours = {}
    for folder in (whole, broken):
        ours[folder] = generations(folder)
        for number in range(4):
            ours[folder].study.ask()
            come(ours[folder], folder, number)
    ours[whole].settle()
    copied, done = ours[broken].study.copied, []

    def killed(number: int, *args: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(number)
        copied(number, *args)

    ours[broken].study.copied = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        ours[broken].settle()
    again = generations(broken)
    assert not any(again.ready(record) for record in again.study.records)
    again.settle()
    assert all(again.ready(record) for record in again.study.records)
    assert [record.values for record in again.study.records] == [r.values for r in ours[whole].study.records]
    assert [len(record.changes) for record in again.study.records] == [1, 1, 0, 0]
    assert [weights(broken, n) for n in range(4)] == [weights(whole, n) for n in range(4)]


def test_a_trial_whose_partner_has_no_checkpoint_goes_on_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = generations(tmp_path, 2)
    for number in range(2):
        one.study.ask()
        come(one, tmp_path, number)
    store(tmp_path, 1).delete(10)
    one.settle()
    assert not one.study.records[0].changes
    assert weights(tmp_path, 0) == "0 at 1"
    assert "trial 0 continues unchanged, not as a copy of trial 1" in capsys.readouterr().out
