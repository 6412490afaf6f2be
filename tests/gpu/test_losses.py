"""Every loss on a device: value and gradient as on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ray_st import losses
from ray_st.losses.embed import embed_columns
from ray_st.losses.parts import total
from ray_st.util.host_facts import with_host_facts
from ray_st.util.tensors import batch_to_device

ROWS, DIM = 6, 32
TEXTS = [
    " ".join(["the weather is good", "a man eats pasta", "bad query"][: i % 3 + 1]) + f" {i}"
    for i in range(24)
]

Made = tuple[nn.Module, int, torch.Tensor | None]
"""A loss, its number of text columns, and its labels."""


def _ranking(name: str, columns: int = 3, **options: Any) -> Callable[[Any], Made]:
    return lambda model: (getattr(losses, name)(model, **options), columns, None)


def _labelled(name: str, columns: int, labels: torch.Tensor, **options: Any) -> Callable[[Any], Made]:
    return lambda model: (getattr(losses, name)(model, **options), columns, labels)


def _around(name: str, **options: Any) -> Callable[[Any], Made]:
    def make(model: Any) -> Made:
        return getattr(losses, name)(model, losses.MultipleNegativesRankingLoss(model), **options), 3, None

    return make


def _guided(name: str, **options: Any) -> Callable[[Any], Made]:
    return lambda model: (getattr(losses, name)(model, copy.deepcopy(model), **options), 3, None)


SCORES = torch.arange(ROWS) / ROWS
CLASSES = torch.arange(ROWS) % 2
LOSSES: dict[str, Callable[[Any], Made]] = {
    "AdaptiveLayerLoss": _around("AdaptiveLayerLoss"),
    "AnglELoss": _labelled("AnglELoss", 2, SCORES),
    "BatchAllTripletLoss": _labelled("BatchAllTripletLoss", 1, CLASSES),
    "BatchHardSoftMarginTripletLoss": _labelled("BatchHardSoftMarginTripletLoss", 1, CLASSES),
    "BatchHardTripletLoss": _labelled("BatchHardTripletLoss", 1, CLASSES),
    "BatchSemiHardTripletLoss": _labelled("BatchSemiHardTripletLoss", 1, CLASSES),
    "CachedGISTEmbedLoss": _guided("CachedGISTEmbedLoss", mini_batch_size=4),
    "CachedMultipleNegativesRankingLoss": _ranking("CachedMultipleNegativesRankingLoss", mini_batch_size=4),
    "CachedMultipleNegativesSymmetricRankingLoss": _ranking(
        "CachedMultipleNegativesSymmetricRankingLoss", 2, mini_batch_size=4
    ),
    "CoSENTLoss": _labelled("CoSENTLoss", 2, SCORES),
    "ContrastiveLoss": _labelled("ContrastiveLoss", 2, CLASSES),
    "ContrastiveTensionLoss": _ranking("ContrastiveTensionLoss", 2),
    "ContrastiveTensionLossInBatchNegatives": _ranking("ContrastiveTensionLossInBatchNegatives", 1),
    "CosineSimilarityLoss": _labelled("CosineSimilarityLoss", 2, SCORES),
    "DenoisingAutoEncoderLoss": _ranking("DenoisingAutoEncoderLoss", 2, tie_encoder_decoder=True),
    "DistillKLDivLoss": _labelled("DistillKLDivLoss", 3, torch.rand(ROWS, 2)),
    "EmbedDistillLoss": _labelled("EmbedDistillLoss", 2, torch.rand(ROWS, DIM)),
    "GISTEmbedLoss": _guided("GISTEmbedLoss"),
    "GlobalOrthogonalRegularizationLoss": _ranking("GlobalOrthogonalRegularizationLoss"),
    "MSELoss": _labelled("MSELoss", 2, torch.rand(ROWS, 2, DIM)),
    "MarginMSELoss": _labelled("MarginMSELoss", 3, torch.rand(ROWS)),
    "Matryoshka2dLoss": _around("Matryoshka2dLoss", matryoshka_dims=[32, 8]),
    "MatryoshkaLoss": _around("MatryoshkaLoss", matryoshka_dims=[32, 8]),
    "MegaBatchMarginLoss": _ranking("MegaBatchMarginLoss", 2, mini_batch_size=4),
    "MultipleNegativesRankingLoss": _ranking("MultipleNegativesRankingLoss"),
    "MultipleNegativesSymmetricRankingLoss": _ranking("MultipleNegativesSymmetricRankingLoss", 2),
    "OnlineContrastiveLoss": _labelled("OnlineContrastiveLoss", 2, CLASSES),
    "SoftmaxLoss": _labelled("SoftmaxLoss", 2, CLASSES, embedding_dimension=DIM, num_labels=2),
    "TripletLoss": _ranking("TripletLoss"),
}


def test_every_loss_is_here() -> None:
    known = [getattr(losses, name) for name in losses.__all__]
    public = {kind.__name__ for kind in known if isinstance(kind, type) and issubclass(kind, losses.Loss)}
    assert public - {"Loss", "Modifier"} == set(LOSSES)


def step(made: Made, device: torch.device) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Value and gradients, on the CPU, of a step on a device."""
    loss, columns, labels = made
    loss.to(device).train()
    texts = [TEXTS[place * ROWS : place * ROWS + ROWS] for place in range(columns)]
    features = [batch_to_device(loss.model.tokenize(column), device) for column in texts]
    torch.manual_seed(0)
    value = total(loss(features, None if labels is None else labels.to(device)))
    assert value.device == device
    value.backward()
    weights = dict(loss.named_parameters())
    assert all(weight.grad is None or weight.grad.device == device for weight in weights.values())
    gradients = {name: weight.grad.cpu() for name, weight in weights.items() if weight.grad is not None}
    return value.detach().cpu(), gradients


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_is_that_of_the_cpu(name: str, device: torch.device, tiny: Callable[..., Any]) -> None:
    value, gradients = step(_made(name, tiny), torch.device("cpu"))
    found, theirs = step(_made(name, tiny), device)
    torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    assert theirs.keys() == gradients.keys()
    for weight, gradient in gradients.items():
        torch.testing.assert_close(theirs[weight], gradient, rtol=1e-3, atol=1e-5)


def _made(name: str, tiny: Callable[..., Any]) -> Made:
    torch.manual_seed(1)
    return LOSSES[name](tiny("cpu"))


def test_columns_together_are_never_more_tokens_than_a_call_for_each(
    device: torch.device, tiny: Callable[..., Any]
) -> None:
    """Launching is dear there, and merging queries with long documents would pad the queries."""
    model = tiny(device, model_kwargs={"attn_implementation": "eager"})
    assert not model.without_padding
    sent: list[int] = []
    model.register_forward_pre_hook(lambda module, given: sent.append(given[0]["input_ids"].numel()))
    columns = [[f"bad {i}" for i in range(ROWS)], ["the weather is good " * i for i in range(1, ROWS + 1)]]
    features = [batch_to_device(model.tokenize(column), device) for column in columns]
    embed_columns(model, features)
    assert sum(sent) <= sum(column["input_ids"].numel() for column in features)


def test_mini_batches_are_filled_with_tokens(device: torch.device, tiny: Callable[..., Any]) -> None:
    model = tiny(device)
    sent: list[int] = []
    model.register_forward_pre_hook(lambda module, given: sent.append(int(given[0]["token_lengths"].sum())))
    columns = [["bad"] * 30, ["the weather is good " * 5, *["bad query"] * 29]]
    tokens = [with_host_facts(model.tokenize(column)) for column in columns]
    longest = max(int(column["token_lengths"].max()) for column in tokens)
    loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
    with torch.no_grad():
        loss([batch_to_device(column, device) for column in tokens])
    assert max(sent) <= 2 * longest
    assert len(sent) < 60 / 2
    assert sum(sent) == sum(int(column["token_lengths"].sum()) for column in tokens)
