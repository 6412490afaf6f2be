from __future__ import annotations

from typing import Any

import pytest
import torch

from ray_st import util


def clouds(sizes: list[int], spread: float = 0.2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(len(sizes), 8, generator=generator)
    rows = torch.cat([centre.expand(size, -1) for centre, size in zip(centres, sizes, strict=True)])
    rows = rows + spread * torch.randn(rows.shape, generator=generator)
    return rows[torch.randperm(len(rows), generator=generator)]


def slow(rows: torch.Tensor, threshold: float, least: int) -> list[list[int]]:
    scores = util.cos_sim(rows, rows)
    close = [[j for j in range(len(rows)) if scores[i, j] >= threshold] for i in range(len(rows))]
    taken: set[int] = set()
    found = []
    for i in sorted(range(len(rows)), key=lambda i: (-len(close[i]), i)):
        members = sorted(set(close[i]) - taken, key=lambda j: (j != i, -scores[i, j], j))
        if i not in taken and len(close[i]) >= least and len(members) >= least:
            found.append(members)
            taken |= set(members)
    return sorted(found, key=len, reverse=True)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize(("threshold", "least"), [(0.75, 5), (0.9, 2), (0.3, 10), (0.75, 1)])
def test_communities_are_those_of_a_slow_search(batch_size: int, threshold: float, least: int) -> None:
    rows = clouds([20, 9, 4, 30, 1])
    found = util.community_detection(rows, threshold, least, batch_size)
    assert found == slow(rows, threshold, least)
    assert found


@pytest.mark.parametrize("options", [{}, {"threshold": 0.5, "min_community_size": 3}, {"batch_size": 16}])
def test_communities_are_the_peers(peer: Any, options: dict[str, Any]) -> None:
    rows = clouds([25, 40, 12, 3], spread=0.3, seed=3)
    assert util.community_detection(rows, **options) == peer.util.community_detection(rows, **options)


def test_any_form_of_embeddings() -> None:
    rows = clouds([12, 15])
    expected = util.community_detection(rows)
    for form in (torch.Tensor.numpy, list, torch.Tensor.tolist):
        assert util.community_detection(form(rows)) == expected


def test_copies_of_one_text_are_one_community() -> None:
    assert util.community_detection(torch.ones(30, 4), batch_size=7) == [[*range(30)]]


def test_nothing_to_find(capsys: pytest.CaptureFixture[str]) -> None:
    assert util.community_detection(torch.empty(0, 4)) == []
    assert util.community_detection(torch.ones(9, 4)) == []
    assert capsys.readouterr().err == ""
    assert util.community_detection(torch.eye(20), min_community_size=2, show_progress_bar=True) == []
    assert "Finding clusters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (torch.ones(3, 2), {"min_community_size": 0}, "min_community_size must be at least 1; got 0"),
        (torch.tensor([[1.0, 2.0], [torch.nan, 1.0]]), {}, "embedding 1 holds NaN"),
    ],
)
def test_bad_input(rows: torch.Tensor, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        util.community_detection(rows, **options)
