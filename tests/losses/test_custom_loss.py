"""The code of docs/custom-loss.md does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "custom-loss.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
TEXTS = ["the weather is good", "a man eats pasta", "sunny"], ["it is sunny", "the man eats", "bad text"]
LABELS = torch.tensor([1.0, 0.5, 0.0])


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    found: dict[str, Any] = {"__name__": "page"}
    for block in BLOCKS:
        exec(compile(block, str(PAGE), "exec"), found)
    return found


@pytest.fixture
def features(tiny_model: Any) -> list[dict[str, Any]]:
    return [tiny_model.tokenize(texts) for texts in TEXTS]


@pytest.mark.parametrize("block", BLOCKS[:2])
def test_a_new_loss_is_at_most_15_lines(block: str) -> None:
    assert len([line for line in block.splitlines() if line.strip()]) <= 15


def test_the_plain_module_and_the_base_agree(names: dict[str, Any], tiny_model: Any, features: Any) -> None:
    plain, based = names["SquaredDistance"](tiny_model), names["SquaredDistanceLoss"](tiny_model)
    values = [loss(features, LABELS) for loss in (plain, based)]
    torch.testing.assert_close(values[0], values[1])
    values[0].backward()
    assert plain.scale.grad is not None
    with pytest.raises(ValueError, match=r"SquaredDistanceLoss needs labels \(float score\)"):
        based(features)


def test_parts_and_modifiers(names: dict[str, Any], tiny_model: Any, features: Any) -> None:
    parts = names["SquaredDistanceAndSizeLoss"](tiny_model)
    value = parts(features, LABELS)
    torch.testing.assert_close(value["fit"], names["SquaredDistanceLoss"](tiny_model)(features, LABELS))
    around = names["matryoshka"](tiny_model)
    plain = around(features, LABELS)
    assert list(plain) == ["fit", "size"]
    around.loss.cache(mini_batch_size=2)
    for name, part in around(features, LABELS).items():
        torch.testing.assert_close(part, plain[name])
