from __future__ import annotations

import torch
from safetensors.torch import save_file
from torch import nn

from ray_st.training.strategies.step_module import Step, describe_weights, losses_of, owned_by_loss


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 2)
        self.register_buffer("positions", torch.arange(3))


class Head(nn.Module):
    """A loss with weights and a buffer of its own, and the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.classifier = nn.Linear(2, 4)
        self.register_buffer("mean", torch.zeros(2))


class Plain(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def test_weights_are_described_by_number_names_and_shapes() -> None:
    first, second, renamed = Model(), Model(), Model()
    renamed.decoder = renamed.encoder
    del renamed.encoder
    assert describe_weights(first) == describe_weights(second)
    assert describe_weights(first).startswith("8 values in 2 tensors (")
    assert describe_weights(first) != describe_weights(renamed)


def test_what_a_loss_owns_is_what_the_model_does_not() -> None:
    model = Model()
    loss = Head(model)
    owned = owned_by_loss(model, loss)
    assert sorted(owned) == ["classifier.bias", "classifier.weight", "mean"]
    assert owned["classifier.weight"] is loss.classifier.weight
    assert owned_by_loss(model, Plain(model)) == {}


def test_losses_by_dataset_own_weights_under_its_name() -> None:
    model = Model()
    losses = {"all-nli/v1.0": Head(model), "stsb": Plain(model)}
    assert sorted(owned_by_loss(model, losses)) == [
        "all-nli/v1.0/classifier.bias",
        "all-nli/v1.0/classifier.weight",
        "all-nli/v1.0/mean",
    ]
    assert losses_of(losses) == losses
    assert losses_of(losses["stsb"]) == {"": losses["stsb"]}


def test_what_losses_share_is_saved_once(tmp_path: object) -> None:
    model = Model()
    shared = Head(model)
    owned = owned_by_loss(model, {"a": shared, "b": shared})
    assert sorted(owned) == ["a/classifier.bias", "a/classifier.weight", "a/mean"]
    save_file(
        {name: tensor.detach() for name, tensor in owned.items()}, f"{tmp_path}/loss.safetensors"
    )  # refuses shared memory


def test_a_step_holds_each_parameter_once() -> None:
    model = Model()
    losses = {"all-nli/v1.0": Head(model), "keys": Head(model)}
    step = Step(model, losses)
    names = [name for name, _ in step.named_parameters()]
    assert len(names) == 2 + 2 + 2
    assert len({id(parameter) for parameter in step.parameters()}) == 6
    assert len(list(Step(model, Plain(model)).parameters())) == 2


def test_a_step_runs_any_computation_of_the_loss() -> None:
    model = Model()
    assert Step(model, Plain(model))(lambda: "computed") == "computed"


def test_training_mode_reaches_losses() -> None:
    model = Model()
    loss = Head(model)
    Step(model, loss).eval()
    assert not loss.classifier.training
    assert not model.encoder.training
