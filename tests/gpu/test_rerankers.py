"""A reranker on a device: the CPU's scores, without waiting for the device to be asked about padding."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from pretended_device import Syncs
from ray_st.models.reranker.cross_encoder import CrossEncoder
from reranker_folders import save_classifier, text_pairs

PAIRS = text_pairs(12)
KINDS = ["bert", "roberta", "modernbert", "qwen3"]
WAITS: dict[str, tuple[dict[str, Any], Counter[tuple[str, str]]]] = {
    "numpy": ({}, Counter({("util/tensors.py", "synchronize"): 4})),
    "tensor": ({"convert_to_tensor": True}, Counter()),
}
"""Four batches: each array is waited for while the device computes the next one."""


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_the_cpus(kind: str, side: str, device: torch.device, tmp_path: Path) -> None:
    folder = save_classifier(tmp_path, kind, side=side)
    expected = CrossEncoder(folder, device="cpu").predict(PAIRS, batch_size=5)
    found = CrossEncoder(folder, device=str(device)).predict(PAIRS, batch_size=5)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", WAITS)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", KINDS)
def test_waits_of_predict(kind: str, side: str, form: str, pretended: Syncs, tmp_path: Path) -> None:
    model = CrossEncoder(save_classifier(tmp_path, kind, side=side), device="cuda:0")
    options, expected = WAITS[form]
    pretended.take()
    model.predict(PAIRS, batch_size=3, **options)
    waits: Counter[tuple[str, str]] = Counter()
    for (kind_of_wait, place), count in pretended.take().items():
        waits[place.partition(":")[0], kind_of_wait] += count
    assert waits == expected
