"""Similarity of two sets of embeddings, all pairs or row by row. Higher always means more similar."""

from __future__ import annotations

import torch
from torch import Tensor

from ray_st.util.tensors import Embeddings, normalize_embeddings, to_rows, to_tensor


def cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine similarity of each embedding of ``a`` with each of ``b``.

    Args:
        a: (n, d), or one embedding (d,).
        b: (m, d), or one embedding (d,).

    Returns:
        (n, m), from -1 to 1.
    """
    return normalize_embeddings(to_rows(a)) @ normalize_embeddings(to_rows(b)).T


def pytorch_cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Alias of :func:`cos_sim`, kept for older scripts."""
    return cos_sim(a, b)


def dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of each embedding of ``a`` with each of ``b``.

    Args:
        a: (n, d), or one embedding (d,).
        b: (m, d), or one embedding (d,).

    Returns:
        (n, m).
    """
    return to_rows(a) @ to_rows(b).T


def euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative Euclidean distance of each embedding of ``a`` to each of ``b``.

    Args:
        a: (n, d), or one embedding (d,).
        b: (m, d), or one embedding (d,).

    Returns:
        (n, m), at most 0.
    """
    return -torch.cdist(to_rows(a), to_rows(b), p=2.0)


def manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative Manhattan distance of each embedding of ``a`` to each of ``b``.

    Args:
        a: (n, d), or one embedding (d,).
        b: (m, d), or one embedding (d,).

    Returns:
        (n, m), at most 0.
    """
    return -torch.cdist(to_rows(a), to_rows(b), p=1.0)


def pairwise_cos_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Cosine similarity of ``a[i]`` and ``b[i]``.

    Args:
        a: (n, d).
        b: (n, d).

    Returns:
        (n,), from -1 to 1.
    """
    return (normalize_embeddings(to_tensor(a)) * normalize_embeddings(to_tensor(b))).sum(dim=-1)


def pairwise_dot_score(a: Embeddings, b: Embeddings) -> Tensor:
    """Dot product of ``a[i]`` and ``b[i]``.

    Args:
        a: (n, d).
        b: (n, d).

    Returns:
        (n,).
    """
    return (to_tensor(a) * to_tensor(b)).sum(dim=-1)


def pairwise_euclidean_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative Euclidean distance of ``a[i]`` to ``b[i]``.

    Args:
        a: (n, d).
        b: (n, d).

    Returns:
        (n,), at most 0.
    """
    return -torch.linalg.vector_norm(to_tensor(a) - to_tensor(b), dim=-1)


def pairwise_manhattan_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Negative Manhattan distance of ``a[i]`` to ``b[i]``.

    Args:
        a: (n, d).
        b: (n, d).

    Returns:
        (n,), at most 0.
    """
    return -(to_tensor(a) - to_tensor(b)).abs().sum(dim=-1)


def pairwise_angle_sim(a: Embeddings, b: Embeddings) -> Tensor:
    """Angle-based similarity of ``a[i]`` and ``b[i]`` in complex space, as defined by AnglE.

    The first half of each embedding is taken as real parts x, the second as imaginary parts y. For the
    resulting unit-length vectors z and w this is ``|Re<z, w> + Im<z, w>|`` (Li and Li, "AnglE-optimized Text
    Embeddings", arXiv:2309.12871, section 3.3). An odd dimension is padded with a zero.

    Args:
        a: (n, d).
        b: (n, d).

    Returns:
        (n,), at least 0.
    """
    (x, y), (u, v) = (_real_and_imaginary(to_rows(rows)) for rows in (a, b))
    return ((x * u + y * v).sum(dim=1) + (y * u - x * v).sum(dim=1)).abs()


def _real_and_imaginary(rows: Tensor) -> tuple[Tensor, Tensor]:
    padded = torch.nn.functional.pad(rows, (0, rows.shape[1] % 2))
    first, second = normalize_embeddings(padded).chunk(2, dim=1)
    return first, second
