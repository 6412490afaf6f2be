"""Calls made together with other ranks: as many as the largest number, whose fillers change nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from ray_st.losses import (
    CachedMultipleNegativesRankingLoss,
    CoSENTLoss,
    GISTEmbedLoss,
    MultipleNegativesRankingLoss,
)
from ray_st.losses.embed import first_row
from ray_st.testing.tiny_encoder import TinyEncoder


class Others:
    """Other ranks, one of which makes a given number of calls."""

    def __init__(self, calls: int = 0) -> None:
        self.calls, self.asked, self.is_recomputing = calls, list[int](), False

    def most(self, calls: int) -> int:
        self.asked.append(calls)
        return max(calls, self.calls)

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        self.is_recomputing = True
        yield
        self.is_recomputing = False


class Watched(TinyEncoder):
    """Notes the rows of each call, and the order of forward and backward passes."""

    def __init__(self, others: Others) -> None:
        super().__init__()
        self.others, self.passes = others, list[str]()

    def forward(self, features: Any) -> dict[str, Any]:
        rows = len(features["input_ids"])
        self.passes.append(f"{'again' if self.others.is_recomputing else 'forward'} {rows}")
        output = super().forward(features)
        embeddings = output["sentence_embedding"]
        if embeddings.requires_grad:
            embeddings.register_hook(lambda _: self.passes.append(f"backward {rows}"))
        return {**output, "sentence_embedding": embeddings}


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("others", [0, 7])
@pytest.mark.parametrize("cached", [False, True])
def test_value_and_gradient_are_those_of_plain_calls(cached: bool, others: int, make_features: Any) -> None:
    model, features = TinyEncoder(), make_features(2, 6)
    results = []
    for lockstep in (None, Others(others)):
        loss = MultipleNegativesRankingLoss(model)
        loss.cache(4 if cached else None)
        loss.token_budget, loss.lockstep = 11, lockstep
        model.zero_grad()
        value = loss(features)
        (value * 3).backward()
        results.append([value.detach(), *gradients(model)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cached", [False, True])
def test_each_call_has_a_backward_pass_of_its_own(cached: bool, make_features: Any) -> None:
    others = Others(4)
    model = Watched(others)
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=5) if cached else CoSENTLoss(model)
    loss.token_budget, loss.lockstep = 10**6, others
    labels = None if cached else torch.arange(4.0)
    loss(make_features(2, 4), labels).backward()
    real = [4, 4] if cached else [8]
    made = [*real, *[1] * (4 - len(real))]
    assert others.asked == [len(real)]
    assert model.passes[:4] == [f"forward {rows}" for rows in made]
    again = [[f"again {rows}"] if cached else [] for rows in made[::-1]]
    last = [[*passes, f"backward {rows}"] for passes, rows in zip(again, made[::-1], strict=True)]
    assert model.passes[4:] == [one for passes in last for one in passes]


def test_without_a_gradient_calls_are_paired_too(make_features: Any) -> None:
    model, others = TinyEncoder(), Others(5)
    loss = MultipleNegativesRankingLoss(model)
    loss.lockstep = others
    with torch.no_grad():
        loss(make_features(2, 4))
    model.requires_grad_(False)
    assert not loss(make_features(2, 4)).requires_grad
    assert len(model.calls) == 2 * 5


def test_a_guide_that_is_the_model_is_called_together_and_another_one_is_not(
    make_features: Any, tiny_model: Any
) -> None:
    columns = [tiny_model.tokenize(["one two", "three"]), tiny_model.tokenize(["four", "five six"])]
    for guide, asked in ((tiny_model, 2), (type(tiny_model)(modules=list(tiny_model), device="cpu"), 1)):
        others = Others(2)
        loss = GISTEmbedLoss(tiny_model, guide)
        loss.lockstep = others
        loss(columns)
        assert len(others.asked) == asked


def test_a_filler_is_the_first_row_or_all_that_cannot_be_cut() -> None:
    chunk = {"input_ids": torch.arange(6).reshape(3, 2), "attention_mask": torch.ones(3, 2), "task": "query"}
    filler = first_row(chunk)
    assert filler["input_ids"].tolist() == [[0, 1]]
    assert filler["task"] == "query"
    whole = {"pixels": torch.ones(3, 2), "grid": torch.ones(2)}
    assert first_row(whole) is whole


def test_a_bar_shows_the_calls(make_features: Any, encoder: Any, capsys: Any) -> None:
    loss = CachedMultipleNegativesRankingLoss(encoder, show_progress_bar=True)
    loss.lockstep = Others()
    loss(make_features(2, 4)).backward()
    assert capsys.readouterr().err.count("mini-batches") >= 2
