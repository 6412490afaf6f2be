"""Checkpoints in bad times: a full disk, a folder of another model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors import SafetensorError
from transformers import TrainerCallback

from ray_st import SentenceTransformer
from ray_st.losses import SoftmaxLoss
from ray_st.models import Dense, StaticEmbedding
from ray_st.models.module import Module
from ray_st.training.callbacks.loop_callback import LoopCallback
from ray_st.training.checkpoint import lease
from ray_st.training.checkpoint.lease import Holder
from ray_st.training.checkpoint.store import CheckpointStore
from ray_st.training.strategies.step_module import describe_weights
from ray_st.util.endings import LeaseLost
from ray_st.util.events import send_to

from .conftest import ROWS

SAVING = {"save_strategy": "steps", "save_steps": 1}


class FullAt(CheckpointStore):
    """Its disk is full at some steps."""

    steps_without_room: Any = ()
    fault: Callable[[], Exception]

    def declare(self, step: int, files: Any, **facts: Any) -> Any:
        if step in self.steps_without_room:
            raise self.fault()
        return super().declare(step, files, **facts)


FAULTS = {
    "the system": lambda: OSError(28, "No space left on device"),
    "safetensors": lambda: SafetensorError("I/O error: No space left on device"),
    "torch": lambda: RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
}


def store(folder: Path, fault: Any, *steps: int) -> FullAt:
    made = FullAt(str(folder), run_id="local")
    made.steps_without_room, made.fault = steps, fault
    return made


@pytest.mark.parametrize("fault", FAULTS.values(), ids=list(FAULTS))
def test_a_full_disk_leaves_training_and_the_last_good_checkpoint(
    make: Any, sent: Any, tmp_path: Path, fault: Any, capsys: Any
) -> None:
    reported = []
    running = sent(
        make(arguments={**SAVING, "save_total_limit": 1}),
        report=lambda metrics, found: reported.append(found),
    )
    running.worker.store = store(tmp_path / "run", fault, 2, 3)
    running.train()
    assert running.state.global_step == 3
    assert [found.step for found in reported] == [1]
    assert running.worker.store.steps() == [1]
    assert running.worker.store.newest().step == 1
    assert "checkpoint of step 3 could not be written" in capsys.readouterr().out
    again = sent(make(arguments=SAVING))
    again.train(resume_from_checkpoint=str(again.worker.store.fetch("checkpoint-1")))
    assert again.worker.store.steps() == [1, 2, 3]


class Away(TrainerCallback, LoopCallback):
    """The run's storage is away for the second checkpoint, and what tidies up there fails as well."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.aside = folder, folder.with_name("aside")

    def on_checkpoint(self, state: Any, settled: Any) -> None:
        if settled.step == 1:
            self.folder.rename(self.aside)
            self.folder.write_text("no folder")
        if settled.step == 2:
            self.folder.unlink()
            self.aside.rename(self.folder)


def test_storage_that_is_away_for_a_while(make: Any, sent: Any, tmp_path: Path, capsys: Any) -> None:
    running = sent(make(arguments=SAVING, callbacks=[Away(tmp_path / "run")]))
    running.train()
    assert "checkpoint of step 2 could not be written" in capsys.readouterr().out
    assert running.worker.store.steps() == [1, 3]


def test_the_best_step_without_room_is_not_loaded(make: Any, sent: Any, tmp_path: Path) -> None:
    values = iter([0.1, 0.5, 0.2])
    best = {"load_best_model_at_end": True, "metric_for_best_model": "evaluator", "greater_is_better": True}
    arguments = {**SAVING, **best, "eval_strategy": "steps", "eval_steps": 1}
    running = sent(make(arguments=arguments, evaluator=len))
    running.evaluator = lambda model, **options: next(values)
    running.worker.store = store(tmp_path / "run", FAULTS["the system"], 2)
    running.train()
    assert running.state.best_metric == 0.5
    assert running.state.best_model_checkpoint.endswith("checkpoint-1")


def test_other_errors_while_saving_are_not_hidden(make: Any, sent: Any, tmp_path: Path) -> None:
    running = sent(make(arguments=SAVING))
    running.worker.store = store(tmp_path / "run", lambda: RuntimeError("a mistake"), 2)
    with pytest.raises(RuntimeError, match="a mistake"):
        running.train()


def test_a_checkpoint_of_another_model_is_refused(make: Any, sent: Any, tiny_folder: Path) -> None:
    running = sent(make(arguments=SAVING))
    running.train()
    saved = str(running.worker.store.fetch("checkpoint-2"))
    model = SentenceTransformer(tiny_folder, device="cpu")
    assert running.worker.store.check("checkpoint-2").manifest["model"] == describe_weights(model)
    longer = SentenceTransformer(modules=[model[0], model[1], Dense(32, 8)], device="cpu")
    with pytest.raises(ValueError, match="holds the modules"):
        sent(make(model=longer)).train(resume_from_checkpoint=saved)
    wider = SentenceTransformer(modules=[StaticEmbedding(model.tokenizer, embedding_dim=8)], device="cpu")
    arguments = {**SAVING, "output_dir": str(Path(saved).parent / "wider")}
    other = sent(make(model=wider, arguments=arguments), folder=Path(saved).parent / "wider")
    other.train()
    narrow = SentenceTransformer(modules=[StaticEmbedding(model.tokenizer, embedding_dim=4)], device="cpu")
    before = narrow.state_dict()["0.embedding.weight"].clone()
    with pytest.raises(ValueError, match="do not fit this model"):
        sent(make(model=narrow)).train(resume_from_checkpoint=str(other.worker.store.fetch("checkpoint-2")))
    assert torch.equal(narrow.state_dict()["0.embedding.weight"], before)


def test_weights_alone_are_taken_from_a_folder_without_the_losss(
    make: Any, sent: Any, tmp_path: Path, capsys: Any
) -> None:
    labelled = {"train_dataset": ROWS.add_column("label", [0, 1] * 6)}
    running = sent(make(loss=lambda model: SoftmaxLoss(model, 32, num_labels=2), **labelled))
    before = {
        name: tensor.clone() for name, tensor in running.loss.state_dict().items() if "classifier" in name
    }
    other = sent(make(arguments=SAVING), folder=tmp_path / "other")
    other.train()
    running.take_weights(str(tmp_path / "other" / "checkpoint-3"))
    assert "has no loss.safetensors: the loss's weights" in capsys.readouterr().out
    assert all(torch.equal(running.loss.state_dict()[name], tensor) for name, tensor in before.items())
    mine, theirs = running.model.state_dict(), other.model.state_dict()
    assert all(torch.equal(mine[name], tensor) for name, tensor in theirs.items())


def test_a_checkpoint_of_another_loss_is_refused(make: Any, sent: Any, tiny_folder: Path) -> None:
    running = sent(make(arguments=SAVING))
    running.train()
    saved = str(running.worker.store.fetch("checkpoint-2"))
    labelled = {"train_dataset": ROWS.add_column("label", [0, 1] * 6)}
    other = make(loss=lambda model: SoftmaxLoss(model, 32, num_labels=2), **labelled)
    with pytest.raises(ValueError, match=r"expected the loss weights .*found"):
        sent(other).train(resume_from_checkpoint=saved)


class TakenAfter(TrainerCallback, LoopCallback):
    """Another driver takes the run's folder once the checkpoint of a step is complete."""

    def __init__(self, store: CheckpointStore, step: int) -> None:
        self.store, self.step = store, step

    def on_checkpoint(self, state: Any, settled: Any) -> None:
        if settled.step == self.step:
            lease.write(self.store, Holder.here())


def test_a_worker_whose_driver_lost_the_folder_ends_and_writes_nothing(make: Any, sent: Any) -> None:
    running = sent(make(arguments=SAVING))
    store = running.worker.store
    with lease.held(store, beat_s=3600.0, settle_s=0.0) as mine:
        running.worker.store = replace(store, fence=mine.fence)
        running.add_callback(TakenAfter(store, 1))
        with pytest.raises(LeaseLost):
            running.train()
    assert store.steps() == [1]


def test_a_folder_in_use_is_refused_before_anything_is_started(make: Any, tmp_path: Path) -> None:
    trainer = make(arguments=SAVING)
    store = CheckpointStore(str(tmp_path / "out"))
    before = ray.is_initialized()
    with lease.held(store, beat_s=0.05, settle_s=0.0), pytest.raises(lease.RunInUse, match="in use"):
        trainer.train()
    assert ray.is_initialized() == before
    assert [file.name for file in (tmp_path / "out").iterdir()] == [lease.LEASE]


class Head(Module):
    """A module of the user's own, as it stands in a script."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(32))

    def forward(self, features: Any) -> Any:
        return {**features, "sentence_embedding": features["sentence_embedding"] * self.weight}

    def save(self, folder: str | Path) -> None:
        torch.save(self.state_dict(), Path(folder) / "weights.pt")

    @classmethod
    def load(cls, folder: str | Path, **options: Any) -> Any:
        head = cls()
        head.load_state_dict(torch.load(Path(folder) / "weights.pt"))
        return head


def test_a_module_of_the_users_own_is_resumed_and_taken_as_the_best(
    make: Any, sent: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Head, "__module__", "__main__")
    best = {"load_best_model_at_end": True, "metric_for_best_model": "evaluator", "greater_is_better": True}
    arguments = {**SAVING, **best, "eval_strategy": "steps", "eval_steps": 1}

    def run(resume: str | None, *values: float) -> Any:
        parts = SentenceTransformer(tiny_folder, device="cpu")
        model = SentenceTransformer(modules=[*parts, Head()], device="cpu")
        running, figures = sent(make(model=model, arguments=arguments, evaluator=len)), iter(values)
        running.evaluator = lambda model, **options: next(figures)
        running.train(resume_from_checkpoint=resume)
        return running

    first = run(None, 0.1, 0.5, 0.2)
    saved = str(first.worker.store.fetch("checkpoint-2"))
    assert first.state.best_model_checkpoint.endswith("checkpoint-2")
    last = run(saved, 0.1)
    assert torch.equal(last.model[-1].weight, first.model[-1].weight), "both are those of step 2"
    assert not torch.equal(last.model[-1].weight, torch.ones(32))


def test_a_full_disk_that_also_holds_the_log(make: Any, sent: Any, tmp_path: Path, capsys: Any) -> None:
    """The half checkpoint goes first, and the warning where it can."""
    there: list[list[int]] = []

    def write_to_the_log(line: str) -> None:
        there.append(running.worker.store.steps())
        raise OSError(28, "No space left on device")

    running = sent(make(arguments=SAVING))
    running.worker.store = store(tmp_path / "run", FAULTS["the system"], 2)
    send_to(write_to_the_log)
    try:
        running.train()
    finally:
        send_to(None)
    assert running.state.global_step == 3
    assert running.worker.store.steps() == [1, 3]
    assert [1, 2] not in there
    assert "checkpoint of step 2 could not be written" in capsys.readouterr().err
