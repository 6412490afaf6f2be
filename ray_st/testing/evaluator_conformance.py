"""The contract of every evaluator, as one class of tests."""

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
        says_names: Whether the evaluator declares the names of its metrics before it runs.
        reports: Whether it reports to the model's card.
    """

    make: Callable[[], SentenceEvaluator]
    model: Callable[[], FakeModel] = FakeModel
    says_names: bool = True
    reports: bool = True


class EvaluatorConformance:
    """Tests of an evaluator; a subclass defines the fixture ``case``.

    Results do not depend on when and where it runs, it declares its metrics, and it uses no more of a model
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
        """The card records the metrics with the epoch and step of the evaluation."""
        found = evaluator(model, None, 2, 7)
        wanted = [(type(evaluator).__name__, found, 2, 7)] if case.reports else []
        assert model.model_card_data.reports == wanted

    def test_needs_only_encode_and_similarity_or_predict(
        self, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """Workers pass it a model with little more than these."""

        class Proxy:
            encode, similarity = staticmethod(model.encode), staticmethod(model.similarity)
            predict, num_labels = staticmethod(model.predict), model.num_labels
            similarity_fn_name = model.similarity_fn_name
            prompts = model.prompts

        assert evaluator(Proxy()) == evaluator(model)

    def test_returns_plain_floats_with_a_primary_metric(
        self, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """Metrics go to logs and to JSON; the primary one selects the best checkpoint."""
        found = evaluator(model)
        assert isinstance(found, dict)
        assert {type(value) for value in found.values()} == {float}
        assert evaluator.primary_metric in found
        json.dumps(found)

    def test_declares_its_metrics_before_it_is_called(
        self, case: EvaluatorCase, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """Training raises for an unknown metric before it starts."""
        declared = evaluator.metric_names(model)
        assert metric_names_of(evaluator, model) == declared
        if declared is None:
            assert not case.says_names
            return
        assert sorted(declared) == sorted(_metrics(evaluator, model))

    def test_a_subclass_with_its_own_call_declares_no_metrics(
        self, evaluator: SentenceEvaluator, model: FakeModel
    ) -> None:
        """The metrics that the base class declares are not those of an overridden call."""
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
        """A call leaves no state behind, and a pickled evaluator returns the same metrics."""
        other = pickle.loads(pickle.dumps(evaluator))
        assert evaluator(model) == evaluator(model) == other(model)

    def test_embeds_the_same_whether_or_not_it_writes(self, case: EvaluatorCase, tmp_path: Path) -> None:
        """Workers share each call of ``encode`` or ``predict``; only the first of them has an output path."""
        writing, silent = case.model(), case.model()
        assert case.make()(writing, str(tmp_path)) == case.make()(silent)
        assert writing.calls == silent.calls


def _metrics(evaluator: SentenceEvaluator, model: FakeModel) -> dict[str, Any]:
    found = evaluator(model)
    return found if isinstance(found, dict) else {"evaluator": found}
