"""Terminators: which are accepted, when they are asked, what a continued search does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna import terminator as optunas

from ray_st.study.journal import Journal
from ray_st.study.objective import Objective
from ray_st.study.search_options import as_options
from ray_st.study.search_progress import SearchProgress
from ray_st.study.search_report import summary
from ray_st.study.study import Study
from ray_st.study.termination import Terminator, make_terminator

pytestmark = [
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore:.*optuna.terminator:FutureWarning"),
]


class AfterThree(optunas.BaseTerminator):
    asked = 0

    def should_terminate(self, study: optuna.Study) -> bool:
        self.asked += 1
        return self.asked >= 3


class Failing(optunas.BaseTerminator):
    def should_terminate(self, study: optuna.Study) -> bool:
        raise ZeroDivisionError("no trials")


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1, 1)}


def study(folder: Path, terminator: Terminator | None, trials: int = 20) -> Study:
    journal = Journal(folder / "journal.jsonl")
    return Study(space, Objective(None, ("maximize",)), journal, trials, terminator=terminator)


def run(one: Study, pruned_each: int = 1000) -> int:
    """Runs trials until there are no more; how many there are then."""
    while (asked := one.ask()) is not None:
        one.report(asked.number, 1, 10, [-(asked.values["x"] ** 2)])
        one.tell(asked.number, "PRUNED" if asked.number % pruned_each == 1 else "COMPLETE")
    return len(one.records)


def test_a_search_ends_when_the_terminator_says_so_and_stays_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = study(tmp_path, AfterThree())
    progress = SearchProgress(one, 1, tmp_path, False, None)
    running = one.ask()
    assert running is not None
    assert run(one, pruned_each=3) == 6  # trials 1 and 4 were stopped early: they are not asked about
    assert one.terminated == "AfterThree expects no more improvement after 3 complete trials"
    assert (one.left, one.to_come) == (0, 0)
    again = study(tmp_path, AfterThree())  # its driver was killed
    assert again.terminated == one.terminated
    assert again.left == 1
    continued = again.ask()
    assert continued is not None
    assert continued.number == running.number  # running ones end
    again.report(0, 1, 10, [0.5])
    progress.ended(again.tell(0, "COMPLETE"))
    progress.ended(again.records[0])
    assert capsys.readouterr().out.count("no more trials: AfterThree expects") == 1
    assert again.ask() is None
    assert "No more were needed: AfterThree" in summary(again, 1)
    assert run(study(tmp_path, None, 8)) == 8  # without one it goes on


def test_one_that_fails_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(study(tmp_path, Failing(), 5)) == 5
    said = capsys.readouterr()
    assert (said.out + said.err).count(
        "Failing failed (ZeroDivisionError: no trials); the search continues"
    ) == 1


def test_the_default_needs_only_objectives(tmp_path: Path) -> None:
    one = study(tmp_path, make_terminator(True, 20, 0))
    assert 10 <= run(one) < 20  # 5 at random, the median of 5


def test_evaluators_get_a_partner() -> None:
    patience = make_terminator(optunas.BestValueStagnationEvaluator(2), 20, 0)
    assert patience is not None
    optimized = optuna.create_study(direction="maximize")
    for value, ends in ((1.0, False), (2.0, False), (1.5, False), (1.0, False), (0.5, True)):
        optimized.add_trial(optuna.create_trial(value=value))
        assert patience.should_terminate(optimized) == ends
    given = optunas.Terminator(optunas.EMMREvaluator(), optunas.StaticErrorEvaluator(0.1))
    assert make_terminator(given, 20, 0) is given
    assert isinstance(make_terminator(optunas.RegretBoundEvaluator(), 20, 0), optunas.Terminator)
    assert make_terminator(None, 20, 0) is make_terminator(False, 20, 0) is None


@pytest.mark.parametrize(
    ("given", "objectives", "others", "said"),
    [
        (True, 2, {}, "terminator: Optuna's compare one objective, and this search has 2"),
        (True, 1, {"constraints": ["model_mib <= 9"]}, "do not know constraints"),
        ("emmr", 1, {}, "expected True, an Optuna terminator .* found 'emmr'"),
        (optunas.StaticErrorEvaluator, 1, {}, "expected True"),
    ],
)
def test_what_cannot_work_is_refused(given: Any, objectives: int, others: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        as_options({"terminator": given, **others}, objectives)


def test_one_that_needs_cross_validation_is_refused() -> None:
    with pytest.raises(ValueError, match="needs cross-validation scores"):
        as_options({"terminator": optunas.Terminator()}, 1)
    own = as_options({"terminator": AfterThree(), "constraints": ["model_mib <= 9"]}, 1)
    assert isinstance(own.terminator, AfterThree)  # it may know constraints


def test_an_optuna_without_terminators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna.terminator", None)
    with pytest.raises(ValueError, match="Optuna removes it with version 6"):
        as_options({"terminator": True}, 1)
    as_options({}, 1)
