from __future__ import annotations

import pytest
import torch

from module_helpers import stirred
from ray_st.models import LSTM

LENGTHS = [5, 2, 1, 0]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_text_alone_and_in_a_batch(side: str, bidirectional: bool) -> None:
    lstm = stirred(LSTM(4, 3, num_layers=2, bidirectional=bidirectional))
    vectors = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    mask = mask if side == "right" else mask.flip(1)
    found = lstm({"token_embeddings": vectors, "attention_mask": mask.long()})["token_embeddings"]
    assert found.shape == (4, 5, lstm.get_embedding_dimension())
    for row, length in enumerate(LENGTHS):
        if length:
            expected, _ = lstm.encoder(vectors[row][mask[row]][None])
            torch.testing.assert_close(found[row][mask[row]], expected[0])


def test_gradients_reach_real_tokens_only() -> None:
    vectors = torch.randn(1, 3, 4, requires_grad=True)
    mask = torch.tensor([[1, 1, 0]])
    found = LSTM(4, 3)({"token_embeddings": vectors, "attention_mask": mask})["token_embeddings"]
    found.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.any(dim=2).tolist() == [[True, True, False]]
