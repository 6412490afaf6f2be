"""Weights that losses own, in whole runs on two workers: trained alike, in checkpoints, and back after a kill."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor

from ray_st import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from ray_st.training.checkpoint.contents import LOSS_WEIGHTS
from ray_st.training.data.local_source import local_context
from ray_st.training.strategies.step_module import owned_by_loss
from runtime_helpers import KillOnce, difference, losses_of

pytestmark = pytest.mark.ray

STEPS, DIM, CLASSES, TEACHER_DIM = 20, 32, 3, 5
WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text"]


def texts(salt: int, rows: int = 80) -> list[str]:
    return [f"{WORDS[(i * salt) % 10]} {i} {salt}" for i in range(rows)]


def datasets() -> dict[str, Dataset]:
    teacher = [[(i % 7) / 7 + d for d in range(TEACHER_DIM)] for i in range(80)]
    return {
        "classes": Dataset.from_dict(
            {"a": texts(1), "b": texts(3), "label": [i % CLASSES for i in range(80)]}
        ),
        "texts": Dataset.from_dict({"text": texts(7)}),
        "teacher": Dataset.from_dict({"text": texts(9), "label": teacher}),
    }


def owners(model: Any) -> dict[str, Any]:
    """A classifier, a learned scale beside the copy of a model, a projection."""
    torch.manual_seed(3)
    return {
        "classes": losses.SoftmaxLoss(model, DIM, CLASSES),
        "texts": losses.ContrastiveTensionLossInBatchNegatives(model, gather_across_devices=True),
        "teacher": losses.EmbedDistillLoss(model, projection_dim=TEACHER_DIM),
    }


class Writing(SentenceTransformerTrainer):
    """Writes down what each rank has when it is done."""

    folder: Path

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        if self.context is not None:
            save_file(weights_of(self), self.folder / f"{self.context.world.rank}.safetensors")
        return result


def weights_of(trainer: Any) -> dict[str, Tensor]:
    owned = owned_by_loss(trainer.model, trainer.loss)
    return {name: weight.detach().clone() for name, weight in owned.items()}


def run(folder: Path, model_folder: Path, **options: Any) -> Any:
    model = SentenceTransformer(model_folder, device="cpu")
    trainer = Writing(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "out"),
            max_steps=STEPS,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            logging_steps=1,
            save_strategy="steps",
            save_steps=5,
        ),
        train_dataset=datasets(),
        loss=owners(model),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        **options,
    )
    trainer.folder = folder
    trainer.train()
    return trainer


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module", autouse=True)
def by_value(cluster: None) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have tests on their path


@pytest.fixture(scope="module")
def unbroken(by_value: None, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("unbroken"), tiny_folder)


def test_they_are_the_same_on_both_ranks_and_have_moved(unbroken: Any, tiny_model: Any) -> None:
    ranks = [load_file(unbroken.folder / f"{rank}.safetensors") for rank in range(2)]
    assert equal(*ranks)
    assert equal(ranks[0], weights_of(unbroken))  # and so the caller's
    start = owned_by_loss(tiny_model, owners(tiny_model))
    own = {"classes/classifier.weight", "classes/classifier.bias", "texts/logit_scale"}
    own |= {"teacher/projection.weight", "teacher/projection.bias"}
    assert own < start.keys() == ranks[0].keys()
    assert all(not torch.equal(ranks[0][name], start[name]) for name in own)
    assert not torch.equal(
        ranks[0]["texts/model1.0.auto_model.encoder.layer.0.output.dense.weight"],
        start["texts/model1.0.auto_model.encoder.layer.0.output.dense.weight"],
    )


def test_they_are_in_every_checkpoint(unbroken: Any) -> None:
    folder = Path(unbroken.args.output_dir)
    saved = [load_file(folder / f"checkpoint-{step}" / LOSS_WEIGHTS) for step in (5, 10, 15, 20)]
    assert equal(saved[-1], weights_of(unbroken))
    assert not any(equal(one, saved[-1]) for one in saved[:-1])


@pytest.mark.long
def test_a_killed_and_resumed_run_ends_with_those_of_the_unbroken_one(
    unbroken: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    broken = run(tmp_path, tiny_folder, callbacks=[KillOnce(13, tmp_path / "killed")])
    assert (tmp_path / "killed").exists()
    assert losses_of(broken) == losses_of(unbroken)
    assert equal(weights_of(broken), weights_of(unbroken))
    assert difference(broken, unbroken) == 0.0


def test_a_loss_made_of_the_model_is_fresh_for_each_trainer(tiny_folder: Path, tmp_path: Path) -> None:
    """In this process: what a search does for each trial."""

    def trial(name: str) -> Any:
        torch.manual_seed(3)
        trainer = SentenceTransformerTrainer(
            model=SentenceTransformer(tiny_folder, device="cpu"),
            args=SentenceTransformerTrainingArguments(
                output_dir=str(tmp_path / name), max_steps=3, learning_rate=0.01, save_strategy="no"
            ),
            train_dataset=datasets()["classes"],
            loss=lambda model: losses.SoftmaxLoss(model, DIM, CLASSES),
        )
        start = weights_of(trainer)
        running = trainer.spec().rebuild(local_context(trainer.data.train_specs(1), tmp_path / name))
        running.train()
        return start, weights_of(running), running

    first, second = trial("first"), trial("second")
    assert equal(first[0], second[0])
    assert not any(torch.equal(first[0][name], first[1][name]) for name in first[0])
    assert second[2].loss.model is second[2].model is not first[2].model
    assert equal(first[1], second[1])  # and nothing else was left over
