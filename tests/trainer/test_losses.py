"""What the loop does with losses: their own weights, their parts, and values that are no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn

from ray_st import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from ray_st.losses import MultipleNegativesRankingLoss
from ray_st.training.local import local_place

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
    return trainer._describe().rebuild(local_place(trainer._train_parts(1), folder))


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
