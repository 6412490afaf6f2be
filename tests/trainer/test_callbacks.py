"""Callbacks on their way to the workers and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_callback import ExportableState

from ray_st.training.callbacks.progress_report import ProgressReport

from .conftest import ROWS


class Counting(TrainerCallback):
    def __init__(self) -> None:
        self.steps = 0

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.steps += 1


class Named(Counting):
    pass


class Exporting(TrainerCallback, ExportableState):
    def __init__(self, start: int = 0, api_key: str = "") -> None:
        self.start, self.api_key, self.seen = start, api_key, []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(state.global_step)

    def state(self) -> dict[str, Any]:
        return {
            "args": {"start": self.start, "api_key": self.api_key},
            "attributes": {"seen": list(self.seen)},
        }


class Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise InterruptedError


def kinds(trainer: Any) -> list[type]:
    return [type(callback) for callback in trainer.callback_handler.callbacks]


def test_classes_and_instances_run_on_the_worker_and_come_back(make: Any, on_cluster: None) -> None:
    given = Counting()
    trainer = make(callbacks=[given, Named])
    trainer.train()
    assert given.steps == 3
    assert [type(callback) for callback in trainer.own_callbacks()] == [Counting, Named]
    assert trainer.own_callbacks()[1].steps == 3


def test_what_is_added_popped_and_removed_after_construction_counts(make: Any, sent: Any) -> None:
    trainer = make(callbacks=[Counting, Named])
    trainer.add_callback(Exporting(7))
    popped = trainer.pop_callback(Named)
    assert type(popped) is Named
    assert trainer.pop_callback(Stop) is None
    running = sent(trainer)
    assert {Counting, Exporting, ProgressReport} <= set(kinds(running))
    assert Named not in kinds(running)
    trainer.remove_callback(Counting)
    for kind in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(kind)
    running = sent(trainer)
    assert not {Counting, ProgressReport} & set(kinds(running))
    assert [one.start for one in running.callback_handler.callbacks if isinstance(one, Exporting)] == [7]


class Printing(PrinterCallback):
    """A user's kind of a default callback."""


def test_a_users_kind_of_a_default_callback_travels(make: Any, sent: Any) -> None:
    trainer = make()
    trainer.add_callback(Printing)
    assert Printing in kinds(sent(trainer))


@pytest.mark.parametrize("restarted", [True, False])
def test_exported_states_are_restored_where_a_run_is_restarted(make: Any, sent: Any, restarted: bool) -> None:
    arguments = {
        "save_strategy": "steps",
        "save_steps": 2,
        "restore_callback_states_from_checkpoint": not restarted,
    }
    broken = sent(make(callbacks=[Exporting(5), Stop(2)], arguments=arguments))
    with pytest.raises(InterruptedError):
        broken.train()
    store = broken.worker.store
    running = sent(make(callbacks=[Counting, Exporting], arguments=arguments))
    if not restarted:
        running.worker.store.run_id = "another run"
    running.train(resume_from_checkpoint=str(store.fetch("checkpoint-2")))
    counting, exporting = running.received_callbacks
    assert (exporting.start, exporting.seen, counting.steps) == (5, [1, 2, 3], 1)
    assert [one for one in running.callback_handler.callbacks if isinstance(one, Exporting)] == [exporting]


def test_secrets_of_exported_states_are_not_written_and_come_back(make: Any, sent: Any) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 2}
    broken = sent(make(callbacks=[Exporting(5, "sesame"), Stop(2)], arguments=arguments))
    with pytest.raises(InterruptedError):
        broken.train()
    broken.save_state()
    checkpoint = Path(broken.worker.store.fetch("checkpoint-2"))
    for folder in (checkpoint, Path(broken.args.output_dir)):
        written = (folder / "trainer_state.json").read_text()
        assert "<API_KEY>" in written
        assert "sesame" not in written
    running = sent(make(callbacks=[Exporting(0, "new")], arguments=arguments))
    running.train(resume_from_checkpoint=str(checkpoint))
    assert [running.received_callbacks[0].start, running.received_callbacks[0].api_key] == [5, "new"]


def test_another_runs_states_are_left_alone_unless_asked_for(make: Any, sent: Any) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 2}
    first = sent(make(callbacks=[Exporting(5)], arguments=arguments))
    first.train()
    running = sent(make(callbacks=[Exporting], arguments=arguments))
    running.worker.store.run_id = "another run"
    running.train(resume_from_checkpoint=str(first.worker.store.fetch("checkpoint-2")))
    assert running.received_callbacks[0].seen == [3]


def test_early_stopping_and_the_best_model(make: Any, sent: Any) -> None:
    arguments = {
        "num_train_epochs": 4,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_dev_spearman_cosine",
        "greater_is_better": True,
    }

    class Falling:
        primary_metric = "dev_spearman_cosine"
        values = iter([0.5, 0.9, 0.4, 0.3, 0.2])

        def __call__(self, model: Any, *args: Any, **options: Any) -> dict[str, float]:
            return {"dev_spearman_cosine": next(Falling.values)}

    trainer = make(callbacks=[EarlyStoppingCallback(2)], arguments=arguments, evaluator=Falling())
    running = sent(trainer)
    running.train()
    assert running.state.global_step == 4
    assert running.state.best_global_step == 2
    assert running.state.best_model_checkpoint.endswith("checkpoint-2")


def test_a_callback_may_change_the_list_while_training(make: Any, on_cluster: None) -> None:
    class Adding(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.began = True
            handler.callbacks.insert(0, Counting())

    handler: Any = type("", (), {"callbacks": []})()
    trainer = make(callbacks=[Adding()], eval_dataset=ROWS)
    trainer.train()
    assert trainer.own_callbacks()[0].began
