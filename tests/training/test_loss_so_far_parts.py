"""What is counted while training."""

from __future__ import annotations

import pytest
import torch

from ray_st.training.loop.loss_so_far import LossParts, tokens_of

INPUTS = {
    "a_input_ids": torch.zeros(2, 5),
    "a_attention_mask": torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    "b_input_ids": torch.zeros(2, 3),
    "label": torch.zeros(2),
}


def test_tokens_of_all_columns() -> None:
    assert tokens_of(INPUTS, padded=True) == 16
    assert tokens_of(INPUTS, padded=False) == 14  # without a mask nothing is padding
    with pytest.raises(ValueError, match=r"inputs have none: they are \['a_pixel_values'\]"):
        tokens_of({"a_pixel_values": torch.zeros(2)}, padded=True)


def test_means_of_parts_begin_anew_each_time() -> None:
    parts = LossParts()
    parts.add({"x": torch.tensor(1.0), "y": torch.tensor(2.0)}, weight=1.0)
    parts.add({"x": torch.tensor(4.0)}, weight=0.5)
    assert parts.means() == {"x": 1.5, "y": 2.0}
    assert parts.means() == {}
