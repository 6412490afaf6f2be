from __future__ import annotations

from typing import Any

import numpy as np
import pytest


class StableNumpy:
    """numpy, but for ``argsort``, whose order of equal numbers depends on the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def argsort(self, values: Any) -> Any:
        return np.argsort(values, kind="stable")


@pytest.fixture
def peers(peer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The peer's evaluators of rerankers."""
    from sentence_transformers.cross_encoder import evaluation
    from sentence_transformers.cross_encoder.evaluation import reranking

    monkeypatch.setattr(reranking, "np", StableNumpy())
    return evaluation
