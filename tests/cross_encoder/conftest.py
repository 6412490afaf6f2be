from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def reranker(tiny_reranker: Path) -> Any:
    """The tiny reranker, opened."""
    from ray_st import CrossEncoder

    return CrossEncoder(str(tiny_reranker), device="cpu")
