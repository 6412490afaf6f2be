"""A run without workers: the loop runs in the user's process, on the user's objects, as one worker would."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from transformers import TrainerCallback

from ray_st import SentenceTransformerTrainer
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.runtime.encode.rank_evaluators import evaluate_on_workers
from ray_st.training.checkpoint.sample_log import LEDGER, read_ledger

from .conftest import ROWS

HERE = ScalingConfig(num_workers=0)
STEPS: list[int] = []  # of this script

pytestmark = pytest.mark.usefixtures("fresh_accelerator")


class See(TrainerCallback):
    def __init__(self) -> None:
        self.lock = threading.Lock()  # cannot be pickled

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        STEPS.append(state.global_step)


class Counting(SentenceTransformerTrainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls = 0

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return super().compute_loss(*args, **kwargs)


class CtrlCAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGINT)
            for thread in threading.enumerate():
                if thread.name == "ray_st-stop":
                    thread.join()


@pytest.fixture(autouse=True)
def python_handles_ctrl_c() -> Iterator[None]:
    """Shells have what they start in the background ignore Ctrl-C, and a run respects that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*args: Any, **options: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", start)
    STEPS.clear()


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_it_trains_the_users_objects(make: Any, sent: Any, capsys: Any) -> None:
    worker = sent(make())
    worker.train()
    model = make().model
    loss = MultipleNegativesRankingLoss(model)
    trainer = make(Counting, model=model, loss=loss, callbacks=[See()], scaling_config=HERE)
    assert trainer.train().global_step == 3
    assert (STEPS, trainer.calls) == ([1, 2, 3], 3)
    assert losses(trainer) == losses(worker)
    assert trainer.model is model
    for name, tensor in worker.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert "cannot be sent" not in capsys.readouterr().out
    assert trainer.context is None
    trainer.train()  # goes on with the weights that it has, as a worker would
    assert STEPS == [1, 2, 3, 1, 2, 3]


@pytest.mark.slow
def test_checkpoints_the_best_model_and_a_ledger(make: Any, tmp_path: Path) -> None:
    arguments = {
        "num_train_epochs": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "ledger": True,
        "batch_sampler": "no_duplicates",
    }
    options = {"arguments": arguments, "eval_dataset": ROWS, "scaling_config": HERE}
    whole = make(**options)
    whole.train()
    folder = tmp_path / "out"
    assert whole.state.best_model_checkpoint == str(folder / f"checkpoint-{whole.state.best_global_step}")
    assert [line["step"] for line in read_ledger(folder / LEDGER)] == [1, 2, 3, 4, 5, 6]
    found = whole.evaluate()
    assert found["eval_loss"] == min(e["eval_loss"] for e in whole.state.log_history if "eval_loss" in e)
    assert found["epoch"] == 2
    assert whole.predict(ROWS).predictions[0].shape == (12, 32)
    resumed = make(**options)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    assert losses(resumed) == losses(whole)


def test_mixed_precision_ends_with_the_run(make: Any) -> None:
    first = make(arguments={"bf16": True}, scaling_config=HERE)
    first.train()
    pickle.dumps(first.model)
    again = make(model=first.model, loss=MultipleNegativesRankingLoss(first.model), scaling_config=HERE)
    again.train()
    assert first.evaluate(ROWS)["eval_loss"] == pytest.approx(again.evaluate(ROWS)["eval_loss"], abs=1e-3)


def test_where_run_config_says(make: Any, tmp_path: Path) -> None:
    run_config = RunConfig(name="named", storage_path=str(tmp_path / "elsewhere"))
    make(arguments={"save_strategy": "epoch"}, scaling_config=HERE, run_config=run_config).train()
    assert (tmp_path / "elsewhere" / "named" / "checkpoint-3" / "manifest.json").is_file()


@pytest.mark.slow
def test_ctrl_c_saves_and_reaches_the_user(make: Any, tmp_path: Path) -> None:
    arguments = {"num_train_epochs": 4}
    whole = make(arguments=arguments, scaling_config=HERE)
    whole.train()
    broken = make(arguments=arguments, scaling_config=HERE, callbacks=[CtrlCAt(5)])
    with pytest.raises(KeyboardInterrupt, match="stopped after step 5"):
        broken.train()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed = make(arguments=arguments, scaling_config=HERE)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)


def test_ctrl_c_at_the_last_step_comes_after_the_result(make: Any) -> None:
    trainer = make(scaling_config=HERE, callbacks=[CtrlCAt(3)])
    with pytest.raises(KeyboardInterrupt, match="reached its last step"):
        trainer.train()
    assert trainer.state.global_step == 3


def test_an_error_keeps_its_own_traceback(make: Any) -> None:
    class Wrong(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        make(scaling_config=HERE, callbacks=[Wrong()]).train()


@pytest.mark.parametrize(
    ("arguments", "scaling", "message"),
    [
        ({"fsdp": True}, HERE, r"fsdp cannot be used without workers \(num_workers=0\)"),
        ({"bf16_full_eval": True}, HERE, "bf16_full_eval .* cast the weights"),
        ({"eval_on": "background"}, HERE, "num_workers=0 trains in this process"),
        ({"fp16": True}, HERE, "fp16=True needs a GPU"),
        ({}, ScalingConfig(num_workers=0, use_gpu=True), "has no GPU"),
    ],
)
def test_what_needs_workers_is_refused_when_the_trainer_is_made(
    make: Any, monkeypatch: pytest.MonkeyPatch, arguments: Any, scaling: Any, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        make(arguments=arguments, scaling_config=scaling)


def test_a_search_needs_workers(make: Any) -> None:
    with pytest.raises(ValueError, match="num_workers=0"):
        make(model_init=lambda: make().model, scaling_config=HERE).hyperparameter_search(n_trials=1)


def test_evaluators_without_workers(make: Any) -> None:
    def dev(model: Any, **options: Any) -> dict[str, float]:
        STEPS.append(1)
        return {"dev": 0.5}

    assert evaluate_on_workers(make().model, dev, HERE) == {"dev": 0.5}
    assert STEPS == [1]


def test_in_a_loop_of_ray_trains_local_mode(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray leaves this set when the loop has ended.
    monkeypatch.setattr("ray.train.v2._internal.execution.train_fn_utils._train_fn_utils", None)
    found: list[Any] = []

    def loop() -> None:
        trainer = make(callbacks=[See()])
        found.append(trainer.train().global_step)

    TorchTrainer(loop, scaling_config=HERE).fit()
    assert (found, STEPS) == ([3], [1, 2, 3])
