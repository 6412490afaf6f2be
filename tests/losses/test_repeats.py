"""A ranking loss that knows which texts are the same leaves repeats out of its negatives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from ray_st import losses


class Lookup(nn.Module):
    """Embeds each row by a table of its first token."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Parameter(torch.randn(20, 4, generator=generator, dtype=torch.float64))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        return {"sentence_embedding": self.table[features["input_ids"][:, 0]]}


def features(*columns: list[int], ids: bool = True) -> list[dict[str, Any]]:
    made = []
    for tokens in columns:
        column = torch.tensor(tokens)
        made.append({"input_ids": column[:, None], "attention_mask": torch.ones(len(tokens), 1)})
        if ids:
            made[-1]["text_id"] = column
    return made


def brute(model: Lookup, anchors: list[int], *docs: list[int], scale: float = 20.0) -> torch.Tensor:
    """Cross entropy over the positive and the candidates that are no repeats, row by row."""
    table = nn.functional.normalize(model.table, dim=1)
    rows = []
    for i, anchor in enumerate(anchors):
        kept = [table[anchor] @ table[docs[0][i]]]
        for c, column in enumerate(docs):
            for j, doc in enumerate(column):
                own_negative = c > 0 and j == i
                repeat = doc in (anchor, docs[0][i]) or anchors[j] == anchor
                if own_negative or (j != i and not repeat):
                    kept.append(table[anchor] @ table[doc])
        scores = scale * torch.stack(kept)
        rows.append(torch.logsumexp(scores, 0) - scores[0])
    return torch.stack(rows).mean()


CASES = [
    ([0, 1, 2, 3], [4, 5, 5, 6]),  # two rows share a positive
    ([0, 1, 0, 3], [4, 5, 6, 7]),  # two rows share an anchor
    ([0, 1, 2, 4], [4, 5, 6, 7]),  # an anchor is another row's positive
    ([0, 1, 2, 3], [4, 5, 5, 6], [7, 8, 9, 4]),  # a negative is another row's positive
]


@pytest.mark.parametrize("columns", CASES)
def test_repeats_are_no_negatives(columns: tuple[list[int], ...]) -> None:
    model = Lookup()
    loss = losses.MultipleNegativesRankingLoss(model)
    value = loss(features(*columns)).item()
    assert value == pytest.approx(brute(model, *columns).item(), abs=1e-10)
    assert value < loss(features(*columns, ids=False)).item()


@pytest.mark.parametrize(
    "kind", ["MultipleNegativesSymmetricRankingLoss", "CachedMultipleNegativesRankingLoss"]
)
def test_without_repeats_nothing_changes(kind: str) -> None:
    model = Lookup()
    loss = getattr(losses, kind)(model)
    columns = ([0, 1, 2, 3], [4, 5, 6, 7])
    with_ids, without = loss(features(*columns)).item(), loss(features(*columns, ids=False)).item()
    assert with_ids == pytest.approx(without, abs=1e-12)


def test_all_directions_leave_repeats_out() -> None:
    directions = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
    loss = losses.MultipleNegativesRankingLoss(Lookup(), directions=directions)
    assert loss(features([0, 0, 0], [4, 4, 4])).item() == pytest.approx(math.log(2), abs=1e-12)
