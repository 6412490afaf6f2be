"""Classes that a run file names: the library's by name, a user's own by import path."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback

from ray_st.cli import evaluator_parts, run_parts
from ray_st.cli.run_checks import RunFileError
from ray_st.cli.run_parts import make_callbacks
from ray_st.cli.runfile import CallbackSpec, LossSpec, parse_run

OWN = """
from transformers import TrainerCallback
from ray_st.evaluation import SentenceEvaluator
from ray_st.losses import CoSENTLoss
from ray_st.sampler import DefaultBatchSampler

class Warm(CoSENTLoss):
    def __init__(self, model, warmth: float = 1.0):
        super().__init__(model, scale=warmth)

class Nothing(SentenceEvaluator):
    def __init__(self, name: str = ""):
        super().__init__()
        self.name = name

    def __call__(self, model, output_path=None, epoch=-1, steps=-1):
        return {"nothing": 0.0}

class Quiet(TrainerCallback):
    def __init__(self, word: str):
        self.word = word

class Sampler(DefaultBatchSampler):
    pass

a_number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of a user's in the working directory."""
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_parts", None)


def parsed(**sections: Any) -> Any:
    return parse_run(sections, "run.yaml")


def test_early_stopping_is_known_by_name() -> None:
    run = parsed(callbacks=[{"type": "EarlyStoppingCallback", "early_stopping_patience": 4}])
    (callback,) = make_callbacks(run.callbacks, "run.yaml: callbacks")
    assert isinstance(callback, EarlyStoppingCallback)
    assert callback.early_stopping_patience == 4


def test_own_classes_by_import_path(own: None, tiny_model: Any) -> None:
    run = parsed(
        loss={"name": "own_parts.Warm", "warmth": 7.0},
        evaluators=[{"type": "own_parts.Nothing", "name": "mine"}],
        callbacks=[{"type": "own_parts.Quiet", "word": "psst"}],
        args={"batch_sampler": "own_parts.Sampler", "output_dir": "out"},
    )
    loss = run_parts.make_losses(run.loss, "run.yaml: loss")(tiny_model)
    assert (type(loss).__name__, loss.scale) == ("Warm", 7.0)
    (evaluator,) = evaluator_parts.make_evaluators(run)
    assert evaluator.name == "mine"
    (callback,) = make_callbacks(run.callbacks, "run.yaml: callbacks")
    assert callback.word == "psst"  # type: ignore[attr-defined]
    assert run_parts.make_args(run).batch_sampler.__name__ == "Sampler"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            CallbackSpec("EarlyStoping"),
            r"callbacks\.0\.type: unknown callback 'EarlyStoping'; did you mean 'EarlyStoppingCallback'",
        ),
        (
            CallbackSpec("EarlyStoppingCallback", {"patience": 2}),
            r"callbacks\.0\.patience: unknown key 'patience'",
        ),
        (CallbackSpec("own_parts.Quiet"), r"callbacks\.0: .*missing 1 required positional argument: 'word'"),
        (CallbackSpec("no_such_module.Quiet"), "'no_such_module' cannot be imported from"),
        (
            CallbackSpec("own_parts.Loud"),
            "own_parts.Loud to be a class derived from TrainerCallback; nothing of that name",
        ),
        (CallbackSpec("own_parts.a_number"), "derived from TrainerCallback; found 3"),
        (CallbackSpec("own_parts.Warm"), "derived from TrainerCallback; found <class 'own_parts.Warm'>"),
    ],
)
def test_callbacks_that_cannot_be_made(own: None, spec: CallbackSpec, message: str) -> None:
    with pytest.raises(RunFileError, match=message):
        make_callbacks((spec,), "run.yaml: callbacks")


def test_a_loss_of_another_kind_is_refused(own: None) -> None:
    with pytest.raises(
        RunFileError, match=r"loss\.name: expected own_parts.Quiet to be a class derived from Loss"
    ):
        run_parts.make_loss(LossSpec("own_parts.Quiet"), "run.yaml: loss")


@pytest.mark.parametrize("callbacks", ["EarlyStoppingCallback", [3], [{"early_stopping_patience": 1}]])
def test_the_list_has_a_form(callbacks: Any) -> None:
    with pytest.raises(RunFileError, match=r"callbacks(\.0)?(\.type)?: expected"):
        parsed(callbacks=callbacks)
