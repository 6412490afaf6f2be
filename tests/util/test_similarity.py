from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ray_st import util

EACH = ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"]
PAIRWISE = ["pairwise_cos_sim", "pairwise_dot_score", "pairwise_euclidean_sim", "pairwise_manhattan_sim"]


def rows(count: int, dim: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(name: str, a: Tensor, b: Tensor) -> float:
    x, y = a.tolist(), b.tolist()
    dot = sum(p * q for p, q in zip(x, y, strict=True))
    norms = [sum(p * p for p in v) ** 0.5 for v in (x, y)]
    gaps = [p - q for p, q in zip(x, y, strict=True)]
    return {
        "cos_sim": dot / norms[0] / norms[1],
        "dot_score": dot,
        "euclidean_sim": -(sum(gap * gap for gap in gaps) ** 0.5),
        "manhattan_sim": -sum(map(abs, gaps)),
    }[name]


@pytest.mark.parametrize("name", EACH)
def test_each_with_each_by_hand(name: str) -> None:
    a, b = rows(4), rows(3, seed=1)
    expected = torch.tensor([[by_hand(name, x, y) for y in b] for x in a], dtype=torch.float64)
    torch.testing.assert_close(getattr(util, name)(a, b), expected)


@pytest.mark.parametrize("name", EACH)
def test_row_by_row_by_hand(name: str) -> None:
    a, b = rows(4), rows(4, seed=1)
    expected = torch.tensor([by_hand(name, x, y) for x, y in zip(a, b, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(getattr(util, f"pairwise_{name}")(a, b), expected)


@pytest.mark.parametrize("name", [*EACH, *PAIRWISE])
def test_as_the_peer(name: str, peer: Any) -> None:
    a, b = rows(4).float(), rows(4, seed=1).float()
    torch.testing.assert_close(getattr(util, name)(a, b), getattr(peer.util, name)(a, b))


@pytest.mark.parametrize("dim", [6, 7])
def test_angle_by_hand_and_as_the_peer(dim: int, peer: Any) -> None:
    a, b = rows(5, dim), rows(5, dim, seed=1)
    found = util.pairwise_angle_sim(a, b)
    half = (dim + 1) // 2
    for x, y, value in zip(a, b, found, strict=True):
        z, w = (
            np.pad(v / v.norm(), (0, dim % 2))[:half] + 1j * np.pad(v / v.norm(), (0, dim % 2))[half:]
            for v in (x, y)
        )
        product = (z * w.conj()).sum()
        assert abs(abs(product.real + product.imag) - value.item()) < 1e-9
    torch.testing.assert_close(found, peer.util.pairwise_angle_sim(a, b))


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize(
    "form",
    [lambda t: t, lambda t: t.numpy(), lambda t: list(t), lambda t: list(t.numpy()), lambda t: t.tolist()],
    ids=["tensor", "array", "list of tensors", "list of arrays", "numbers"],
)
def test_embeddings_in_any_form(name: str, form: Any) -> None:
    a, b = rows(4).float(), rows(3, seed=1).float()
    torch.testing.assert_close(getattr(util, name)(form(a), form(b)), getattr(util, name)(a, b))


@pytest.mark.parametrize("name", EACH)
def test_a_single_embedding_is_one_row(name: str) -> None:
    a = rows(4)
    torch.testing.assert_close(getattr(util, name)(a[0], a), getattr(util, name)(a[:1], a))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8])
def test_short_types_are_compared_in_float32(dtype: torch.dtype) -> None:
    found = util.dot_score((rows(3) * 10).to(dtype), (rows(3) * 10).to(dtype))
    assert found.dtype == torch.float32


@pytest.mark.parametrize("name", [*EACH, *PAIRWISE, "pairwise_angle_sim"])
def test_gradients(name: str) -> None:
    a, b = rows(4).requires_grad_(), rows(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(getattr(util, name), (a, b))


def test_the_older_name() -> None:
    torch.testing.assert_close(util.pytorch_cos_sim(rows(2), rows(3)), util.cos_sim(rows(2), rows(3)))
