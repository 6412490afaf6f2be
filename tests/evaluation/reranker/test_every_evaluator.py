"""What every evaluator of rerankers keeps, beside the peer with the same options."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from peer_figures import assert_same_files, close, plain
from ray_st.evaluation import reranker
from ray_st.testing import EvaluatorCase, EvaluatorConformance
from ray_st.util.team import in_team, share_out
from simulated_team import together

COUNT = 40
PAIRS = [[f"first text {i}", f"second text {i}"] for i in range(COUNT)]
REPEATED = [[f"text {i % 7}", f"text {i % 5}"] for i in range(COUNT)]
SCORES = [(i * 7 % 11) / 10 for i in range(COUNT)]
LABELS = [int(i % 5 < 2) for i in range(COUNT)]
CLASSES = [i * i % 3 for i in range(COUNT)]
SAMPLES = [
    {
        "query": f"query {i}",
        "positive": [f"good {i} {j}" for j in range(1 + i % 4)],
        "negative": [f"bad {i} {j}" for j in range(1 + i * 3 % 14)],
    }
    for i in range(20)
]
# Of every third query the ranking holds no relevant document, of the others some of them.
RANKED = [
    {
        "query": f"query {i}",
        "positive": [f"good {i} {j}" for j in range(1 + i % 4)],
        "documents": [
            *(f"bad {i} {j}" for j in range(i % 5)),
            *(f"good {i} {j}" for j in range(i % 3)),
            *(f"worse {i} {j}" for j in range(3)),
        ],
    }
    for i in range(20)
]
WITHOUT = {"query": "nothing", "positive": [], "documents": ["a", "b", "c"]}

CLASSIFICATION = "CrossEncoderClassificationEvaluator"
CORRELATION = "CrossEncoderCorrelationEvaluator"
RERANKING = "CrossEncoderRerankingEvaluator"
LOW = {"coarse": True}


@dataclass(frozen=True)
class Case:
    name: str
    data: tuple[Any, ...]
    options: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def make(self, **more: Any) -> Any:
        return getattr(reranker, self.name)(*self.data, **{**self.options, **more})


CASES = {
    "binary": Case(CLASSIFICATION, (PAIRS, LABELS)),
    "binary-named": Case(CLASSIFICATION, (PAIRS, LABELS), {"name": "dev", "prompt_name": "query"}),
    "binary-repeats": Case(CLASSIFICATION, (REPEATED, LABELS)),
    "binary-ties": Case(CLASSIFICATION, (PAIRS, LABELS), {}, LOW),
    "classes": Case(CLASSIFICATION, (PAIRS, CLASSES), {}, {"num_labels": 3}),
    "classes-two": Case(CLASSIFICATION, (PAIRS, LABELS), {"name": "dev"}, {"num_labels": 2}),
    "classes-unseen": Case(CLASSIFICATION, (PAIRS, CLASSES), {"name": "dev"}, {"num_labels": 5}),
    "classes-ties": Case(CLASSIFICATION, (REPEATED, CLASSES), {}, {"num_labels": 3, **LOW}),
    "correlation": Case(CORRELATION, (PAIRS, SCORES)),
    "correlation-named": Case(CORRELATION, (PAIRS, SCORES), {"name": "dev", "prompt_name": "passage"}),
    "correlation-ties": Case(CORRELATION, (REPEATED, SCORES), {}, LOW),
    "reranking": Case(RERANKING, (SAMPLES,)),
    "reranking-named": Case(RERANKING, (SAMPLES,), {"name": "dev", "at_k": 3, "prompt_name": "query"}),
    "reranking-old-name": Case(RERANKING, (SAMPLES,), {"mrr_at_k": 2}),
    "reranking-ties": Case(RERANKING, (SAMPLES,), {"at_k": 4}, LOW),
    "ranked": Case(RERANKING, (RANKED,)),
    "ranked-named": Case(RERANKING, (RANKED,), {"name": "dev", "at_k": 2}),
    "ranked-strict": Case(RERANKING, (RANKED,), {"always_rerank_positives": False}),
    "ranked-ties": Case(RERANKING, (RANKED,), {"always_rerank_positives": False, "at_k": 3}, LOW),
    "ranked-without": Case(RERANKING, ([WITHOUT, *RANKED],), {"name": "dev"}),
    "ranked-mixed": Case(RERANKING, ([*RANKED, *SAMPLES],), {"always_rerank_positives": False}),
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def entry(request: pytest.FixtureRequest) -> Case:
    return request.param


class TestEveryEvaluator(EvaluatorConformance):
    @pytest.fixture
    def case(self, entry: Case, make_model: Callable[..., Any]) -> EvaluatorCase:
        return EvaluatorCase(entry.make, lambda: make_model(**entry.model))

    def test_reports_to_the_model_card(self, entry, evaluator, model, make_model, peers) -> None:
        found = evaluator(model, None, 2, 7)
        other = make_model(**entry.model)
        getattr(peers, entry.name)(*entry.data, **entry.options)(other, None, 2, 7)
        ((kind, metrics, epoch, step),) = model.model_card_data.reports
        ((_, expected, _, _),) = other.model_card_data.reports
        assert (kind, epoch, step) == (type(evaluator).__name__, 2, 7)
        assert metrics.keys() == expected.keys() <= found.keys()
        texts = {key: value for key, value in expected.items() if isinstance(value, str)}
        assert {key: value for key, value in metrics.items() if isinstance(value, str)} == texts
        numbers = expected.keys() - texts
        assert {key: metrics[key] for key in numbers} == close({key: expected[key] for key in numbers})

    def test_metrics_names_and_files_are_the_peers(self, entry, evaluator, model, peers, tmp_path) -> None:
        theirs = getattr(peers, entry.name)(*entry.data, **entry.options)
        for epoch, steps in [(-1, -1), (0, 50), (1, -1)]:
            found = evaluator(model, str(tmp_path / "ours"), epoch, steps)
            expected = theirs(model, str(tmp_path / "theirs"), epoch, steps)
            assert found == close(expected)
            assert list(found) == list(expected)
            assert evaluator.primary_metric == theirs.primary_metric
        assert len(set(found.values())) > len(found) // 2  # not trivially equal
        assert evaluator.greater_is_better
        assert evaluator.description == theirs.description
        assert evaluator.get_config_dict() == theirs.get_config_dict()
        assert_same_files(tmp_path / "ours", tmp_path / "theirs")

    def test_takes_the_peers_arguments_in_order(self, entry, evaluator, peers) -> None:
        mine = list(inspect.signature(type(evaluator)).parameters.values())
        theirs = list(inspect.signature(getattr(peers, entry.name)).parameters.values())
        theirs = [p for p in theirs if p.kind is not p.VAR_KEYWORD]
        assert [(p.name, p.kind) for p in mine] == [(p.name, p.kind) for p in theirs]
        assert [plain(p.default) for p in mine] == [plain(p.default) for p in theirs]

    def test_writes_nothing_if_told_so(self, entry, model, tmp_path) -> None:
        entry.make(write_csv=False)(model, str(tmp_path))
        assert not list(tmp_path.iterdir())

    def test_asks_for_progress_and_batches_as_told_and_scores_each_pair_once(self, entry, model) -> None:
        told = {"batch_size": 3, "show_progress_bar": False}
        entry.make(**told)(model)
        (call,) = model.calls
        assert {key: call[key] for key in told} == told
        assert len(set(call["texts"])) == len(call["texts"])

    def test_empty_data_is_refused(self, entry) -> None:
        with pytest.raises(ValueError, match=f"{entry.name} needs at least one"):
            getattr(reranker, entry.name)(*(type(part)() for part in entry.data), **entry.options)

    @pytest.mark.parametrize("size", [2, 3])
    def test_a_team_gets_the_metrics_of_one_process(self, entry, evaluator, model, make_model, size) -> None:
        expected = evaluator(model)

        def task(team: Any) -> dict[str, float]:
            own, shared = copy.deepcopy(evaluator), Shared(make_model(**entry.model))
            with in_team(shared, team):
                return own(shared)

        assert together(size, task) == [expected] * size

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_scores_that_are_not_finite_are_refused_by_pair(self, evaluator, model, value) -> None:
        good = model.predict

        def predict(pairs: Any, **options: Any) -> Any:
            scores = good(pairs, **options)
            scores[1] = value
            return scores

        model.predict = predict
        with pytest.raises(ValueError, match=r"needs finite scores; those of .* the first are of \('"):
            evaluator(model)

    def test_another_number_of_scores_is_refused(self, evaluator, model) -> None:
        good = model.predict
        model.predict = lambda pairs, **options: good(pairs, **options)[1:]
        with pytest.raises(ValueError, match=r"needs scores \(\d+, \d\), as the model's num_labels is"):
            evaluator(model)


class Shared:
    """A reranker whose ``predict`` a team shares."""

    def __init__(self, model: Any) -> None:
        self.model, self.team = model, None
        self.num_labels = model.num_labels

    def predict(self, pairs: Any, **options: Any) -> Any:
        parts = share_out(self.team, pairs, lambda pair: self.model.predict([pair], **options))
        return np.concatenate(parts)


def test_the_list_is_complete_and_each_name_is_there(peers: Any) -> None:
    assert reranker.__all__ == sorted(peers.__all__)
    assert all(getattr(reranker, name).__name__ == name for name in reranker.__all__)
