"""The trainer in a worker of the user's own run, here as if this process were its only one."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import ray_st.runtime.train.in_worker as inplace
from ray_st import SentenceTransformer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.checkpoint.resume import Start
from ray_st.training.data.local_source import local_context

from .conftest import ROWS


@pytest.fixture
def in_a_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fresh_accelerator: None) -> Path:
    folder = tmp_path / "run"

    def with_sources(place: Any, parts: Any) -> Any:
        return dataclasses.replace(place, **vars(local_context(parts, folder)))

    monkeypatch.setattr(inplace, "find_context", lambda: local_context({}, folder))
    monkeypatch.setattr(inplace, "with_sources", with_sources)
    monkeypatch.setattr(
        inplace, "start", lambda place, resume, *given: Start(path=resume, only_model=given[-1])
    )
    return folder


def test_it_trains_there(make: Any, in_a_worker: Path) -> None:
    trainer = make(eval_dataset={"a": list(ROWS["a"][:6]), "b": list(ROWS["b"][:6])})
    assert trainer.args.output_dir == str(in_a_worker)
    before = trainer.evaluate()["eval_loss"]
    SentenceTransformerTrainingArguments("other")  # leaves the trainer's devices alone
    assert trainer.train().global_step == 3
    assert trainer.worker.store.steps() == [3]  # the result, whatever save_strategy says
    assert trainer.evaluate()["eval_loss"] < before
    assert trainer.predict(ROWS).predictions[0].shape == (12, 32)
    assert trainer.evaluate({"one": ROWS})["eval_one_loss"] > 0
    resumed = make()
    resumed.train(resume_from_checkpoint=str(in_a_worker / "checkpoint-3"))
    assert resumed.state.global_step == 3


def test_a_model_that_each_training_makes_trains_in_float32(
    make: Any, in_a_worker: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    SentenceTransformer(tiny_folder, device="cpu").to(torch.bfloat16).save(tmp_path / "stored")
    seen: list[set[torch.dtype]] = []

    class Types(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.append({weight.dtype for weight in kwargs["model"].parameters()})

    trainer = make(
        model_init=lambda: SentenceTransformer(tmp_path / "stored", device="cpu"),
        loss=MultipleNegativesRankingLoss,
        callbacks=[Types()],
        arguments={"learning_rate": 1e-6},
    )
    first = trainer.model
    for _ in range(2):
        trainer.train()
        assert trainer.model is not first
        assert {weight.dtype for weight in trainer.model.parameters()} == {torch.bfloat16}
    assert seen == [{torch.float32}] * 6
