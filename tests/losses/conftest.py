from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parent))  # tests are no packages: for the helpers beside them

from ray_st.testing.tiny_encoder import Features, TinyEncoder, gradient, token_columns


@pytest.fixture
def encoder() -> TinyEncoder:
    return TinyEncoder()


@pytest.fixture
def make_features() -> Callable[..., list[Features]]:
    """Random token columns of different widths."""
    return token_columns


@pytest.fixture
def gradient_of() -> Callable[[Tensor, nn.Module], Tensor]:
    """All gradients of a module's weights in one vector; unused weights count as zero."""
    return gradient
