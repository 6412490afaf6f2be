"""Small functions that several losses use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def widen(rows: Tensor, dim: int) -> Tensor:
    """Pads embeddings with zeros, so that weights of a loss also fit embeddings truncated by a modifier.

    Args:
        rows: (n, d) with d at most ``dim``.
        dim: Target dimension.
    """
    return nn.functional.pad(rows, (0, max(0, dim - rows.shape[-1])))


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Checks that an option is one of its choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {list(choices)}; got {value!r}.")


def at_least_float32(scores: Tensor) -> Tensor:
    """Casts half precision to float32, for sums of exponentials.

    Args:
        scores: Any shape, any floating type.
    """
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
