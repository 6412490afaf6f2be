"""What a rank's part of a batch counts for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ray_st.losses import ContrastiveLoss, MatryoshkaLoss, OnlineContrastiveLoss
from ray_st.training.data.step_loader import SHARES
from ray_st.training.loop.row_weights import RowWeights, is_sum
from ray_st.world import World


def weights(rank: int, *batches: list[int], sums: bool = False) -> list[float]:
    found = RowWeights(World(rank, 2))
    found.begin([{SHARES: shares} for shares in batches])
    return [found.of(shares, sums) for shares in batches]


def test_equal_batches_in_equal_shares_count_one_each() -> None:
    assert weights(0, [4, 4], [4, 4], [4, 4]) == [1.0, 1.0, 1.0]
    assert weights(1, [4, 4]) == [1.0]


@pytest.mark.parametrize("batches", [([4, 4], [4, 4], [1, 0]), ([3, 4], [0, 1]), ([2, 2],)])
def test_a_step_is_the_mean_over_its_rows(batches: tuple[list[int], ...]) -> None:
    rows = sum(map(sum, batches))
    for rank in range(2):
        for shares, weight in zip(batches, weights(rank, *batches), strict=True):
            # the mean over ranks and batches, of the mean over a rank's rows of a batch
            assert weight / 2 / len(batches) == pytest.approx(shares[rank] / rows)


def test_sums_over_rows_count_batches_alike() -> None:
    assert weights(0, [4, 4], [1, 1], sums=True) == [1.0, 1.0]
    assert weights(1, [4, 4], [2, 1], sums=True) == [1.0, 2 / 3]


def test_a_loader_of_the_users_own_is_counted() -> None:
    batches: list[Any] = [{"ids": torch.zeros(rows, 3)} for rows in (4, 2)]
    found = RowWeights(World())
    assert found.of([4]) == 1.0  # before any step
    found.begin(batches)
    assert [inputs[SHARES] for inputs in batches] == [[4], [2]]
    assert [found.of(inputs[SHARES]) for inputs in batches] == [4 / 3, 2 / 3]


def test_which_losses_are_sums(tiny_model: Any) -> None:
    loss = ContrastiveLoss(tiny_model, size_average=False)
    assert is_sum(loss)
    assert is_sum(MatryoshkaLoss(tiny_model, loss, [16]))
    assert is_sum(OnlineContrastiveLoss(tiny_model))
    assert not is_sum(ContrastiveLoss(tiny_model))
