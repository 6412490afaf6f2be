from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent))  # tests are no packages: for the helpers beside them

from tiny_encoder import WORDS, TinyEncoder

Features = list[dict[str, Any]]


@pytest.fixture
def encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture
def make_features() -> Callable[..., Features]:
    """Random token columns of different widths."""

    def make(columns: int, rows: int, seed: int = 0, left: bool = False, **extra: Any) -> Features:
        generator = torch.Generator().manual_seed(seed)
        return [_column(rows, longest, left, generator, **extra) for longest in range(4, 4 + 5 * columns, 5)]

    return make


def _column(
    rows: int, longest: int, left: bool, generator: torch.Generator, types: bool = False, prompt: Any = None
) -> dict[str, Any]:
    lengths = torch.randint(2, longest + 1, (rows,), generator=generator)
    lengths[int(torch.randint(rows, (1,), generator=generator))] = longest
    places = torch.arange(longest)
    mask = (places < lengths[:, None]).long()
    mask = mask.flip(1) if left else mask
    column: dict[str, Any] = {
        "input_ids": torch.randint(1, WORDS, (rows, longest), generator=generator) * mask,
        "attention_mask": mask,
    }
    if types:
        column["token_type_ids"] = torch.randint(0, 2, (rows, longest), generator=generator) * mask
    if prompt is not None:
        column["prompt_length"] = prompt
    return column


@pytest.fixture
def gradient_of() -> Callable[[Tensor, nn.Module], Tensor]:
    """All gradients of a module's weights in one vector; unused weights count as zero."""

    def gradient(value: Tensor, module: nn.Module) -> Tensor:
        weights = list(module.parameters())
        found = torch.autograd.grad(value, weights, allow_unused=True, retain_graph=True)
        parts = [torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True)]
        return torch.cat([part.reshape(-1) for part in parts])

    return gradient
