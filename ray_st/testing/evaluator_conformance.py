"""What every evaluator keeps, as one class of tests."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ray_st.evaluation.sentence_evaluator import SentenceEvaluator, metric_names_of
from ray_st.testing.fake_model import FakeModel


@dataclass(frozen=True)
class EvaluatorCase:
    """An evaluator under test, and the model that it measures.

    Args:
        make: Makes the evaluator.
        model: Makes the model.
        says_names: Whether the evaluator knows the names of its metrics before it runs.
        reports: Whether it reports to the model's card.
    """

    make: Callable[[], SentenceEvaluator]
    model: Callable[[], FakeModel] = FakeModel
    says_names: bool = True
    reports: bool = True


class EvaluatorConformance:
    """Tests of an evaluator; a subclass defines the fixture ``case``.

    It measures the same whenever and wherever it runs, says what it measures, and asks no more of a model
    than workers share.
    """

    @pytest.fixture
    def case(self) -> EvaluatorCase:
        """The evaluator under test."""
        raise NotImplementedError("define the fixture `case`: it returns a ray_st.testing.EvaluatorCase")

    @pytest.fixture
    def evaluator(self, case: EvaluatorCase) -> SentenceEvaluator:
        """The evaluator."""
        return case.make()

    @pytest.fixture
    def model(self, case: EvaluatorCase) -> FakeModel:
        """What it measures."""
        return case.model()

    def test_reports_to_the_model_card(
        self, case: EvaluatorCase, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """The card learns the metrics, and when in training they were found."""
        found = evaluator(model, None, 2, 7)
        wanted = [(type(evaluator).__name__, found, 2, 7)] if case.reports else []
        assert model.model_card_data.reports == wanted

    def test_needs_only_encode_and_similarity(self, evaluator: SentenceEvaluator, model: FakeModel) -> None:
        """Workers hand it a model with little more than these."""

        class Proxy:
            encode, similarity = staticmethod(model.encode), staticmethod(model.similarity)
            similarity_fn_name = model.similarity_fn_name
            prompts = model.prompts

        assert evaluator(Proxy()) == evaluator(model)

    def test_returns_plain_floats_with_a_primary_metric(
        self, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """Metrics go to logs and to JSON; one of them chooses the best checkpoint."""
        found = evaluator(model)
        assert isinstance(found, dict)
        assert {type(value) for value in found.values()} == {float}
        assert evaluator.primary_metric in found
        json.dumps(found)

    def test_says_the_names_of_its_metrics_before_it_is_called(
        self, case: EvaluatorCase, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """Training refuses a metric that nobody reports before it starts."""
        said = evaluator.metric_names(model)
        assert metric_names_of(evaluator, model) == said
        if said is None:
            assert not case.says_names
            return
        assert sorted(said) == sorted(_metrics(evaluator, model))

    def test_a_subclass_with_a_call_of_its_own_says_nothing(
        self, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """What the class above says is no longer what a call returns."""
        own = type("Own", (type(evaluator),), {"__call__": lambda self, *args, **options: {"own": 1.0}})
        evaluator.__class__ = own
        assert metric_names_of(evaluator, model) is None

    def test_writes_nothing_unless_asked(
        self,
        evaluator: SentenceEvaluator,
        model: FakeModel,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Without an output path there are no files."""
        monkeypatch.chdir(tmp_path)
        evaluator(model)
        assert not list(tmp_path.iterdir())

    def test_is_the_same_again_and_in_another_process(
        self, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """Nothing is left of a call, and a pickled evaluator is the same."""
        other = pickle.loads(pickle.dumps(evaluator))
        assert evaluator(model) == evaluator(model) == other(model)

    def test_embeds_the_same_whether_or_not_it_writes(self, case: EvaluatorCase, tmp_path: Path) -> None:
        """Workers deal out each call of ``encode``; only the first of them is given an output path."""
        writing, silent = case.model(), case.model()
        assert case.make()(writing, str(tmp_path)) == case.make()(silent)
        assert writing.calls == silent.calls


def _metrics(evaluator: SentenceEvaluator, model: FakeModel) -> dict[str, Any]:
    found = evaluator(model)
    return found if isinstance(found, dict) else {"evaluator": found}
