from __future__ import annotations

from typing import Any

import pytest

from ray_st.evaluation.metric_names import MetricNames
from ray_st.study.objective import (
    Objective,
    ObjectiveError,
    as_directions,
    as_scope,
    check_objective,
    try_out,
)

METRICS = {"eval_loss": 0.5, "eval_dev_spearman_cosine": 0.8, "eval_runtime": 1.0, "epoch": 1.0}


def test_directions() -> None:
    assert as_directions("maximize") == ("maximize",)
    assert as_directions(["maximize", "minimize"]) == ("maximize", "minimize")
    with pytest.raises(ValueError, match="did you mean 'maximize'"):
        as_directions("maximise")
    with pytest.raises(ValueError, match="direction must be"):
        as_directions([])


@pytest.mark.parametrize(
    ("compute", "value"),
    [
        (lambda metrics: metrics["eval_loss"], 0.5),
        ("eval_dev_spearman_cosine", 0.8),
        (None, 0.8),  # transformers' default: the sum of what is neither the loss nor speed
    ],
)
def test_one_objective(compute: Any, value: float) -> None:
    assert Objective(compute, ("maximize",))(METRICS) == (value,)


def test_the_default_is_the_loss_where_nothing_else_is() -> None:
    assert Objective(None, ("minimize",))({"eval_loss": 0.5, "eval_runtime": 2.0}) == (0.5,)


def test_several_objectives_need_as_many_directions() -> None:
    def both(metrics: dict[str, float]) -> list[float]:
        return [metrics["eval_loss"], metrics["eval_dev_spearman_cosine"]]

    assert Objective(both, ("minimize", "maximize"))(METRICS) == (0.5, 0.8)
    with pytest.raises(ObjectiveError, match=r"1 objective\(s\), but compute_objective returns 2"):
        Objective(both, ("minimize",))(METRICS)


@pytest.mark.parametrize("compute", [lambda metrics: metrics["eval_dev_spearman"], "eval_dev_spearman"])
def test_a_figure_that_is_not_there_names_those_that_are(compute: Any) -> None:
    with pytest.raises(
        ObjectiveError, match=r"did you mean 'eval_dev_spearman_cosine'.*There are: .*eval_loss"
    ):
        Objective(compute, ("maximize",))(METRICS)


@pytest.mark.parametrize(
    ("scope", "maximize", "minimize"),
    [("last", 5, 5), ("all", 9, 1), ("avg", 4, 4), ("last-5-avg", 3.6, 3.6), ("last-10-avg", 3.9, 3.9)],
)
def test_the_evaluations_that_a_trial_is_compared_by(scope: str, maximize: float, minimize: float) -> None:
    evaluations = [[5.0], [7.0], [1.0], [9.0], [2.0], [2.0], [3.0], [5.0], [2.0], [3.0], [5.0]]
    best, least = (Objective(None, (way,), scope) for way in ("maximize", "minimize"))
    assert best.of_trial([[2.0]]) == (2,)
    assert best.of_trial(evaluations) == (maximize,)
    assert least.of_trial(evaluations) == (minimize,)


def test_evaluations_are_named_as_ray_tune_names_them() -> None:
    assert as_scope(None, ["maximize"]) == as_scope("last", ["maximize", "minimize"]) == "last"
    with pytest.raises(ValueError, match=r"ray_scope: expected one of .*'all'.*, found 'best'"):
        as_scope("best", ["maximize"])
    with pytest.raises(ValueError, match="ray_scope='all' is for one objective"):
        as_scope("all", ["maximize", "minimize"])


def test_a_text_is_no_objective() -> None:
    with pytest.raises(ObjectiveError, match="must return numbers"):
        Objective(lambda metrics: "much", ("maximize",))(METRICS)


def test_what_an_objective_asks_for_and_gives() -> None:
    assert try_out(lambda metrics: 2 * metrics["a"] - metrics["b"]) == (["a", "b"], 0.5)
    assert try_out(lambda metrics: [metrics["a"], metrics["b"]]) == (["a", "b"], [0.5, 0.5])
    assert try_out(lambda metrics: max(metrics.values())) == ([], None)
    assert try_out(["a", "b"]) == (["a", "b"], [0.5, 0.5])
    assert try_out(None) == ([], None)


def test_names_are_proved_against_what_is_evaluated() -> None:
    one = ("maximize",)
    names = MetricNames(("eval_loss", "eval_dev_pearson_cosine", "eval_runtime"), complete=True)
    check_objective("eval_dev_pearson_cosine", one, names, True)
    check_objective(["eval_loss", "epoch"], ("minimize", "maximize"), names, True)
    check_objective("eval_anything", one, MetricNames(names.known, complete=False), True)
    with pytest.raises(
        ObjectiveError, match=r"did you mean 'eval_dev_pearson_cosine'.* first: eval_dev_pearson"
    ):
        check_objective("eval_dev_pearson", one, names, True)
    with pytest.raises(ObjectiveError, match="'dev_pearson_cosine' is reported by no evaluation"):
        check_objective(lambda metrics: metrics["dev_pearson_cosine"], one, names, True)
    with pytest.raises(ObjectiveError, match="neither"):
        check_objective(None, one, MetricNames((), True), False)
    with pytest.raises(ObjectiveError, match="is for 2 objective"):
        check_objective("eval_loss", ["maximize", "minimize"], names, True)
