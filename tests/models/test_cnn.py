from __future__ import annotations

from typing import Any

import pytest
import torch

from module_helpers import stirred
from ray_st.models import CNN

LENGTHS = [5, 2, 1]


def batch(side: str = "right") -> dict[str, torch.Tensor]:
    vectors = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor(LENGTHS)[:, None]
    return {"token_embeddings": vectors, "attention_mask": (mask if side == "right" else mask.flip(1)).long()}


def alone(features: dict[str, torch.Tensor], row: int) -> torch.Tensor:
    return features["token_embeddings"][row][features["attention_mask"][row].bool()]


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_token_sees_its_neighbours_and_zeros(side: str) -> None:
    cnn, features = stirred(CNN(4, 2, [1, 3])), batch(side)
    found = cnn(features)["token_embeddings"]
    assert found.shape == (3, 5, cnn.get_embedding_dimension())
    for row, length in enumerate(LENGTHS):
        padded = torch.nn.functional.pad(alone(features, row), (0, 0, 1, 1))
        for place in range(length):
            narrow, wide = cnn.convs
            expected = [
                narrow.weight[:, :, 0] @ padded[place + 1] + narrow.bias,
                torch.einsum("oik,ki->o", wide.weight, padded[place : place + 3]) + wide.bias,
            ]
            at = place if side == "right" else 5 - length + place
            torch.testing.assert_close(found[row, at], torch.cat(expected))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_text_alone_and_in_a_batch(stride: int) -> None:
    cnn, features = stirred(CNN(4, 2, [3, 5], [stride, stride])), batch()
    together = cnn(features)
    for row, length in enumerate(LENGTHS):
        single = {"token_embeddings": alone(features, row)[None], "attention_mask": torch.ones(1, length)}
        found = cnn(single)
        assert found["token_embeddings"].shape[1] == found["attention_mask"].shape[1] == -(-length // stride)
        torch.testing.assert_close(alone(together, row), found["token_embeddings"][0])


def test_without_a_mask_every_token_counts() -> None:
    cnn, vectors = stirred(CNN(4, 2, [3])), batch()["token_embeddings"]
    full = {"token_embeddings": vectors, "attention_mask": torch.ones(3, 5)}
    torch.testing.assert_close(
        cnn({"token_embeddings": vectors})["token_embeddings"], cnn(full)["token_embeddings"]
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_sizes": [1, 2]}, r"odd numbers, one or more; got \[1, 2\]"),
        ({"kernel_sizes": []}, r"got \[\]"),
        ({"stride_sizes": [1]}, r"the same number 3 times, once per kernel; got \[1\]"),
        ({"stride_sizes": [1, 2, 1]}, r"got \[1, 2, 1\]"),
    ],
    ids=str,
)
def test_what_makes_no_cnn(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNN(4, **arguments)
