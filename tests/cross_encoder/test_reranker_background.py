"""A reranker that is evaluated beside training, by a desk in this process: it stops early and keeps its best weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback

from eval_desk import Desk, history, parts_of
from ray_st import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from ray_st.cross_encoder import losses
from ray_st.training.async_eval.client import MOST_AWAITED
from ray_st.training.data.local_source import local_context
from reranker_rows import correlation, rows

METRIC, STEPS = "eval_dev_spearman", 50


def trainer_of(folder: Path, model_folder: Path, eval_on: str, form: str, loss: str) -> CrossEncoderTrainer:
    model = CrossEncoder(str(model_folder), device="cpu")
    args = CrossEncoderTrainingArguments(
        str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=7,
        learning_rate=1e-3,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=METRIC,
        greater_is_better=True,
        report_to="none",
        use_cpu=True,
        eval_on=eval_on,
    )
    return CrossEncoderTrainer(
        model=model,
        args=args,
        train_dataset=rows(form, 40),
        eval_dataset=rows(form, 17, seed=2),
        loss=getattr(losses, loss)(model),
        evaluator=correlation(),
        callbacks=[EarlyStoppingCallback(2)],
    )


def run(folder: Path, model_folder: Path, late: int | None, *kind: str) -> Any:
    """A run, evaluated beside training by a desk that answers so late, or as workers do."""
    eval_on = "workers" if late is None else "background"
    trainer = trainer_of(folder, model_folder, eval_on, *kind)
    desk = None if late is None else Desk(trainer_of(folder, model_folder, eval_on, *kind), folder, late)
    parts = trainer.data.train_specs(1)
    if late is None:
        parts |= parts_of(trainer)
    running = trainer.spec().rebuild(local_context(parts, folder, eval_queue=desk))
    running.train()
    return running


def scores(trainer: Any) -> dict[int, float]:
    return {entry["step"]: entry[METRIC] for entry in trainer.state.log_history if METRIC in entry}


@pytest.mark.usefixtures("fresh_accelerator")
@pytest.mark.parametrize(("form", "loss"), [("scores", "MSELoss"), ("lists", "LambdaLoss")])
def test_it_stops_early_and_keeps_its_best_weights(
    form: str, loss: str, tmp_path: Path, tiny_reranker: Path
) -> None:
    expected = run(tmp_path / "workers", tiny_reranker, None, form, loss)
    stopped = expected.state.global_step
    assert stopped < STEPS - MOST_AWAITED
    for late in (0, 99):
        found = run(tmp_path / str(late), tiny_reranker, late, form, loss)
        # The steps that it was late by are evaluated, too, and may hold the best one.
        assert stopped <= found.state.global_step <= stopped + MOST_AWAITED
        known = scores(found)
        assert set(known) == set(range(1, found.state.global_step + 1))
        ours = [entry for entry in history(found) if entry["step"] <= stopped and "train_loss" not in entry]
        theirs = [entry for entry in history(expected) if "train_loss" not in entry]
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine == pytest.approx(other, abs=1e-6)
        best = max(known, key=lambda step: known[step])
        assert found.state.best_global_step == best
        assert Path(found.state.best_model_checkpoint).name == f"checkpoint-{best}"
        assert correlation()(found.model)["dev_spearman"] == pytest.approx(known[best], abs=1e-6)
