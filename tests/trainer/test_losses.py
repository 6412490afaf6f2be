"""What the loop does with losses: their own weights, their parts, and values that are no numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import nn

from ray_st import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import ContrastiveLoss, CosineSimilarityLoss, MultipleNegativesRankingLoss
from ray_st.training.data.local_source import local_context
from ray_st.training.loop.finite_check import LossError

PAIRS = {"a": [f"one {i}" for i in range(12)], "b": [f"two {i}" for i in range(12)]}


class Plain(nn.Module):
    """A loss as a user writes one, with a weight of its own and named parts."""

    def __init__(self, model: nn.Module, bad: int | None = None) -> None:
        super().__init__()
        self.model, self.bad, self.calls = model, bad, 0
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor | None) -> Any:
        one, two = (self.model(column)["sentence_embedding"] for column in features)
        self.calls += 1
        if self.bad == self.calls:
            return one.sum() * torch.nan
        return {"apart": (one - two).square().mean(), "size": self.weight * one.square().mean()}


def loop(model: Any, folder: Path, loss: Any, data: Any = PAIRS, **arguments: Any) -> Any:
    options = {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 0.01,
        "report_to": "none",
        **arguments,
    }
    trainer = SentenceTransformerTrainer(
        model=model, args=SentenceTransformerTrainingArguments(**options), train_dataset=data, loss=loss
    )
    return trainer.spec().rebuild(local_context(trainer.data.train_specs(1), folder))


def test_parts_are_summed_and_logged_by_name(tiny_model: Any, tmp_path: Path) -> None:
    running = loop(tiny_model, tmp_path, Plain(tiny_model))
    running.train()
    logged = [entry for entry in running.state.log_history if "loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        assert entry["loss"] == pytest.approx(entry["apart"] + entry["size"], rel=1e-5)


def test_weights_of_a_loss_are_trained_saved_and_restored(tiny_model: Any, tmp_path: Path) -> None:
    loss = Plain(tiny_model)
    running = loop(tiny_model, tmp_path, loss, save_strategy="steps", save_steps=2)
    running.train()
    trained = float(loss.weight.detach())
    assert trained != 2.0
    with torch.no_grad():
        loss.weight.fill_(9.0)
    again = loop(tiny_model, tmp_path, loss, save_strategy="no")
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert float(loss.weight.detach()) == pytest.approx(trained, abs=1e-6)


def test_another_loss_is_refused_on_resume(tiny_model: Any, tmp_path: Path) -> None:
    loop(tiny_model, tmp_path, Plain(tiny_model), save_strategy="steps", save_steps=2).train()
    other = Plain(tiny_model)
    other.another = nn.Parameter(torch.zeros(1))
    running = loop(tiny_model, tmp_path, other)
    with pytest.raises(
        ValueError, match=r"expected the loss weights \['another', 'weight'\], found \['weight'\]"
    ):
        running.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_the_weights_of_an_unused_loss_get_a_zero_gradient(tiny_model: Any, tmp_path: Path) -> None:
    losses = {"used": Plain(tiny_model), "unused": Plain(tiny_model)}
    data = {"used": Dataset.from_dict(PAIRS), "unused": Dataset.from_dict(PAIRS)}
    running = loop(tiny_model, tmp_path, losses, data)
    gradients = []
    step = running.training_step

    def watched(model: Any, inputs: Any, items: Any = None) -> Any:
        name = inputs["dataset_name"]
        value = step(model, inputs, items)
        gradients.append({key: float(part.weight.grad) for key, part in losses.items()} | {"name": name})
        return value

    running.training_step = watched
    running.train()
    assert len(gradients) == 6
    for found in gradients:
        other = "unused" if found["name"] == "used" else "used"
        assert found[other] == 0.0
        assert found[found["name"]] != 0.0


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_checkpoint(
    tiny_model: Any, tmp_path: Path
) -> None:
    running = loop(tiny_model, tmp_path, Plain(tiny_model, bad=3), save_strategy="steps", save_steps=1)
    with pytest.raises(
        ValueError, match=r"The loss is nan at step 3 on rank 0 of 1, rows \[\d+, \d+, \d+, \d+\]"
    ):
        running.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


class Broken(torch.autograd.Function):
    """What it is given; its backward pass makes NaN."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        return rows.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * torch.nan


class Breaking(Plain):
    """A loss that is a number and whose gradient is not, at one of its calls."""

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor | None) -> Any:
        one, two = (self.model(column)["sentence_embedding"] for column in features)
        self.calls += 1
        value = self.weight * (one - two).square().mean()
        return Broken.apply(value) if self.bad == self.calls else value


@pytest.mark.parametrize(
    ("bad", "arguments"),
    [
        (2, {}),
        (3, {}),  # the last step: nothing would come after it that could notice
        (2, {"max_grad_norm": 0.0}),
        (3, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}),
    ],
)
def test_a_gradient_that_is_no_number_stops_the_run_before_the_optimizer_moves(
    tiny_model: Any, tmp_path: Path, bad: int, arguments: dict[str, Any]
) -> None:
    running = loop(
        tiny_model, tmp_path, Breaking(tiny_model, bad), save_strategy="steps", save_steps=1, **arguments
    )
    step = (bad - 1) // arguments.get("gradient_accumulation_steps", 1) + 1
    with pytest.raises(
        LossError, match=rf"gradient of step {step} is not a number .* rows \[\d+, "
    ) as raised:
        running.train()
    named = {
        int(row) for rows in re.findall(r"rows \[([\d, ]+)\]", str(raised.value)) for row in rows.split(",")
    }
    batches = running.worker.train.piece(0, 0).plan
    accumulated = arguments.get("gradient_accumulation_steps", 1)
    expected = [batches.batch(index) for index in range((step - 1) * accumulated, step * accumulated)]
    assert named == set(np.concatenate(expected).tolist())
    last = tmp_path / f"checkpoint-{step - 1}"
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*"))[-1] == last.name
    now = {name: weight.detach().clone() for name, weight in tiny_model.named_parameters()}
    tiny_model.load_weights(last)
    for name, weight in tiny_model.named_parameters():
        assert torch.equal(weight, now[name]), name


@pytest.mark.parametrize("size_average", [None, False])
def test_unequal_batches_of_a_step_count_by_their_rows(
    tiny_folder: Path, tmp_path: Path, size_average: bool | None
) -> None:
    data = {**{name: texts[:10] for name, texts in PAIRS.items()}, "label": [0, 1, 1, 0, 1, 0, 0, 1, 1, 1]}
    found = []
    for size, batches in ((10, 1), (4, 3)):
        model = SentenceTransformer(tiny_folder, device="cpu")
        loss = (
            CosineSimilarityLoss(model)
            if size_average is None
            else ContrastiveLoss(model, size_average=False)
        )
        options = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": batches,
            "max_grad_norm": 0.0,
        }
        running = loop(model, tmp_path, loss, data, optim="sgd", **options)
        running.train()
        (logged,) = (entry for entry in running.state.log_history if "loss" in entry)
        share = (
            1 if size_average is None else batches
        )  # of sums over rows, the mean over the batches is taken
        found.append((logged["loss"] * share, logged["grad_norm"] * share))
    assert found[1] == pytest.approx(found[0], rel=1e-5)


class Elsewhere(nn.Module):
    """A loss that embeds with a model that it does not show."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.embed = [lambda column: model(column)["sentence_embedding"]]

    def forward(self, features: list[dict[str, Any]], labels: torch.Tensor | None) -> Any:
        return self.scale * self.embed[0](features[0]).square().mean()


def test_a_loss_that_does_not_reach_the_model_is_refused_in_the_first_step(
    tiny_model: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    other = SentenceTransformer(tiny_folder, device="cpu")
    with pytest.raises(
        ValueError, match=r"Elsewhere gave none of the model's \d+ trained weights a gradient"
    ):
        loop(tiny_model, tmp_path, Elsewhere(other)).train()
    loop(tiny_model, tmp_path, Elsewhere(tiny_model)).train()
    tiny_model.requires_grad_(False)  # nothing of the model is to be trained
    loop(tiny_model, tmp_path, Elsewhere(other)).train()


def test_common_texts_fill_full_batches_and_are_masked(tiny_model: Any, tmp_path: Path) -> None:
    common = {"a": [f"one {i}" for i in range(12)], "b": ["the same"] * 6 + [f"two {i}" for i in range(6)]}
    loss = MultipleNegativesRankingLoss(tiny_model)
    seen = []
    compute = loss.compute
    loss.compute = lambda columns: seen.append(columns.texts) or compute(columns)  # type: ignore[method-assign]
    running = loop(tiny_model, tmp_path, loss, common, batch_sampler="no_duplicates", collisions="mask")
    running.train()
    assert len(seen) == 3
    assert all(len(ids) == 4 for texts in seen for ids in texts)
    assert any(len(set(texts[1].tolist())) < 4 for texts in seen)


def test_masking_needs_a_loss_that_can(tiny_model: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='collisions="mask" needs a loss that leaves repeated texts out'):
        loop(tiny_model, tmp_path, Plain(tiny_model), collisions="mask")
