"""What tests of the older way to train share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ray_st import InputExample

WORDS = ["sunny", "weather", "good", "bad", "man", "eats", "pasta", "query", "document", "text", "word"]


def examples(n: int, start: float = 0.0) -> list[InputExample]:
    """Pairs of different texts, with scores."""
    return [
        InputExample(
            texts=[f"{WORDS[row % 11]} {row}", f"the {WORDS[(row * 3) % 11]} {WORDS[row % 7]} {row * row}"],
            label=(start + row * 0.37) % 1.0,
        )
        for row in range(n)
    ]


class Recorded(nn.Module):
    """A loss that notes its values."""

    def __init__(self, loss: nn.Module, seen: list[float]) -> None:
        super().__init__()
        self.loss, self.seen = loss, seen

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        value: Tensor = self.loss(features, labels)
        self.seen.append(float(value.detach()))
        return value


class Scores:
    """An evaluator with known figures, which notes the model that it saw."""

    primary_metric = "dev_score"

    def __init__(self, scores: list[float], greater_is_better: bool = True) -> None:
        self.scores, self.greater_is_better = scores, greater_is_better
        self.embeddings: list[Tensor] = []
        self.folders: list[str | None] = []

    def __call__(self, model: Any, output_path: str | None = None, **when: Any) -> dict[str, float]:
        self.folders.append(output_path)
        self.embeddings.append(torch.tensor(model.encode("good")))
        return {"dev_other": 0.0, self.primary_metric: self.scores[len(self.embeddings) - 1]}
