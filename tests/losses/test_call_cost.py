"""The cost of a call, and that merging columns never sends more tokens than a call for each."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ray_st.losses.call_cost import CPU_TOKENS, call_tokens
from ray_st.util.chunks import cheapest_chunks, padded_tokens

GPU = torch.device("cuda")


def layers(number: int, width: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, 12 * width, device="meta") for _ in range(number)))


def test_a_call_costs_a_wide_model_fewer_tokens() -> None:
    small, base, large = (call_tokens(layers(*size), GPU) for size in ((6, 384), (12, 768), (36, 4096)))
    assert small > 3 * base > 9 * large > 1000
    assert call_tokens(layers(12, 768), GPU) == call_tokens(layers(24, 768), GPU)
    assert call_tokens(layers(6, 384), torch.device("cpu")) == CPU_TOKENS


@pytest.mark.parametrize("batch", [8, 16, 32, 64, 128])
@pytest.mark.parametrize("longest", [256, 512])
def test_columns_together_are_never_more_tokens_than_a_call_for_each(batch: int, longest: int) -> None:
    draw = np.random.default_rng(batch + longest)
    for _ in range(20):
        columns = [draw.integers(4, 40, batch), draw.integers(20, longest + 1, batch)]
        each = sum(len(column) * int(column.max()) for column in columns)
        lengths = np.concatenate(columns)
        for cost in (100, 2_000, 400_000):
            chunks = cheapest_chunks(lengths, cost, each)
            assert lengths.sum() <= padded_tokens(chunks) <= each
            assert sorted(np.concatenate([rows for rows, _ in chunks])) == list(range(2 * batch))


def test_one_call_is_made_where_it_sends_no_more() -> None:
    assert len(cheapest_chunks(np.array([5, 5, 5, 5]), 10_000, 20)) == 1
    assert len(cheapest_chunks(np.array([5, 5, 50, 50]), 10_000, 110)) == 2
