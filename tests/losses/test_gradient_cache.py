from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from ray_st.losses import CachedMultipleNegativesRankingLoss, CoSENTLoss, MultipleNegativesRankingLoss
from ray_st.testing.tiny_encoder import DIM, TinyEncoder


class WithDropout(TinyEncoder):
    def forward(self, features: Any) -> dict[str, Any]:
        output = super().forward(features)
        mask = torch.rand(output["sentence_embedding"].shape) < 0.7
        return {**output, "sentence_embedding": output["sentence_embedding"] * mask}


class Linear(nn.Module):
    """One linear layer on dense features, in float32: what autocast takes hold of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(DIM, DIM)
        self.seen: list[torch.dtype] = []

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        rows = self.layer(features["rows"])
        self.seen.append(rows.dtype)
        return {"sentence_embedding": rows.float()}


def gradients(model: nn.Module) -> list[torch.Tensor]:
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def test_random_numbers_are_replayed(make_features) -> None:
    """With the same draws in both passes the gradient is that of the drawn function: a small step along it goes down."""
    features = make_features(2, 8)
    model = WithDropout()
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)

    def value(seed: int = 3) -> torch.Tensor:
        torch.manual_seed(seed)
        return loss(features)

    start = value()
    (gradient,) = torch.autograd.grad(start, [model.words])
    after = torch.rand(1)
    with torch.no_grad():
        model.words -= 1e-7 * gradient
        moved = value()
    assert (start - moved).item() == pytest.approx(1e-7 * gradient.pow(2).sum().item(), rel=1e-4)
    torch.manual_seed(3)
    loss(features)
    assert torch.rand(1) == after  # the second pass leaves the generator as it was


def test_mixed_precision_is_replayed() -> None:
    model, features = Linear(), [{"rows": torch.randn(6, DIM)} for _ in range(2)]
    results = []
    for loss in (
        MultipleNegativesRankingLoss(model),
        CachedMultipleNegativesRankingLoss(model, mini_batch_size=2),
    ):
        model.zero_grad()
        model.seen.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(features)
        value.backward()
        assert set(model.seen) == {torch.bfloat16}
        results.append([value.detach(), *gradients(model)])
    assert len(model.seen) == 2 * 2 * 3  # two columns, two passes, three mini-batches
    for plain, cached in zip(*results, strict=True):
        torch.testing.assert_close(plain, cached, rtol=2e-2, atol=2e-2)


def test_within_one_autocast_the_weights_still_get_their_gradient() -> None:
    model, features = Linear(), [{"rows": torch.randn(6, DIM)} for _ in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)
        loss(features).backward()
    assert all(gradient.any() for gradient in gradients(model))


def test_accumulated_and_scaled_steps_add_up(make_features) -> None:
    model = TinyEncoder()
    plain, cached = (
        MultipleNegativesRankingLoss(model),
        CachedMultipleNegativesRankingLoss(model, mini_batch_size=2),
    )
    results = []
    for loss in (plain, cached):
        model.zero_grad()
        values = [loss(make_features(2, 6, seed=seed)) for seed in range(3)]
        for value in values:  # several forwards before the first backward
            (value * 1024 / 3).backward()
        results.append(gradients(model))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_frozen_weights_get_no_gradient_and_cost_no_second_pass(make_features) -> None:
    model, features = TinyEncoder(), make_features(2, 6)
    loss = CachedMultipleNegativesRankingLoss(model, mini_batch_size=4)
    model.words.requires_grad_(False)
    loss(features).backward()
    assert model.words.grad is None
    assert model.mix.grad is not None
    model.requires_grad_(False)
    model.calls.clear()
    assert not loss(features).requires_grad
    assert len(model.calls) == 3


def test_weights_changed_between_the_passes_are_an_error(make_features) -> None:
    model = TinyEncoder()
    value = CachedMultipleNegativesRankingLoss(model)(make_features(2, 4))
    with torch.no_grad():
        model.words += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_each_weight_is_reduced_once(make_features) -> None:
    """What DDP counts: the accumulation of each weight's gradient runs once a step, after all mini-batches."""
    model, counts = TinyEncoder(), {}
    for name, weight in model.named_parameters():
        weight.register_post_accumulate_grad_hook(
            lambda _, name=name: counts.update({name: counts.get(name, 0) + 1})
        )
    CachedMultipleNegativesRankingLoss(model, mini_batch_size=2)(make_features(3, 7)).backward()
    assert counts["words"] == counts["mix"] == max(counts.values()) == 1


def test_a_weight_used_twice_is_not_counted_twice(make_features) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.a, self.b = (
                TinyEncoder(),
                *(nn.Parameter(torch.zeros(DIM).double()) for _ in "ab"),
            )

        def forward(self, features: Any) -> dict[str, Any]:
            return {"sentence_embedding": self.encoder(features)["sentence_embedding"] + (self.a + self.b)}

    model, features = Sum(), make_features(2, 9)
    results = []
    for size in (None, 2):
        loss = CoSENTLoss(model)
        loss.cache(size)
        model.zero_grad()
        loss(features, torch.arange(9.0)).backward()
        results.append(gradients(model))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("options", [{"mini_batch_size": 0}, {"mini_batch_num_tokens": -1}])
def test_sizes_below_one_are_refused(options, encoder) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        CachedMultipleNegativesRankingLoss(encoder, **options)


def test_a_bar_shows_the_mini_batches(make_features, encoder, capsys) -> None:
    CachedMultipleNegativesRankingLoss(encoder, show_progress_bar=True)(make_features(2, 4)).backward()
    assert capsys.readouterr().err.count("mini-batches") >= 2
