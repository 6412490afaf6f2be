"""Evaluation through the trainer: prefixes, several datasets, metrics of embeddings, predictions, own loaders."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from ray_st import SentenceTransformerTrainer
from ray_st.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss
from ray_st.training.loop.predictions import PADDING

from .conftest import ROWS

SCORED = ROWS.add_column("score", [i / 12 for i in range(12)])


class Dev:
    """An evaluator that counts its calls."""

    primary_metric = "dev_figure"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: Any, *args: Any, **options: Any) -> dict[str, float]:
        self.calls += 1
        return {"dev_figure": float(self.calls)}


def names(metrics: Any) -> set[str]:
    return {name for name in metrics if not name.endswith(("runtime", "per_second", "epoch"))}


def test_prefixes(make: Any, on_cluster: None) -> None:
    trainer = make(evaluator=Dev(), eval_dataset=ROWS)
    assert names(trainer.evaluate()) == {"eval_loss", "eval_dev_figure"}
    assert names(trainer.evaluate(metric_key_prefix="test")) == {"test_loss", "test_dev_figure"}
    several = {"one": ROWS, "two": ROWS.select(range(5))}
    found = trainer.evaluate(several, metric_key_prefix="test")
    assert names(found) == {
        "test_one_loss",
        "test_two_loss",
        "test_one_dev_figure",
        "test_two_dev_figure",
    }
    assert found["test_one_dev_figure"] == found["test_two_dev_figure"] == 1.0  # it ran once
    assert trainer.eval_dataset is ROWS
    assert names(make(eval_dataset=several).evaluate()) == {"eval_one_loss", "eval_two_loss"}
    assert names(make(evaluator=Dev()).evaluate(metric_key_prefix="x")) == {"x_dev_figure"}
    assert trainer.state.log_history[-1]["step"] == 0


def test_after_training_figures_are_those_of_its_end(make: Any, on_cluster: None) -> None:
    def ask(model: Any, output_path: Any, epoch: float, steps: int) -> dict[str, float]:
        return {"epoch_seen": epoch, "steps_seen": float(steps)}

    trainer = make(evaluator=ask, eval_dataset={"one": ROWS, "two": ROWS})
    before = trainer.evaluate()
    assert (before["epoch"], before["eval_one_steps_seen"]) == (0, 0)
    trainer.train()
    trained = list(trainer.state.log_history)
    found = trainer.evaluate()
    assert (found["epoch"], found["eval_one_epoch_seen"], found["eval_two_steps_seen"]) == (1, 1, 3)
    assert trainer.state.log_history[: len(trained)] == trained
    added = trainer.state.log_history[len(trained) :]
    assert [(entry["step"], entry["epoch"]) for entry in added] == [(3, 1), (3, 1)]
    assert [name for entry in added for name in entry if name.endswith("_loss")] == [
        "eval_one_loss",
        "eval_two_loss",
    ]
    assert (trainer.state.global_step, trainer.state.max_steps) == (3, 3)


def test_when_to_evaluate_and_to_log(make: Any, sent: Any) -> None:
    arguments = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "eval_on_start": True,
        "eval_delay": 2,
        "logging_steps": 3,
        "logging_first_step": True,
    }
    running = sent(make(eval_dataset={"one": ROWS, "two": ROWS}, arguments=arguments))
    running.train()
    history = running.state.log_history
    assert [entry["step"] for entry in history if "eval_two_loss" in entry] == [0, 2, 3]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 3]


KEPT: list[Any] = []  # functions of this module find it, where others are sent with what they refer to


def keep(found: Any) -> dict[str, float]:
    KEPT.append(found)
    return {"calls": float(len(KEPT))}


def error(found: Any) -> dict[str, float]:
    keep(found)
    one, other = found.predictions
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return {"error": float(np.mean((cosine - found.label_ids) ** 2))}


def first_numbers(embeddings: Any, labels: torch.Tensor) -> torch.Tensor:
    assert len(labels) == len(embeddings[0])
    return embeddings[0][:, 0]


def test_metrics_of_embeddings(make: Any, on_cluster: None) -> None:
    KEPT.clear()
    options = {"train_dataset": SCORED, "eval_dataset": SCORED, "loss": CosineSimilarityLoss}
    found = make(compute_metrics=error, **options).evaluate()
    assert found["eval_error"] == pytest.approx(found["eval_loss"], abs=1e-6)  # the same formula
    assert [part.shape for part in KEPT[0].predictions] == [(12, 32), (12, 32)]
    make(compute_metrics=keep, preprocess_logits_for_metrics=first_numbers, **options).evaluate()
    assert KEPT[1].predictions.shape == (12,)


def test_what_is_kept_of_an_evaluation(make: Any, on_cluster: None, tiny_model: Any) -> None:
    def evaluated(**arguments: Any) -> Any:
        KEPT.clear()
        figures = make(eval_dataset=ROWS, compute_metrics=keep, arguments=arguments).evaluate()
        return figures, *KEPT

    figures, found = evaluated(include_for_metrics=["inputs", "loss"])
    assert figures["eval_calls"] == 1.0
    assert [len(part) for part in found.inputs] == [12, 12]
    real = found.inputs[1][3] != PADDING
    assert not real.all()  # other texts of the second column are longer
    text = tiny_model.tokenizer.decode(found.inputs[1][3][real], skip_special_tokens=True)
    assert text.replace(" ", "") == ROWS["b"][3].replace(" ", "")
    assert float(found.losses.mean()) == pytest.approx(figures["eval_loss"], abs=1e-5)
    assert set(found.losses) == {found.losses[0], found.losses[5], found.losses[10]}
    _, found = evaluated(include_inputs_for_metrics=True, eval_do_concat_batches=False)
    assert [len(step[0]) for step in found.predictions] == [5, 5, 2]
    assert [len(step[0]) for step in found.inputs] == [5, 5, 2]
    assert found.losses is None
    figures, *kept = evaluated(prediction_loss_only=True)
    assert not kept
    assert names(figures) == {"eval_loss"}


def count_rows(found: Any, compute_result: bool) -> dict[str, float]:
    KEPT.append((len(found.predictions[0]), compute_result))
    return {"rows": float(sum(rows for rows, _ in KEPT))} if compute_result else {}


def test_metrics_of_each_batch(make: Any, on_cluster: None) -> None:
    KEPT.clear()
    trainer = make(eval_dataset=ROWS, compute_metrics=count_rows, arguments={"batch_eval_metrics": True})
    assert trainer.evaluate()["eval_rows"] == 12.0
    assert KEPT == [(5, False), (5, False), (2, True)]
    assert trainer.predict(ROWS).predictions[0].shape == (12, 32)


def test_an_evaluation_in_half_precision(make: Any, sent: Any) -> None:
    def kinds(trainer: Any) -> set[torch.dtype]:
        return {weight.dtype for weight in trainer.model.parameters()}

    epoch = {"eval_strategy": "epoch"}
    whole = sent(make(eval_dataset=ROWS, arguments=epoch)).evaluate()["eval_loss"]
    running = sent(make(eval_dataset=ROWS, arguments={"bf16_full_eval": True, **epoch}))
    running.train()
    assert kinds(running) == {torch.float32}
    running = sent(make(eval_dataset=ROWS, arguments={"bf16_full_eval": True, **epoch}))
    half = running.evaluate()["eval_loss"]
    assert kinds(running) == {torch.bfloat16}
    assert half == pytest.approx(whole, abs=0.05)
    assert half != whole


def test_predictions_are_embeddings(make: Any, on_cluster: None) -> None:
    trainer = make(train_dataset=SCORED, loss=CosineSimilarityLoss)
    found = trainer.predict(SCORED.select(range(7)))
    for column, embeddings in zip(("a", "b"), found.predictions, strict=True):
        expected = trainer.model.encode(list(SCORED[column][:7]))
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    np.testing.assert_allclose(found.label_ids, SCORED["score"][:7], atol=1e-6)
    assert {"test_loss", "test_runtime"} <= set(found.metrics)
    assert trainer.predict(SCORED, metric_key_prefix="x").metrics["x_loss"] > 0


class Evaluated(TrainerCallback):
    metrics: Any = None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.metrics = dict(metrics)


def test_callbacks_see_an_evaluation_alone(make: Any, on_cluster: None) -> None:
    callback = Evaluated()
    found = make(eval_dataset=ROWS, callbacks=[callback]).evaluate()
    assert callback.metrics["eval_loss"] == found["eval_loss"]


def test_loaders_on_the_driver(make: Any) -> None:
    trainer = make(eval_dataset={"one": ROWS, "two": ROWS.select(range(5))})
    batches = list(trainer.get_train_dataloader())
    assert [len(batch["a_input_ids"]) for batch in batches] == [4, 4, 4]
    assert [len(batch["b_input_ids"]) for batch in trainer.get_eval_dataloader("two")] == [5]
    assert [len(batch["a_input_ids"]) for batch in trainer.get_test_dataloader(ROWS)] == [5, 5, 2]
    with pytest.raises(ValueError, match="no dataset 'eval:three'"):
        trainer.get_eval_dataloader("three")


class Halved(SentenceTransformerTrainer):
    """Goes over the batches of the base class and leaves every other out."""

    def get_train_dataloader(self) -> Any:
        return list(super().get_train_dataloader())[::2]


class Plain(SentenceTransformerTrainer):
    """Reads rows as any user of torch would."""

    def get_train_dataloader(self) -> Any:
        def collate(rows: list[dict[str, str]]) -> dict[str, Any]:
            inputs = {}
            for column in ("a", "b"):
                features = self.model.tokenize([row[column] for row in rows])
                inputs.update({f"{column}_{name}": value for name, value in features.items()})
            return inputs

        return DataLoader(self.train_dataset, batch_size=6, collate_fn=collate)


class LastFive(SentenceTransformerTrainer):
    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        return list(super().get_eval_dataloader(eval_dataset))[:1]


def test_own_loaders_are_used_on_workers(make: Any, on_cluster: None) -> None:
    plain = make(kind=Plain)
    plain.train()
    assert plain.state.global_step == 2
    whole = make(eval_dataset=ROWS.select(range(5))).evaluate()["eval_loss"]
    assert make(kind=LastFive, eval_dataset=ROWS).evaluate()["eval_loss"] == pytest.approx(whole, abs=1e-6)


def test_accumulated_batches_are_one_batch(make: Any, sent: Any) -> None:
    found = []
    for arguments in (
        {"per_device_train_batch_size": 6},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2},
    ):
        trainer = make(train_dataset=SCORED, loss=CosineSimilarityLoss, arguments=arguments)
        running = sent(trainer)
        running.train()
        found.append([entry["loss"] for entry in running.state.log_history if "loss" in entry])
    assert len(found[0]) == 2
    assert found[1] == pytest.approx(found[0], abs=1e-6)


def test_a_loss_dict_that_lacks_a_dataset(make: Any) -> None:
    data = {"one": ROWS, "two": ROWS}
    with pytest.raises(ValueError, match=r"loss is given for the datasets \['one'\], but not for 'two'"):
        make(train_dataset=data, loss={"one": MultipleNegativesRankingLoss}).train()
    with pytest.raises(ValueError, match="not for a single dataset, which has no name"):
        make(loss={"one": MultipleNegativesRankingLoss}).train()
