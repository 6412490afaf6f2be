"""Constraints: read, measured against, told to the sampler, and what they do to ranks and results."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from ray_st.evaluation.metric_names import MetricNames
from ray_st.study.constraints import (
    MEASURED,
    ConstraintError,
    broken_for_good,
    describe_violations,
    nearest,
    parse,
    parse_all,
    ranked_value,
    total,
)
from ray_st.study.halving import Halving, Rungs
from ray_st.study.journal import Journal
from ray_st.study.objective import Objective, ObjectiveError, asked_measures, check_objective
from ray_st.study.search_options import as_options
from ray_st.study.search_progress import describe_trial
from ray_st.study.search_report import summary, write_report
from ray_st.study.study import Study
from ray_st.study.trial_table import write_table

SMALL = "size <= 4"


@pytest.mark.parametrize(
    ("text", "metric", "at_most", "limit"),
    [
        ("model_mib <= 90", "model_mib", True, 90.0),
        ("eval_dev_cosine_recall@10>=0.8", "eval_dev_cosine_recall@10", False, 0.8),
        ("  eval_sts-dev_spearman_cosine >= -1e-2 ", "eval_sts-dev_spearman_cosine", False, -0.01),
    ],
)
def test_a_constraint_is_a_metric_a_relation_and_a_number(
    text: str, metric: str, at_most: bool, limit: float
) -> None:
    one = parse(text)
    assert (one.metric, one.at_most, one.limit) == (metric, at_most, limit)
    assert parse(str(one)) == one


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_mib < 90", "Write <= in place of <"),
        ("model_mib = 90", "Write <= or >= in place of ="),
        ("model_mib <= ninety", "found 'model_mib <= ninety'"),
        ("model_mib <= nan", "a finite number"),
        ("model_mib <= inf", "a finite number"),
        ("<= 90", "expected a metric"),
        ("model_mib", "expected a metric"),
        ("", "expected a metric"),
        (90, "found 90"),
    ],
)
def test_what_is_no_constraint_is_refused(text: object, said: str) -> None:
    with pytest.raises(ConstraintError, match=said):
        parse(text)
    with pytest.raises(ConstraintError, match="constraints: expected a metric"):
        as_options({"constraints": [text]}, 1)


def test_a_list_is_wanted_each_once() -> None:
    with pytest.raises(ConstraintError, match="expected a list of texts, found 'a <= 1'"):
        parse_all("a <= 1")
    with pytest.raises(ConstraintError, match="'a <= 1' is given twice"):
        parse_all(["a <= 1", "a<=1.0"])
    with pytest.raises(ValueError, match="Constraints are on metrics"):
        as_options({"constraints_func": print}, 1)


def test_violations_are_shares_of_the_limit() -> None:
    assert parse("a <= 90").violation(99) == pytest.approx(0.1)
    assert parse("a <= 90").violation(90) == 0
    assert parse("a >= 0.8").violation(0.6) == pytest.approx(0.25)
    assert parse("a >= 0").violation(-2) == 2
    assert total({"a": 0.1, "b": -5.0, "c": 0.2}) == pytest.approx(0.3)


@pytest.mark.parametrize("maximize", [True, False])
def test_whoever_violates_ranks_below_all_that_do_not(maximize: bool) -> None:
    cases = list(itertools.product([-1e9, -1.0, 0.0, 0.5, 1e9], [0.0, 1e-9, 0.1, 3.0, 1e12]))

    def brute(one: tuple[float, float], other: tuple[float, float]) -> bool:
        """Whether one ranks above another."""
        if one[1] != other[1]:
            return one[1] < other[1]
        return not one[1] and (one[0] > other[0] if maximize else one[0] < other[0])

    for one, other in itertools.product(cases, cases):
        mine, theirs = (ranked_value(value, {"c": beyond}, maximize) for value, beyond in (one, other))
        assert (mine > theirs if maximize else mine < theirs) == brute(one, other), (one, other)


def test_only_size_and_memory_never_heal() -> None:
    assert "model_mib <= 90" in broken_for_good({"model_mib <= 90": 0.1})
    assert broken_for_good({"model_mib <= 90": 0.1, "peak_memory_mib <= 5": 1.0}).count("<=") == 2
    for violations in ({"model_mib <= 90": 0.0}, {"encode_ms <= 2": 1.0}, {"eval_x >= 1": 0.5}, {}):
        assert not broken_for_good(violations)
    assert not broken_for_good({"peak_memory_mib >= 5": 1.0})


# ---- what objectives and constraints name ----


def test_the_measures_that_are_asked_for() -> None:
    asks: dict[Any, set[str]] = {
        None: set(),
        "encode_ms": {"encode_ms"},
        ("eval_x", "model_mib"): {"model_mib"},
        (lambda m: m["eval_x"] - 0.1 * m["encode_ms"]): {"encode_ms"},
        (lambda m: m.get("encode_ms", 0) + m["eval_x"]): {"encode_ms"},
        (lambda m: sum(m.values())): set(),
        (lambda m: m["model_mib"] + m["eval_x"]["deep"]): {"model_mib"},
    }
    for compute, expected in asks.items():
        assert asked_measures(compute) == expected


def test_what_only_a_constraint_asks_for_is_not_added_to_the_objective() -> None:
    metrics = {"eval_a": 0.25, "eval_b": 0.5, "model_mib": 100.0}
    bounds = parse_all(["model_mib <= 90"])
    for compute in (None, lambda m: sum(m.values())):
        objective = Objective(compute, ("maximize",), constraints=bounds)
        assert objective(metrics) == (0.75,)
        assert objective.measures == {"model_mib"}
        assert objective.violations(metrics) == {"model_mib <= 90": pytest.approx(1 / 9)}
    both = Objective(["eval_a", "encode_ms"], ("maximize", "minimize"))
    assert both.measures == {"encode_ms"}
    assert both({**metrics, "encode_ms": 2.0}) == (0.25, 2.0)


def test_a_constraint_that_no_evaluation_reports() -> None:
    known = MetricNames(("eval_loss", "eval_dev_recall@10"), True)
    with pytest.raises(ObjectiveError, match=r"constraints: .*eval_dev_recal@10.*mean 'eval_dev_recall@10'"):
        check_objective("eval_loss", ["minimize"], known, True, parse_all(["eval_dev_recal@10 >= 0.8"]))
    with pytest.raises(ObjectiveError, match="did you mean 'encode_ms'"):
        check_objective("eval_loss", ["minimize"], known, True, parse_all(["encode_m <= 2"]))
    texts = ["eval_dev_recall@10 >= 0.8", *(f"{name} <= 1" for name in MEASURED)]
    check_objective("encode_ms", ["minimize"], known, True, parse_all(texts))
    open_ended = MetricNames((), False)
    bounds = parse_all(["eval_mine <= 1"])
    check_objective("eval_loss", ["minimize"], open_ended, True, bounds)
    objective = Objective("eval_loss", ("minimize",), constraints=bounds)
    with pytest.raises(ObjectiveError, match=r"no evaluation reports .eval_mine.; .*There are: eval_loss"):
        objective.violations({"eval_loss": 1.0})


# ---- a study ----


def space(trial: Any) -> dict[str, Any]:
    return {"x": trial.suggest_float("x", -1, 1), "n": trial.suggest_int("n", 1, 8)}


def study(folder: Path, trials: int = 24, **options: Any) -> Study:
    folder.mkdir(exist_ok=True)
    objective = Objective("eval_x", ("maximize",), constraints=parse_all([SMALL]))
    return Study(space, objective, Journal(folder / "journal.jsonl"), trials, **options)


def run(one: Study, count: int) -> list[dict[str, Any]]:
    """Runs trials one at a time: large n are good and violate the constraint."""
    seen = []
    for _ in range(count):
        asked = one.ask()
        assert asked is not None
        seen.append(asked.values)
        metrics = {"size": float(asked.values["n"]), "eval_x": asked.values["n"] + asked.values["x"]}
        violations = one._objective.violations(metrics)
        one.report(asked.number, 1, 10, [metrics["eval_x"]], violations=violations, metrics=metrics)
        one.tell(asked.number, "PRUNED" if asked.number % 4 == 3 else "COMPLETE")
    return seen


@pytest.mark.parametrize(
    ("sampler", "trials"),
    [(None, 24), (lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=5), 14)],
    ids=["tpe", "gp"],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_sampler_learns_what_is_feasible(
    sampler: Callable[[int], Any] | None, trials: int, tmp_path: Path
) -> None:
    one = study(tmp_path / "a", trials, sampler=sampler)
    begun = run(one, 10)
    for trial, record in zip(one.study.trials, one.records, strict=True):
        assert trial.constraints == record.violations == {SMALL: (record.values["n"] - 4) / 4}
        assert trial.user_attrs["feasible"] == record.is_feasible
        assert trial.user_attrs[SMALL] == record.values["n"]
    again = study(tmp_path / "a", trials, sampler=sampler)  # its driver was killed
    for trial, before in zip(again.study.trials, one.study.trials, strict=True):
        assert (trial.constraints, trial.user_attrs) == (before.constraints, before.user_attrs)
    unbroken = run(study(tmp_path / "b", trials, sampler=sampler), trials)
    assert begun + run(again, trials - 10) == unbroken
    # The objective alone asks for n = 8.
    assert sum(values["n"] <= 4 for values in unbroken[10:]) > (trials - 10) / 2


def test_the_trials_of_a_genetic_sampler_have_their_constraints(tmp_path: Path) -> None:
    make = lambda seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=4)  # noqa: E731
    seen = run(study(tmp_path / "a", sampler=make), 14)
    seen += run(study(tmp_path / "a", sampler=make), 10)  # its driver was killed
    unbroken = study(tmp_path / "b", sampler=make)
    assert run(unbroken, 24) == seen
    assert all(trial.constraints for trial in unbroken.study.trials)
    assert sum(values["n"] <= 4 for values in seen[12:]) > 6


def test_the_best_is_one_that_may_be_used(tmp_path: Path) -> None:
    one = study(tmp_path / "a")
    run(one, 24)
    best = one.best()[0]
    usable = [r for r in one.records if r.state == "COMPLETE" and r.values["n"] <= 4]
    assert best.objectives == max(record.objectives for record in usable)
    assert one.study.best_trial.number == best.number
    assert {record.number for record in one.best(99)} == {record.number for record in usable}
    assert "violates size <= 4 (it has " in next(
        describe_trial(record) for record in one.records if not record.is_feasible
    )


def test_the_nearest_of_those_that_violate(tmp_path: Path) -> None:
    one = study(tmp_path / "a", points=[{"x": 0.5, "n": 8}, {"x": 0.0, "n": 5}, {"x": 0.9, "n": 6}])
    assert nearest(one.records) is None
    run(one, 3)
    closest = nearest(one.records)
    assert closest is not None
    assert closest.number == 1
    assert describe_violations(closest) == "size <= 4 (it has 5)"
    assert one.best() == []
    assert "3 complete; 3 violate a constraint" in summary(one, 1)


def test_the_table_and_the_report_say_who_is_feasible(tmp_path: Path) -> None:
    one = study(tmp_path / "a", points=[{"x": 0.5, "n": 8}, {"x": 0.0, "n": 3}])
    run(one, 2)
    one.ask()
    write_table(tmp_path / "trials.csv", one.records, 1)
    with (tmp_path / "trials.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["feasible"], row[SMALL]) for row in rows] == [("no", "8"), ("yes", "3"), ("", "")]
    pytest.importorskip("plotly")
    assert write_report(tmp_path, one, 1)
    text = (tmp_path / "report.html").read_text()
    assert "could not be drawn" not in text
    assert "violates a constraint" in text
    assert "<th>feasible</th>" in text


def test_a_study_in_a_database_whose_driver_died_between_two_writes(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    before = study(tmp_path / "a", storage=storage, name="s")
    run(before, 2)
    asked = before.ask()
    assert asked is not None
    before.report(2, 1, 10, [1.0], violations={SMALL: 0.5}, metrics={"size": 6.0})
    before._live[2].set_constraint(SMALL, 0.5)
    after = study(tmp_path / "a", storage=storage, name="s")
    after.ask()
    after.tell(2, "COMPLETE")
    assert after.study.trials[2].constraints == {SMALL: 0.5}
    assert after.study.trials[2].state == TrialState.COMPLETE


def test_an_earlier_search_is_judged_by_this_ones_constraints(tmp_path: Path) -> None:
    earlier = study(tmp_path / "a")
    run(earlier, 6)
    del earlier.records[1].history[0]["metrics"]["size"]
    later = study(tmp_path / "b", earlier=earlier.records)
    assert len(later.study.trials) == 5  # one did not report the size
    plain = Study(
        space, Objective("eval_x", ("maximize",)), Journal(tmp_path / "c.jsonl"), 3, earlier=earlier.records
    )
    assert [trial.constraints for trial in plain.study.trials] == [{}] * 6


def test_the_front_shows_who_violates(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from ray_st.study import plots

    objective = Objective(["eval_x", "size"], ("maximize", "minimize"), constraints=parse_all([SMALL]))
    one = Study(space, objective, Journal(tmp_path / "journal.jsonl"), 3)
    for number, size in enumerate([3.0, 4.0, 9.0]):
        one.ask()
        metrics = {"eval_x": size, "size": size}
        facts: dict[str, Any] = {"violations": objective.violations(metrics), "metrics": metrics}
        one.report(number, 1, 10, objective(metrics), **facts)
        one.tell(number, "COMPLETE")
    assert [record.number for record in one.best()] == [0, 1]
    front = next(plot for plot in plots.plots(one.study, one.records) if plot.title == "Front").draw()
    assert [list(trace.x) for trace in front.data] == [
        [9.0],
        [],
        [3.0, 4.0],
    ]  # violating, dominated, the front


def test_halving_gives_no_place_to_one_that_violates(tmp_path: Path) -> None:
    one = study(tmp_path / "a", trials=6)
    halving = Halving(one, Rungs(1, 3), maximize=True)
    for number in range(6):
        one.ask(halving.ready)
        beyond = 0.5 if number < 3 else -0.5  # the first three are better, and too large
        value = 10.0 - number
        one.report(number, 1, 10, [value], violations={SMALL: beyond}, metrics={"size": 1.0}, ended=False)
    one.tell(0, "PRUNED", "it violates model_mib <= 90")
    halving.settle()
    assert [record.number for record in one.records if halving.ready(record)] == [3, 4]
    assert [record.number for record in one.records if halving.eliminated(record)] == [1, 2, 5]
    assert one.records[0].was_refused
