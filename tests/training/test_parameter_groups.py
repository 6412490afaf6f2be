"""Groups of weights: nothing twice, nothing left out, decay and rates where they belong; as the peer's where it has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer

from ray_st.training.strategies.parameter_groups import param_groups, weight_names
from ray_st.training.strategies.step_module import Step


class Owner(nn.Module):
    """A loss that holds the model and a classifier of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.classifier = nn.Linear(4, 2)


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))


def groups(step: Step, loss: Any, rates: dict[str, float]) -> list[tuple[set[str], float, float | None]]:
    names = {id(weight): name for name, weight in step.named_parameters()}
    decaying = Trainer.get_decay_parameter_names(None, step)  # type: ignore[arg-type]
    made = param_groups(step, loss, decaying, 0.1, rates)
    return [({names[id(w)] for w in g["params"]}, g["weight_decay"], g.get("lr")) for g in made]


def test_biases_and_norms_do_not_decay_and_what_a_loss_owns_does() -> None:
    base = model()
    step = Step(base, Owner(base))
    assert groups(step, step.loss, {}) == [
        ({"model.0.weight", "loss.classifier.weight"}, 0.1, None),
        ({"model.0.bias", "model.1.weight", "model.1.bias", "loss.classifier.bias"}, 0.0, None),
    ]


def test_the_last_rate_that_fits_counts() -> None:
    base = model()
    step = Step(base, Owner(base))
    assert groups(step, step.loss, {"weight": 1e-2, "^classifier": 1e-3, r"model\.1": 0.0}) == [
        ({"model.0.bias"}, 0.0, None),
        ({"model.0.weight"}, 0.1, 1e-2),
        ({"loss.classifier.weight"}, 0.1, 1e-3),
        ({"loss.classifier.bias"}, 0.0, 1e-3),
        ({"model.1.weight", "model.1.bias"}, 0.0, 0.0),
    ]


def test_losses_of_several_datasets_are_told_apart_by_name() -> None:
    base = model()
    loss = {"all.nli": Owner(base), "sts": Owner(base)}
    step = Step(base, loss)
    assert weight_names(step, loss)["loss.0.classifier.bias"] == "all.nli.classifier.bias"
    assert groups(step, loss, {"^sts": 1e-2})[2:] == [
        ({"loss.1.classifier.weight"}, 0.1, 1e-2),
        ({"loss.1.classifier.bias"}, 0.0, 1e-2),
    ]


def test_frozen_weights_are_in_no_group() -> None:
    weights = {"a": nn.Parameter(torch.ones(2), requires_grad=False), "b": nn.Parameter(torch.ones(2))}
    loss = nn.ParameterDict(weights)
    step = Step(nn.Identity(), loss)
    assert [group["params"] for group in param_groups(step, loss, (), 0.1, {})] == [[weights["b"]]]
    with pytest.raises(ValueError, match=r"'a' is found in the name of no weight that is trained.*like b"):
        param_groups(step, loss, (), 0.1, {"a": 1.0})


@pytest.mark.parametrize("rates", [{}, {"LayerNorm": 1e-2, r"^model\.0": 1e-3, "classifier": 0.5}])
def test_groups_are_the_peers(peer: Any, tiny_folder: Path, tmp_path: Path, rates: dict[str, float]) -> None:
    from sentence_transformers.sentence_transformer import losses

    theirs = peer.SentenceTransformer(str(tiny_folder), device="cpu")
    loss = losses.SoftmaxLoss(theirs, theirs.get_embedding_dimension(), num_labels=3)
    data = Dataset.from_dict({"a": ["x"], "b": ["y"], "label": [0]})
    arguments = {"use_cpu": True, "weight_decay": 0.1, "learning_rate_mapping": rates}
    args = peer.SentenceTransformerTrainingArguments(output_dir=str(tmp_path), **arguments)
    trainer = peer.SentenceTransformerTrainer(theirs, args, train_dataset=data, loss=loss)
    optimizer = trainer.create_optimizer()

    step = Step(theirs, loss)
    made = param_groups(step, loss, trainer.get_decay_parameter_names(step), 0.1, rates)
    assert _by_weight(made, args.learning_rate) == _by_weight(optimizer.param_groups, args.learning_rate)


def _by_weight(groups: list[dict[str, Any]], rate: float) -> dict[int, tuple[float, float]]:
    return {
        id(w): (group["weight_decay"], group.get("lr", rate)) for group in groups for w in group["params"]
    }
