"""Who is trained, by which optimizer: model_init, optimizers that travel, groups of parameters."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ray_st import SentenceTransformer, SentenceTransformerTrainer
from ray_st.losses import CosineSimilarityLoss, MultipleNegativesRankingLoss, SoftmaxLoss
from ray_st.model_card import SentenceTransformerModelCardCallback

from .conftest import ROWS


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_model_init_is_called_for_each_training_and_gets_the_trial(
    make: Any, on_cluster: None, tiny_folder: Path
) -> None:
    trials = []

    def model_init(trial: Any) -> Any:
        trials.append(trial)
        return SentenceTransformer(tiny_folder, device="cpu")

    trainer = make(model_init=model_init)
    trainer.train()
    first = weights(trainer)
    trainer.train(trial=SimpleNamespace(number=3))
    assert [getattr(trial, "number", None) for trial in trials] == [None, None, 3]
    assert same(first, weights(trainer))  # made anew, not trained on
    assert trainer.loss.model is trainer.model
    assert trainer.model_wrapped is trainer.model
    with pytest.raises(ValueError, match="passes the trial to model_init"):
        make().train(trial={"learning_rate": 1.0})


def test_a_loss_given_as_a_module_is_fresh_for_each_model(
    make: Any, on_cluster: None, tiny_folder: Path
) -> None:
    loss = SoftmaxLoss(SentenceTransformer(tiny_folder, device="cpu"), 32, num_labels=2)
    before = loss.classifier.weight.detach().clone()
    data = ROWS.add_column("label", [0, 1] * 6)
    trainer = make(
        model_init=lambda: SentenceTransformer(tiny_folder, device="cpu"), loss=loss, train_dataset=data
    )
    assert trainer.loss.model is trainer.model
    trainer.train()
    trained = trainer.loss.classifier.weight.detach().clone()
    assert not torch.equal(trained, before)
    assert torch.equal(loss.classifier.weight, before)
    trainer.train()
    assert torch.equal(trainer.loss.classifier.weight, trained)


def test_a_loss_of_another_model_is_refused(make: Any, tiny_folder: Path) -> None:
    other = MultipleNegativesRankingLoss(SentenceTransformer(tiny_folder, device="cpu"))
    with pytest.raises(ValueError, match=r"was made with another model .* loss=lambda model"):
        make(loss=other)


class Named(nn.Module):
    """A loss of a user's own, which does not call the model "model"."""

    def __init__(self, model: Any, teacher: Any = None, listed: bool = False) -> None:
        super().__init__()
        self.encoder = [model] if listed else model
        self.teacher = teacher

    @property
    def embedder(self) -> Any:
        return self.encoder[0] if isinstance(self.encoder, list) else self.encoder

    def forward(self, features: Any, labels: Any) -> Any:
        one, two = (self.embedder(column)["sentence_embedding"] for column in features)
        return (one - two).square().mean()


@pytest.mark.parametrize("listed", [False, True])
def test_the_model_of_a_loss_is_the_trainers_under_any_name(
    make: Any, on_cluster: None, tiny_folder: Path, listed: bool
) -> None:
    def model_init() -> Any:
        return SentenceTransformer(tiny_folder, device="cpu")

    trainer = make(model_init=model_init, loss=Named(model_init(), listed=listed))
    assert trainer.loss.embedder is trainer.model
    trainer.train()
    assert trainer.loss.embedder is trainer.model
    assert not same(weights(trainer), model_init().state_dict())
    given = model_init()
    trainer = make(model=given, loss=Named(given, teacher=model_init(), listed=listed))
    trainer.train()
    assert trainer.loss.embedder is given
    assert not same(given.state_dict(), model_init().state_dict())


def test_a_loss_of_another_model_is_refused_under_any_name(make: Any, tiny_folder: Path) -> None:
    def other() -> Any:
        return SentenceTransformer(tiny_folder, device="cpu")

    for loss in (Named(other()), Named(other(), listed=True), lambda model: Named(other())):
        with pytest.raises(ValueError, match=r"Named was made with another model .* holds as 'encoder'"):
            make(loss=loss)
    with pytest.raises(
        ValueError, match=r"Named holds several models, as 'encoder' and 'teacher', and model_init"
    ):
        make(model_init=other, loss=Named(other(), teacher=other()))


def test_model_and_model_init(make: Any, tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="not both"):
        SentenceTransformerTrainer(model=tiny_model, model_init=lambda: tiny_model)


def test_an_optimizer_of_the_drivers_parameters_trains_the_workers_model(
    make: Any, sent: Any, tiny_model: Any
) -> None:
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 2 else 0.0)
    trainer = make(model=tiny_model, optimizers=(optimizer, schedule))
    running = sent(trainer)
    before = weights(running)
    running.train()
    assert not same(before, weights(running))
    assert not same(weights(running), weights(trainer))  # the worker's, not the driver's
    assert isinstance(running.optimizer.optimizer, torch.optim.SGD)
    rates = [entry["learning_rate"] for entry in running.state.log_history if "loss" in entry]
    assert rates == [0.5, 0.5, 0.0]


def test_an_optimizer_of_other_parameters_is_refused(make: Any) -> None:
    other = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    with pytest.raises(ValueError, match="SGD holds 1 parameters, none of them the model's"):
        make(optimizers=(other, None))


def test_rates_of_the_arguments_are_not_for_an_optimizer_of_ones_own(make: Any, tiny_model: Any) -> None:
    rates = {"learning_rate_mapping": {"word_embeddings": 0.002}}
    with pytest.raises(ValueError, match="learning_rate_mapping has no effect on an optimizer of your own"):
        make(
            model=tiny_model,
            optimizers=(torch.optim.SGD(tiny_model.parameters(), lr=0.5), None),
            arguments=rates,
        )


def test_rates_of_single_weights_need_an_optimizer_that_takes_groups(make: Any, sent: Any) -> None:
    rates = {"learning_rate_mapping": {"word_embeddings": 0.002}}
    grouped = (torch.optim.SGD, {"lr": 0.1, "params": []})
    for kind in (grouped, (lambda: None, {})):
        running = sent(make(optimizer_cls_and_kwargs=kind, arguments=rates))
        with pytest.raises(ValueError, match="groups the parameters itself"):
            running.create_optimizer()
    running = sent(make(optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.25}), arguments=rates))
    for _ in range(2):  # what was given stays as it was
        running.optimizer = None
        running.create_optimizer()
        assert sorted({group["lr"] for group in running.optimizer.param_groups}) == [0.002, 0.25]


def test_a_class_of_optimizer(make: Any, sent: Any) -> None:
    running = sent(make(optimizer_cls_and_kwargs=(torch.optim.SGD, {"lr": 0.25, "momentum": 0.5})))
    running.train()
    assert isinstance(running.optimizer.optimizer, torch.optim.SGD)
    assert running.get_learning_rates() == [0.0, 0.0]  # the end of a linear schedule from 0.25
    assert running.optimizer.param_groups[0]["momentum"] == 0.5


class Headed(CosineSimilarityLoss):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.head = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))


def test_biases_and_norms_do_not_decay_the_losses_included(make: Any, sent: Any) -> None:
    data = ROWS.add_column("score", [0.5] * 12)
    running = sent(make(loss=Headed, train_dataset=data, arguments={"weight_decay": 0.1}))
    running.create_optimizer()
    decays = {
        id(weight): group["weight_decay"]
        for group in running.optimizer.param_groups
        for weight in group["params"]
    }
    linear, norm = running.loss.head
    assert [decays[id(weight)] for weight in (linear.weight, linear.bias, norm.weight, norm.bias)] == [
        0.1,
        0,
        0,
        0,
    ]
    for name, weight in running.model.named_parameters():
        assert decays[id(weight)] == (0.0 if "bias" in name or "LayerNorm" in name else 0.1)
    assert sum(len(group) for group in running.get_optimizer_group()) == len(decays)
    assert running.get_optimizer_group(linear.bias)["weight_decay"] == 0
    assert running.get_num_trainable_parameters() == sum(p.numel() for p in running.model.parameters())


def test_rates_of_single_weights(make: Any, sent: Any) -> None:
    running = sent(make(arguments={"learning_rate_mapping": {"word_embeddings": 0.002}}))
    running.create_optimizer()
    words = running.model[0].auto_model.get_input_embeddings().weight
    assert running.get_optimizer_group(words)["lr"] == 0.002
    assert sorted(set(running.get_learning_rates())) == [0.002, 0.01]


def test_what_only_a_worker_knows(make: Any) -> None:
    trainer = make()
    with pytest.raises(ValueError, match="made where training runs"):
        trainer.get_learning_rates()
    with pytest.raises(ValueError, match="does not use DeepSpeed"):
        trainer.propagate_args_to_deepspeed()
    assert (trainer.is_model_parallel, trainer.place_model_on_device, trainer.is_in_train) == (
        False,
        True,
        False,
    )


# ---- names of later releases ----


def test_a_tokenizer_may_be_called_processing_class(make: Any, tiny_folder: Path) -> None:
    other = SentenceTransformer(tiny_folder, device="cpu").tokenizer
    assert make(processing_class=other).model.tokenizer is other
    made = make(model_init=lambda: SentenceTransformer(tiny_folder, device="cpu"), processing_class=other)
    assert made.model.tokenizer is other
    with pytest.raises(ValueError, match="processing_class is another name of tokenizer: give only one"):
        make(tokenizer=other, processing_class=other)


class Noting(SentenceTransformerTrainer):
    """Overrides the method as scripts of later releases do."""

    def add_model_card_callback(self, default_args_dict: Any) -> None:
        callback = SentenceTransformerModelCardCallback({**default_args_dict, "learning_rate": 3.0})
        self.add_callback(callback)
        callback.on_init_end(self.args, self.state, self.control, model=self.model, trainer=self)


def test_runs_are_noted_by_the_callback_of_later_releases(make: Any, sent: Any) -> None:
    trainer = make(Noting)
    assert trainer.card_defaults["learning_rate"] == 3.0
    travelled = [type(callback) for callback in sent(trainer).received_callbacks]
    assert travelled == [SentenceTransformerModelCardCallback]
