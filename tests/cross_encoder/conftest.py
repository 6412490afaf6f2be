from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_reranker(tiny_encoder: Path) -> Path:
    """A folder of a sequence classifier of one label: the tiny encoder with a random head, no dropout."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = tiny_encoder.parent / "reranker"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder, num_labels=1)
    with torch.no_grad():
        model.classifier.weight.mul_(10)  # else all scores are next to zero
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(folder)
    return folder


@pytest.fixture
def reranker(tiny_reranker: Path) -> Any:
    from ray_st import CrossEncoder

    return CrossEncoder(str(tiny_reranker), device="cpu")
