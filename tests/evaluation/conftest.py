from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ray_st.testing import FakeModel


class PeerModel(FakeModel):
    """Speaks to the peer's evaluators, too."""

    def encode_query(self, texts: Sequence[str], **options: Any) -> Any:
        return self.encode(texts, **{**options, "prompt_name": options.get("prompt_name") or "query"})

    def encode_document(self, texts: Sequence[str], **options: Any) -> Any:
        return self.encode(texts, **{**options, "prompt_name": options.get("prompt_name") or "passage"})

    def eval(self) -> None:
        """Called by some of the peer's evaluators."""


@pytest.fixture
def model() -> FakeModel:
    return PeerModel()


@pytest.fixture
def make_model() -> type[FakeModel]:
    return PeerModel


@pytest.fixture
def peers(peer: Any) -> Any:
    """The peer's evaluators."""
    from sentence_transformers.sentence_transformer import evaluation

    return evaluation
