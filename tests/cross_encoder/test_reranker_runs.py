"""Runs of the reranker trainer: evaluated, predicted, saved, resumed, with losses of scripts, by ``fit``, on workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from ray.train import ScalingConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ray_st import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments, InputExample
from ray_st.cross_encoder import losses
from ray_st.data.faults import RowError
from reranker_rows import rows


def trainer(
    folder: Path,
    model: Any,
    form: str = "binary",
    loss: Any = None,
    workers: int = 0,
    data: Any = None,
    evaluator: Any = None,
    **arguments: Any,
) -> CrossEncoderTrainer:
    defaults = {
        "num_train_epochs": 2,
        "global_train_batch_size": 8,
        "per_device_eval_batch_size": 7,
        "learning_rate": 2e-3,
        "logging_steps": 1,
        "save_strategy": "epoch",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(str(folder), **{**defaults, **arguments}),
        train_dataset=rows(form, 40) if data is None else data,
        eval_dataset=rows(form, 17, seed=2) if data is None else None,
        loss=loss,
        evaluator=evaluator,
        scaling_config=ScalingConfig(num_workers=workers),
    )


def logged(made: CrossEncoderTrainer) -> list[float]:
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_it_trains_evaluates_predicts_and_saves(tmp_path: Path, reranker: CrossEncoder) -> None:
    made = trainer(tmp_path / "run", reranker, num_train_epochs=6)
    before = made.evaluate()["eval_loss"]
    made.train()
    assert isinstance(made.loss, losses.BinaryCrossEntropyLoss)
    data = rows("binary", 17, seed=2)
    found = made.predict(data)
    pairs = list(zip(data["query"], data["document"], strict=True))
    (logits,) = found.predictions
    expected = made.model.predict(pairs, activation_fn=nn.Identity())
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    np.testing.assert_array_equal(found.label_ids, data["label"])
    assert np.isfinite(before)
    made.save_model(str(tmp_path / "saved"))
    again = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_array_equal(again.predict(pairs), made.model.predict(pairs))


def test_predictions_of_lists_end_with_nan(tmp_path: Path, reranker: CrossEncoder) -> None:
    made = trainer(tmp_path, reranker, "lists", losses.ListNetLoss(reranker))
    data = rows("lists", 17, seed=2)
    found = made.predict(data)
    (scores,) = found.predictions
    assert scores.shape == (17, 5)
    for row, documents in enumerate(data["docs"]):
        expected = reranker.predict(
            [(data["query"][row], text) for text in documents], activation_fn=nn.Identity()
        )
        np.testing.assert_allclose(scores[row, : len(documents)], expected, atol=1e-6)
        assert np.isnan(scores[row, len(documents) :]).all()
        np.testing.assert_array_equal(found.label_ids[row, : len(documents)], data["labels"][row])


@pytest.mark.parametrize(
    ("form", "loss"),
    [
        ("binary", "BinaryCrossEntropyLoss"),
        ("lists", "LambdaLoss"),
        ("triplets", "MultipleNegativesRankingLoss"),  # draws its negatives
    ],
)
def test_a_resumed_run_ends_like_one_that_went_through(
    tmp_path: Path, tiny_reranker: Path, form: str, loss: str
) -> None:
    def made(folder: Path) -> CrossEncoderTrainer:
        model = CrossEncoder(str(tiny_reranker), device="cpu")
        return trainer(folder, model, form, getattr(losses, loss)(model))

    whole = made(tmp_path / "whole")
    whole.train()
    resumed = made(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert not torch.equal(weights(whole.model), weights(made(tmp_path / "new").model))


class OwnLoss(nn.Module):
    """A loss as scripts for other trainers define it: it gets texts and tokenizes pairs."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Sequence[Sequence[str]], labels: Tensor) -> Tensor:
        tokens = self.model.tokenizer(*map(list, inputs), padding=True, truncation=True, return_tensors="pt")
        logits = self.model(dict(tokens))["scores"]
        return nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())


def test_a_loss_over_texts_learns_what_ours_learns(tmp_path: Path, tiny_reranker: Path) -> None:
    found = []
    for kind in (OwnLoss, losses.BinaryCrossEntropyLoss):
        model = CrossEncoder(str(tiny_reranker), device="cpu")
        made = trainer(tmp_path / kind.__name__, model, loss=kind(model))
        made.train()
        found.append(weights(made.model))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_a_prompt_is_put_before_queries(tmp_path: Path, tiny_reranker: Path) -> None:
    found = []
    for prompts, before in (("good: ", ""), (None, "good: ")):
        model = CrossEncoder(str(tiny_reranker), device="cpu")
        data = rows("binary", 16).map(lambda row: {"query": before + row["query"]})  # noqa: B023
        made = trainer(tmp_path / (before or "args"), model, data=data, prompts=prompts)
        made.train()
        found.append(weights(made.model))
    torch.testing.assert_close(*found, atol=0, rtol=0)
    with pytest.raises(ValueError, match="no prompts by column"):
        trainer(tmp_path, CrossEncoder(str(tiny_reranker), device="cpu"), prompts={"query": "good: "})


@pytest.mark.parametrize(
    "arguments",
    [
        {"neftune_noise_alpha": 5.0},
        {"gradient_checkpointing": True},
        {"bf16": True},
        {"learning_rate_mapping": {"classifier": 1e-2}},
        {"batch_sampler": "no_duplicates", "collisions": "drop"},
        {"eval_strategy": "epoch", "load_best_model_at_end": True},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_have_their_effect(tmp_path: Path, tiny_reranker: Path, arguments: dict[str, Any]) -> None:
    found = []
    for given in ({}, arguments):
        model = CrossEncoder(str(tiny_reranker), device="cpu")
        made = trainer(tmp_path / f"{len(found)}", model, num_train_epochs=1, **given)
        made.train()
        assert np.isfinite(logged(made)).all()
        found.append(weights(made.model))
    same = {"gradient_checkpointing", "eval_strategy", "batch_sampler"}
    assert torch.allclose(*found, atol=1e-6) == bool(same & set(arguments))


BAD: list[tuple[str, dict[str, list[Any]], str, str]] = [
    (
        "BinaryCrossEntropyLoss",
        {"a": ["x", "y"], "b": ["x", "y"], "label": [0.5, 1.5]},
        "",
        r"row 1, column 'label': expected a number from 0 to 1.* found 1.5",
    ),
    ("MarginMSELoss", {"a": ["x"], "b": ["y"], "label": [0.5]}, "", "needs at least 3 text columns"),
    (
        "LambdaLoss",
        {"a": ["x", "y"], "b": [["x"], ["y", "z"]], "labels": [[1.0], [1.0]]},
        "",
        r"row 1, column 'labels': expected a list of 2 numbers",
    ),
    ("LambdaLoss", {"a": ["x"], "b": ["y"], "label": [1.0]}, "", "needs a list of texts in each row"),
    ("ListNetLoss", {"a": ["x"], "b": [["y"]]}, "", "needs a label column"),
    (
        "BinaryCrossEntropyLoss",
        {"a": ["x"], "b": [["y"]], "label": [1.0]},
        "",
        "texts must be strings; found type list",
    ),
]


@pytest.mark.parametrize(("loss", "data", "_", "message"), BAD)
def test_bad_rows_are_named(
    tmp_path: Path, reranker: CrossEncoder, loss: str, data: dict[str, Any], _: str, message: str
) -> None:
    with pytest.raises((ValueError, RowError), match=message):
        trainer(
            tmp_path, reranker, loss=getattr(losses, loss)(reranker), data=Dataset.from_dict(data)
        ).train()


def test_fit_of_older_scripts(tmp_path: Path, tiny_reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = rows("binary", 24)
    examples = [
        InputExample(texts=[row["query"], row["document"]], label=row["label"]) for row in data.to_list()
    ]
    model = CrossEncoder(str(tiny_reranker), num_labels=1, device="cpu")
    model.fit(
        train_dataloader=DataLoader(examples, batch_size=8),  # type: ignore[arg-type]
        epochs=12,
        warmup_steps=0,
        optimizer_params={"lr": 2e-3},
        output_path=str(tmp_path / "out"),
        show_progress_bar=False,
        scaling_config=ScalingConfig(num_workers=0),
    )
    saved = CrossEncoder(str(tmp_path / "out"), device="cpu")
    pairs = [example.texts for example in examples]
    np.testing.assert_array_equal(saved.predict(pairs), model.predict(pairs))
    new = CrossEncoder(str(tiny_reranker), device="cpu")
    labels = torch.tensor(data["label"])

    def error(one: CrossEncoder) -> float:
        scores = torch.from_numpy(np.asarray(one.predict(pairs)))
        return float(nn.functional.binary_cross_entropy(scores, labels))

    assert error(model) < error(new)


FORMS = pytest.mark.parametrize(
    ("form", "loss"), [("binary", "BinaryCrossEntropyLoss"), ("lists", "LambdaLoss")]
)


def on_one_and_two(folder: Path, path: Path, form: str, loss: str) -> Iterator[CrossEncoderTrainer]:
    """The same trainer in this process, and on two workers."""
    for name, workers in (("here", 0), ("there", 2)):
        model = CrossEncoder(str(path), device="cpu")
        # One batch for all rows: LambdaLoss is a mean over pairs of documents, not over rows and so not over batches.
        whole = {"per_device_eval_batch_size": 20}
        yield trainer(folder / name, model, form, getattr(losses, loss)(model), workers, **whole)


@pytest.mark.ray
@FORMS
def test_two_workers_train_like_one(
    cluster: Any, tmp_path: Path, tiny_reranker: Path, form: str, loss: str
) -> None:
    here, there = on_one_and_two(tmp_path, tiny_reranker, form, loss)
    here.train()
    there.train()
    # Not the weights: the gradient of a bias that a listwise loss does not see is noise, which AdamW scales up.
    assert logged(there) == pytest.approx(logged(here), abs=1e-5)


@pytest.mark.ray
@pytest.mark.long
@FORMS
def test_two_workers_measure_like_one(
    cluster: Any, tmp_path: Path, tiny_reranker: Path, form: str, loss: str
) -> None:
    here, there = on_one_and_two(tmp_path, tiny_reranker, form, loss)
    assert there.evaluate()["eval_loss"] == pytest.approx(here.evaluate()["eval_loss"], rel=1e-4)
    data = rows(form, 17, seed=2)
    (ours,), (one,) = there.predict(data).predictions, here.predict(data).predictions
    np.testing.assert_allclose(ours, one, atol=1e-3)
