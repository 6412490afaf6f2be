"""A run that is told to stop saves, ends, and goes on as if nothing had been."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from ray_st.training.callbacks.stop_consensus import StopConsensus
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.util.endings import Interrupted, Moved, StopRequest, Why

LONG = {"num_train_epochs": 4, "eval_strategy": "no"}


class AskAt(TrainerCallback):
    def __init__(self, wish: StopRequest, step: int, why: Why) -> None:
        self.wish, self.step, self.why = wish, step, why

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.wish.ask(self.why)


def watched(trainer: Any, step: int, why: Why, **options: Any) -> StopConsensus:
    wish = StopRequest()
    roll_call = StopConsensus(trainer.worker, wish, every_s=0.0, **options)
    trainer.add_callback(AskAt(wish, step, why))
    trainer.add_callback(roll_call)
    return roll_call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("why", "error"), [(Why.STOP, Interrupted), (Why.LEAVE, Moved), (Why.PREEMPTED, Moved)]
)
def test_it_stops_after_a_checkpoint_and_goes_on_exactly(
    make: Any, sent: Any, fresh_accelerator: None, tmp_path: Path, why: Why, error: type[Exception]
) -> None:
    arguments = {**LONG, "logging_steps": 3}
    whole = sent(make(arguments=arguments), folder=tmp_path / "whole")
    unbroken = whole.train()
    broken = sent(make(arguments=arguments), folder=tmp_path / "broken")
    watched(broken, 5, why)
    with pytest.raises(error, match="stopped after step 5"):
        broken.train()
    newest = CheckpointStore(str(tmp_path / "broken")).newest()
    assert newest is not None
    assert newest.step == 5
    resumed = sent(make(arguments=arguments), folder=tmp_path / "broken")
    result = resumed.train(resume_from_checkpoint=str(tmp_path / "broken" / newest.name))
    assert resumed.state.global_step == whole.state.global_step
    assert result.training_loss == pytest.approx(unbroken.training_loss, rel=1e-6)
    assert result.metrics["train_loss"] == result.training_loss
    assert _losses(resumed) == pytest.approx(_losses(whole), rel=1e-6)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def _losses(trainer: Any) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry}


def test_a_finished_run_has_nothing_left_to_do(
    make: Any, sent: Any, fresh_accelerator: None, tmp_path: Path, capsys: Any
) -> None:
    """It ended in the middle of an epoch; each time that it goes on, transformers would make one more step."""
    arguments = {"max_steps": 4, "num_train_epochs": 4, "save_strategy": "steps", "save_steps": 4}
    first = sent(make(arguments=arguments))
    done = first.train()
    saved = str(first.worker.store.fetch("checkpoint-4"))
    again = sent(make(arguments=arguments))
    result = again.train(resume_from_checkpoint=saved)
    assert f"nothing to do: {saved} is of step 4 of 4" in capsys.readouterr().out
    assert (result.global_step, again.state.global_step, again.state.epoch) == (4, 4, first.state.epoch)
    assert result.training_loss == pytest.approx(done.training_loss, rel=1e-6)
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor), name
    fewer = sent(make(arguments={**arguments, "max_steps": 2}))
    assert fewer.train(resume_from_checkpoint=saved).global_step == 4


def test_a_wish_at_the_last_step_changes_nothing(make: Any, sent: Any, fresh_accelerator: None) -> None:
    trainer = sent(make())
    watched(trainer, 3, Why.STOP)
    trainer.train()
    assert trainer.state.global_step == 3


def test_no_evaluation_keeps_a_stop_waiting(make: Any, sent: Any, fresh_accelerator: None) -> None:
    trainer = sent(
        make(arguments={"eval_strategy": "steps", "eval_steps": 1}, eval_dataset=make().train_dataset)
    )
    watched(trainer, 2, Why.STOP)
    with pytest.raises(Interrupted):
        trainer.train()
    assert [entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry] == [1]


def test_a_node_that_is_taken_away_is_asked_for_at_each_call(
    make: Any, sent: Any, fresh_accelerator: None
) -> None:
    answers = iter([False, True])
    trainer = sent(make())
    trainer.add_callback(
        StopConsensus(trainer.worker, StopRequest(), preempted=lambda: next(answers), every_s=0.0)
    )
    with pytest.raises(Moved) as raised:
        trainer.train()
    assert raised.value.why is Why.PREEMPTED
    assert trainer.state.global_step == 2


def test_calls_are_as_far_apart_as_asked_for(make: Any, sent: Any, fresh_accelerator: None) -> None:
    calls: list[bool] = []
    trainer = sent(make(arguments=LONG))
    trainer.add_callback(
        StopConsensus(
            trainer.worker, StopRequest(), preempted=lambda: bool(calls.append(True)), every_s=3600.0
        )
    )
    trainer.train()
    assert len(calls) == 1, "the first step tells the pace"


def test_a_lesser_wish_does_not_take_back_a_greater_one() -> None:
    wish = StopRequest()
    wish.ask(Why.STOP)
    wish.ask(Why.LEAVE)
    assert wish.why is Why.STOP


def test_the_errors_travel() -> None:
    moved = pickle.loads(pickle.dumps(Moved(Why.PREEMPTED, "stopped after step 5")))
    assert (moved.why, str(moved)) == (Why.PREEMPTED, "stopped after step 5")
